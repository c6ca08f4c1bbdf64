"""Retry: which rejects are read again, and how what they became is merged back in source order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import StorageError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import read_footer, read_table, reading
from embed_ops.runs.record import COUNTED, DATA, REJECTS, RETRIED, SUFFIX, Record
from embed_ops.runs.work import Again, Work
from embed_ops.schema import FILE_LEVEL, REASON, ROW, SOURCE
from embed_ops.sources.plan import Piece, Plan, Span
from embed_ops.storage.files import open_file


def in_source_order(table: pa.Table, ranges: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Sort a unit's rows by source file, in the order of its ranges, then by position."""
    rank = {part["source"]: place for place, part in enumerate(ranges)}
    places = zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True)
    keys = [(rank[source], row) for source, row in places]
    if keys == sorted(keys):
        return table.combine_chunks()
    return table.take(pa.array(sorted(range(len(keys)), key=keys.__getitem__), pa.int64())).combine_chunks()


def retry_work(run: RunDir, plan: Plan, records: Iterable[Record]) -> list[Work]:
    """List the work that reads every reject again, unit by unit."""
    planned = {(piece.source, piece.begin): piece for span in plan.spans for piece in span.pieces}
    works = []
    for index, record in enumerate(records):
        if record.reject_file is None:
            continue
        table, _ = read_table(run.root, f"{REJECTS}/{record.reject_file}", [SOURCE, ROW, REASON])
        singles: dict[str, set[int]] = {}
        tails: dict[str, int] = {}
        for source, row, reason in zip(
            *(table.column(name).to_pylist() for name in (SOURCE, ROW, REASON)), strict=True
        ):
            if reason in FILE_LEVEL:
                tails[source] = row
            else:
                singles.setdefault(source, set()).add(row)
        again = {
            source: Again(frozenset(singles.get(source, ())), tails.get(source))
            for source in {*singles, *tails}
        }
        pieces = tuple(_piece(part, again, planned) for part in record.ranges)
        works.append(Work(Span(index, pieces), retry=again, replaces=record.reject_file))
    return works


def _piece(
    part: Mapping[str, Any], again: Mapping[str, Again], planned: Mapping[tuple[str, int], Piece]
) -> Piece:
    end: int | None = part["end"]
    if again.get(part["source"], Again()).tail is not None:
        # The end of what could not be read is known from the plan, if at all.
        whole = [
            piece
            for (source, begin), piece in planned.items()
            if source == part["source"] and begin <= part["begin"]
        ]
        end = max(whole, key=lambda piece: piece.begin).end
    return Piece(part["source"], part["begin"], end, None, 0)


def rows_again(table: pa.Table, again: Mapping[str, Again]) -> pa.Table:
    """Keep the rows of a unit that are to be read again.

    Raises:
        StorageError: not all of them can be reached: the file reads worse than it did.
    """
    places = list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True))
    keep = [again.get(source, Again()).has(row) for source, row in places]
    missing = {(source, row) for source, rows in again.items() for row in rows.rows} - set(places)
    if missing:
        source, row = min(missing)
        raise StorageError(
            f"{source}: row {row} can't be reached, though it was read before; restore the file and run "
            "`retry` again"
        )
    return table.filter(pa.array(keep, pa.bool_()))


def merge(run: RunDir, data: pa.Table, record: Record) -> tuple[pa.Table, Record]:
    """Put rows that were embedded on retry among those of the unit's data file.

    Returns:
        the rows in source order, and the record with the whole unit's counts and its place in the
        chain.
    """
    old, footer = read_table(run.root, f"{DATA}/{record.unit}{SUFFIX}")
    following = footer["next"] or [None, None]
    sums = {name: footer.get(name, 0) + getattr(record, name) for name in COUNTED}
    merged = replace(record, **sums, next_source=following[0], next_position=following[1], flags=(RETRIED,))
    return in_source_order(pa.concat_tables([old, data.cast(old.schema)]), record.ranges), merged


def merged_before(run: RunDir, unit: str, replaces: str) -> bool:
    """Tell whether a unit's files are newer than the rejects that were read, `replaces`.

    A worker died after it had merged them.
    """
    place = run.root.child(f"{DATA}/{unit}{SUFFIX}")
    with reading(place.path), open_file(place) as opened:
        return bool(read_footer(pq.read_metadata(opened))["reject_file"] != replaces)
