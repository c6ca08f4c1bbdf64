"""What is shown of rows of a run: what was kept of them, and what was embedded.

The second is read again from the source, and only of the rows that are shown (`SourceRows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.errors import EmbedOpsError, StageError
from embed_ops.numerics.topk import Ints
from embed_ops.postprocessing.search import by_unit
from embed_ops.runs.columns import read_columns
from embed_ops.runs.rows import RunRows
from embed_ops.runs.source_rows import Reread, SourceRows
from embed_ops.schema import RESERVED, ROW, SOURCE
from embed_ops.sources.base import hive_columns
from embed_ops.sources.webdataset import KEY
from embed_ops.spec.source import SourceSpec
from embed_ops.spec.spec import Spec

LONGEST = 10_000
"""Characters of a text that are kept for being shown."""
MOST_ROWS, MOST_PICTURES = 10_000, 1_000
"""Rows for which the source is read unasked, and whose images are."""
_JOINED, _EMBEDDED = "text", "embedded text"
"""What a text that a template joins is called, and where the run keeps a column of that name."""
_NAMED = 2

Picture = Callable[[bytes | None], str | None]
"""Makes of the bytes of an image what a page shows of it."""


@dataclass(frozen=True)
class Shown:
    """Rows of a run as they are shown.

    Attributes:
        table: `row`, `_source`, `_row`, what was kept, and columns of the source.
        text: the column of it with what was embedded; None where there is none.
        pictures: of each of the first rows its image, as `picture` of `shown_of` has made it, None
            where that is not known; empty if not asked for.
        remarks: sentences about what could not be read.
    """

    table: pa.Table
    text: str | None = None
    pictures: Sequence[str | None] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class _Source:
    """What the source of a run can show, by the names that it has here.

    Attributes:
        text: the column with what was embedded; None where that is no text.
        beside: columns that tell which file an image is.
        images: whether images were embedded.
    """

    text: str | None = None
    beside: Sequence[str] = ()
    images: bool = False


def shown_of(
    rows: RunRows, ids: Ints, show: Sequence[str] | None = None, picture: Picture | None = None
) -> Shown:
    """Read what is shown of rows, in the order of their indexes.

    Args:
        rows: of the run.
        ids: row indexes.
        show: columns, kept ones or others of the source; by default what was kept and what was
            embedded.
        picture: makes of the bytes of an image what is shown of it; None: images are not read.

    Raises:
        StageError: there is no such column.
    """
    known = kept_columns(rows)
    others = [name for name in show or () if name not in known]
    table = kept_of(rows, ids, None if show is None else [name for name in show if name in known])
    root, header = rows.lineage[-1]
    try:
        spec = Spec.parse(header.spec).source
        reader = SourceRows(spec, root)
        has = _offered(reader, spec, known)
        if show is None:
            others = [*has.beside, *([has.text] if has.text and has.text not in known else [])]
        if show is None and len(table) > MOST_ROWS:
            told = f"texts are not read for more than {MOST_ROWS:,} rows; --show names columns to read"
            return Shown(_ordered(table, show, has.text), _within(has.text, table), remarks=[told])
        if not len(table) or not (others or (picture and has.images)):
            return Shown(_ordered(table, show, has.text), _within(has.text, table))
        return _with_source(reader, table, others, show, has, picture if has.images else None)
    except (EmbedOpsError, OSError, pa.ArrowException) as error:
        if show is not None and others:
            raise StageError(
                f"{root.path}: no column {others[0]!r} was kept; there are {', '.join(known) or 'none'}; and "
                f"the source has none to show: {error}"
            ) from error
        return Shown(_ordered(table, show), remarks=[f"rows are shown without what the source has: {error}"])


def _offered(reader: SourceRows, spec: SourceSpec, known: Sequence[str]) -> _Source:
    """Say what the source can show beside what was kept."""
    if not reader.has_contents:
        return _Source()
    if spec.modality == "image":
        name = KEY if spec.kind == "webdataset" else reader.reference
        return _Source(beside=[] if name is None or name in known else [name], images=True)
    if spec.modality == "tensor":
        return _Source()
    if spec.joined is None:
        return _Source(spec.contents)
    # A kept column of that name is another text.
    return _Source(_EMBEDDED if _JOINED in known else _JOINED)


def _with_source(
    reader: SourceRows,
    table: pa.Table,
    others: Sequence[str],
    show: Sequence[str] | None,
    has: _Source,
    picture: Picture | None,
) -> Shown:
    """Read columns and contents of the source, and put them to the rows."""
    places = list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True))
    names = [name for name in others if name != has.text]
    columns = reader.columns(names, places[0][0]) if names else pa.schema([])
    reread = reader.read(places if others else [], columns, _cut if has.text in others else None)
    for column in columns:
        values = [_as_shown(reread.columns[column.name].get(place)) for place in places]
        kind = pa.string() if pa.types.is_struct(column.type) else column.type
        table = table.append_column(column.name, pa.array(values, kind))
    if has.text is not None and has.text in others:
        texts = [reread.contents.get(place) for place in places]
        table = table.append_column(has.text, pa.array(texts, pa.string()))
    pictures: list[str | None] = []
    if picture is not None:
        places = places[:MOST_PICTURES]
        reread = reader.read(places, pa.schema([]), picture)
        pictures = [reread.contents.get(place) for place in places]
    remarks = _remarks(reread, len(dict.fromkeys(places)))
    return Shown(_ordered(table, show, has.text), _within(has.text, table), pictures, remarks)


def _ordered(table: pa.Table, show: Sequence[str] | None, text: str | None = None) -> pa.Table:
    """Put the columns into the order that was asked for; unasked, what was embedded comes first."""
    names = [name for name in table.column_names if name not in ("row", SOURCE, ROW)]
    names = sorted(names, key=lambda name: name != text) if show is None else list(dict.fromkeys(show))
    return table.select(["row", SOURCE, ROW, *(name for name in names if name in table.column_names)])


def _within(text: str | None, table: pa.Table) -> str | None:
    return text if text in table.column_names else None


def _remarks(reread: Reread, rows: int) -> list[str]:
    """Say once how many rows lack what the source has, and why."""
    if not reread.missing:
        return []
    told = [f"{source}: {why}" for source, why in list(reread.missing)[:_NAMED]]
    if len(reread.missing) > _NAMED:
        told.append(f"and {len(reread.missing) - _NAMED:,} more")
    lacking = sum(reread.missing.values())
    return [f"{lacking:,} of {rows:,} rows are shown without what the source has: {'; '.join(told)}"]


def _cut(value: Any) -> str | None:
    """Give a text of a length that can be shown; words are joined."""
    if isinstance(value, list):
        value = " ".join(word for word in value if word is not None)
    if not isinstance(value, str):
        return None
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."


def _as_shown(value: Any) -> Any:
    """Give a value without what can't be shown: bytes of an image, long texts."""
    if isinstance(value, Mapping):
        return value.get("path", str(dict(value))[:LONGEST])
    return _cut(value) if isinstance(value, str) else value


