"""Questions to a run as a user puts them, and the rows that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.analysis.neighbors import Neighbors, neighbors
from embed_ops.analysis.recommend import Recommended, recommend
from embed_ops.analysis.shown import Picture, Shown, lines_of, shown_of
from embed_ops.analysis.tables import counted
from embed_ops.analysis.user_files import read_columns
from embed_ops.engine.progress import Reporter
from embed_ops.engine.session import OpenSession
from embed_ops.errors import SourceError, SpecError
from embed_ops.numerics.topk import Ints, Metric
from embed_ops.runs.rows import RunRows
from embed_ops.storage.location import locate

Nearest = TypeVar("Nearest", Neighbors, Recommended)


@dataclass(frozen=True)
class Queries:
    """What is asked: one of `texts`, `text_file`, `images` and `rows`.

    Attributes:
        texts: queries in words.
        text_file: a file with a query in each line.
        images: image files.
        rows: row numbers of the run, as "0,17,42".
        prompt: before texts, as of `neighbors`.
    """

    texts: Sequence[str] = ()
    text_file: Path | None = None
    images: Sequence[Path] = ()
    rows: str | None = None
    prompt: str | None = None

    def read(self) -> tuple[list[str], list[str] | list[bytes] | npt.NDArray[np.int64]]:
        """Give how the queries are shown, and themselves.

        Raises:
            SourceError: a file can't be read, or holds no query.
            SpecError: `rows` is no list of numbers.
        """
        if self.text_file is not None:
            texts = _lines(self.text_file)
            return texts, texts
        if self.images:
            try:
                return [file.name for file in self.images], [file.read_bytes() for file in self.images]
            except OSError as error:
                raise SourceError(f"--image: can't be read: {error}") from error
        if self.texts:
            return list(self.texts), list(self.texts)
        try:
            numbers = [int(part) for part in (self.rows or "").split(",")]
        except ValueError as error:
            raise SpecError(f"--rows {self.rows}: give indexes of rows, as 0,17,42") from error
        return [f"row {number}" for number in numbers], np.array(numbers, np.int64)


@dataclass(frozen=True)
class Search:
    """How rows are sought: arguments of `neighbors`, which see."""

    k: int = 10
    metric: Metric = "cosine"
    column: str | None = None
    probe: int | None = None


@dataclass(frozen=True)
class History:
    """Who had what, for recommendations.

    Attributes:
        file: Parquet or CSV, a line for each user and item.
        user: its column of users.
        item: its column of items, and the run's kept column with them.
        popularity: weight of how many users have an item.
        hold_out: leave an item of each user out, and judge by it.
    """

    file: Path
    user: str = "user"
    item: str = "item"
    popularity: float = 1.0
    hold_out: bool = False


@dataclass(frozen=True)
class Answer(Generic[Nearest]):
    """Rows for each query.

    Attributes:
        names: of the queries, as they are shown; `pictures`: of those that are images.
        shown: what is shown of the rows, one after the other.
        nearest: their indexes and scores.
    """

    names: list[str]
    shown: Shown
    nearest: Nearest
    pictures: Sequence[bytes] = ()

    def table(self) -> pa.Table:
        """Give a line for each query and row: query, rank, score, and what is shown."""
        return lines_of(self.names, self.nearest.ids, self.nearest.scores, self.shown.table)


def ask(
    run: str,
    queries: Queries,
    search: Search,
    show: Sequence[str] | None,
    session: OpenSession,
    reporter: Reporter,
    picture: Picture | None = None,
) -> Answer[Neighbors]:
    """Find the rows of a run that are nearest to queries.

    Args:
        run: address of the run, or of one of its stages.
        queries: what is asked.
        search: how.
        show: columns to give, kept ones or others of the source.
        session: opens the Ray session for runs of many rows.
        reporter: told what is done.
        picture: as in `shown_of`.

    Raises:
        RunError, StageError, ModelError, SpecError, SourceError: as `neighbors`, `Queries.read` and
            `shown_of`.
    """
    names, asked = queries.read()
    nearest = neighbors(
        run,
        asked,
        search.k,
        metric=search.metric,
        column=search.column,
        probe=search.probe,
        prompt=queries.prompt,
        session=session,
        reporter=reporter,
    )
    pictures = [query for query in asked if isinstance(query, bytes)] if queries.images else []
    return Answer(names, _shown(run, nearest.ids, show, reporter, picture), nearest, pictures)


def _shown(
    run: str, ids: Ints, show: Sequence[str] | None, reporter: Reporter, picture: Picture | None
) -> Shown:
    there = ids[ids >= 0]
    reporter.say(f"reading {counted(len(there), 'row')}")
    return shown_of(RunRows(locate(run)), there, show, picture)


def recommend_to_users(
    run: str,
    history: History,
    search: Search,
    show: Sequence[str] | None,
    session: OpenSession,
    reporter: Reporter,
    picture: Picture | None = None,
) -> Answer[Recommended]:
    """Recommend rows of a run to the users of a history; `show` and `picture` as in `ask`.

    Raises:
        SourceError: the file can't be read, or lacks a column.
        RunError, StageError: as `recommend` and `shown_of`.
    """
    users, items = (
        [str(value) for value in column.to_pylist()]
        for column in read_columns(
            history.file, (history.user, history.item), "--history", "; name yours by --user and --item"
        )
    )
    recommended = recommend(
        run,
        users,
        items,
        history.item,
        search.k,
        popularity=history.popularity,
        hold_out=history.hold_out,
        column=search.column,
        session=session,
        reporter=reporter,
    )
    return Answer(recommended.users, _shown(run, recommended.ids, show, reporter, picture), recommended)


def _lines(file: Path) -> list[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--texts: can't be read: {error}") from error
    if not lines:
        raise SourceError(f"--texts {file}: holds no line of text")
    return lines
