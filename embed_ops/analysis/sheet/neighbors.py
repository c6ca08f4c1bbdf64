"""The page that `neighbors --html` writes: the rows of each query, with texts or thumbnails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embed_ops.analysis.neighbors import Neighbors
from embed_ops.analysis.queries import Answer
from embed_ops.analysis.recommend import Recommended
from embed_ops.analysis.sheet.render import thumbnail, write_sheet
from embed_ops.analysis.shown import MOST_PICTURES
from embed_ops.schema import ROW, SOURCE

_LONGEST = 2_000
"""Characters of a value that a page has."""


@dataclass(frozen=True)
class Hit:
    """One row: its score, its columns as (name, value), and where it comes from."""

    score: str
    row: int
    source: str
    columns: list[tuple[str, str]]
    picture: str | None = None


@dataclass(frozen=True)
class Query:
    """A query, its picture if it is one, and its rows, best first."""

    name: str
    picture: str | None
    rows: list[Hit]


def write_answer(path: str, run: str, answer: Answer[Neighbors] | Answer[Recommended]) -> None:
    """Write the page of an answer: of the first thousand rows.

    Args:
        path: of the page.
        run: address of the run, for the heading.
        answer: the rows, with their thumbnails where images were embedded.

    Raises:
        PackageError: Jinja2 is not installed.
        StorageError: it can't be written.
    """
    shown = answer.shown
    names = [name for name in shown.table.column_names if name not in ("row", ROW, SOURCE)]
    rows = int((answer.nearest.ids >= 0).sum())
    more = f", of {rows:,} the first {MOST_PICTURES:,}" if rows > MOST_PICTURES else ""
    asked = "query" if len(answer.names) == 1 else "queries"
    write_sheet(
        path,
        "neighbors.html",
        title=f"nearest rows of {run}",
        subtitle=f"{len(answer.names):,} {asked}, {min(rows, MOST_PICTURES):,} rows{more}",
        remarks=shown.remarks,
        queries=_queries(answer, names),
        columns=names,
        text=shown.text,
        pictures=bool(shown.pictures),
    )


def _queries(answer: Answer[Neighbors] | Answer[Recommended], names: list[str]) -> list[Query]:
    queries: list[Query] = []
    first = 0
    for number, name in enumerate(answer.names):
        count = int((answer.nearest.ids[number] >= 0).sum())
        part = answer.shown.table.slice(first, min(count, MOST_PICTURES - first)).to_pylist()
        hits = [
            Hit(
                f"{answer.nearest.scores[number, rank]:.4f}",
                row["row"],
                f"{row[SOURCE]}:{row[ROW]}",
                [(column, _short(row[column])) for column in names],
                answer.shown.pictures[first + rank] if answer.shown.pictures else None,
            )
            for rank, row in enumerate(part)
        ]
        picture = thumbnail(answer.pictures[number]) if answer.pictures else None
        queries.append(Query(name, picture, hits))
        first += count
        if first >= MOST_PICTURES:
            break
    return queries


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