def lines_of(names: Iterable[Any], ids: Ints, scores: np.ndarray[Any, Any], shown: pa.Table) -> pa.Table:
    """Give a line for each query and row: query, rank, score, and what is shown of the row.

    Args:
        names: of the queries.
        ids: (queries, k) row indexes, -1 where there are fewer.
        scores: (queries, k).
        shown: the rows that there are, one query after the other.
    """
    listed = list(names)
    query, rank = np.nonzero(ids >= 0)
    table = pa.table(
        {
            "query": pa.array([listed[number] for number in query.tolist()]),
            "rank": pa.array(rank),
            "score": scores[query, rank],
        }
    )
    for name in shown.column_names:
        table = table.append_column(name, shown.column(name))
    return table


def kept_columns(rows: RunRows) -> list[str]:
    """Name what was kept of a run's rows: `key=value` folders, then columns."""
    stored = [name for name in rows.names(len(rows.lineage) - 1) if name not in RESERVED]
    folders = dict.fromkeys(key for record in rows.records for key in hive_columns(record.unit))
    return list(dict.fromkeys([*folders, *stored]))


def kept_of(rows: RunRows, ids: Ints, columns: Sequence[str] | None = None) -> pa.Table:
    """Read where rows come from and the columns that were kept of them.

    A row for each index, in their order.

    Args:
        rows: of the run.
        ids: row indexes.
        columns: kept columns and `key=value` folders; by default all.

    Raises:
        StageError: there is no such column.
    """
    root = rows.lineage[-1][0]
    stored = [name for name in rows.names(len(rows.lineage) - 1) if name not in RESERVED]
    folders = list(dict.fromkeys(key for record in rows.records for key in hive_columns(record.unit)))
    wanted = [*dict.fromkeys([*folders, *stored])] if columns is None else list(columns)
    unknown = [name for name in wanted if name not in stored and name not in folders]
    if unknown:
        raise StageError(
            f"{root.path}: no column {unknown[0]!r} was kept; there are "
            f"{', '.join([*folders, *stored]) or 'none'}"
        )
    parts, order = [], []
    for record, places, inside in by_unit(rows, ids):
        named = [SOURCE, ROW, *(name for name in wanted if name in stored)]
        table = read_columns(root, record.unit, named, record.rows).take(pa.array(inside))
        table = table.set_column(0, SOURCE, table.column(SOURCE).cast(pa.string()))
        for name in (name for name in wanted if name not in stored):
            table = table.append_column(
                name, pa.array([hive_columns(record.unit).get(name)] * len(table), pa.string())
            )
        parts.append(table)
        order.append(places)
    if not parts:
        kinds = {SOURCE: pa.string(), ROW: pa.int64()} | {
            name: rows.kind(name) if name in stored else pa.string() for name in wanted
        }
        return pa.schema([("row", pa.int64()), *kinds.items()]).empty_table()
    whole = pa.concat_tables(parts, promote_options="permissive").take(
        pa.array(np.argsort(np.concatenate(order), kind="stable"))
    )
    return whole.select([SOURCE, ROW, *wanted]).add_column(0, "row", pa.array(ids))
