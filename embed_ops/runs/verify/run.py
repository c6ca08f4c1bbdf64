"""Verify: law 1 and the checksums, proved from the run's files.

With the source at hand, recounted there too.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.numerics.kinds import told
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of
from embed_ops.runs.ledger import ANY_UNITS, chain, take_stock
from embed_ops.runs.parquet import read_footer
from embed_ops.runs.record import DATA, REJECTS, SUFFIX, Record
from embed_ops.runs.run import Run
from embed_ops.runs.verify.stage import Places, against_parent, places_of, positions_differ
from embed_ops.runs.verify.vectors import differences, lists_of
from embed_ops.schema import FILE_LEVEL, REASON, ROW, SOURCE
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Piece, Plan, compare
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor
from embed_ops.storage.files import read_bytes, walk

_THREADS = 4


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be: the file or unit, and what was found."""

    file: str
    found: str


@dataclass
class Verification:
    """What was counted, and every difference."""

    units: int = 0
    rows: int = 0
    rejects: int = 0
    filtered: int = 0
    records: int = 0
    source: bool = False
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the run is complete and unchanged."""
        return not self.differences


def verify(path: str, *, source: bool = False) -> Verification:
    """Check a run: every planned row once, in order, in files that are what their records and footers say.

    Args:
        path: run directory.
        source: also read the source again and compare every row position.

    Raises:
        RunError: there is no run at `path`.
    """
    run = Run(path)
    place = RunDir.at(path)
    corpus = Corpus.open(run.spec.source) if source and not run.is_stage else None
    roots = corpus.roots if corpus is not None else _nominal_roots(run, place)
    plan = place.read_plan(roots)
    records = place.read_manifest()
    result = Verification(source=source)
    if run.is_stage:
        result.differences += [Difference(*found) for found in against_parent(place, run, records)]
    if run.status != "finished":
        result.differences.append(Difference("run.json", f"the run is {run.status}, not finished"))
    listed = {name for name, _ in walk(place.root, DATA)}
    stock = take_stock(plan, records, ANY_UNITS)
    chained, broken = _check_chains(plan, records, listed, result)
    # Behind a missing unit of a chain the others still count: they are found once it is computed
    # again.
    found_once = [
        record.unit
        for record in stock.done
        if record.unit in chained or record.unit.rpartition(".")[0] in broken
    ]
    planned = {f"{unit}{SUFFIX}" for unit in found_once}
    result.differences += [
        Difference(f"{DATA}/{name}", "no unit of the plan has this file") for name in sorted(listed - planned)
    ]
    named = {record.reject_file for record in stock.done}
    # Where units are missing, their reject files may stand already: they are written first.
    unnamed = (
        [] if stock.works else sorted(name for name, _ in walk(place.root, REJECTS) if name not in named)
    )
    result.differences += [
        Difference(f"{REJECTS}/{name}", "no data file names this reject file") for name in unnamed
    ]
    places: dict[str, Places] = {}
    digest = digest_of(run.header["fingerprint"])
    lists = () if run.is_stage else lists_of(run.spec.encoder)

    def check(record: Record) -> tuple[Record, list[Difference], Places]:
        return (record, *_check_unit(place, record, digest, lists))

    with ThreadPoolExecutor(_THREADS) as pool:
        for record, found, rows in pool.map(
            check, [record for record in stock.done if f"{record.unit}{SUFFIX}" in listed]
        ):
            result.differences += found
            result.units += 1
            result.rows += record.rows
            result.rejects += record.rejects + record.file_rejects
            result.filtered += record.filtered
            result.records += sum(part["records"] for part in record.ranges)
            if source:
                places[record.unit] = rows
    if run.is_stage and source:
        result.differences += [Difference(*found) for found in positions_differ(place, run, places)]
    if corpus is not None:
        _check_source(corpus, plan, records, places, result)
    return result


def _nominal_roots(run: Run, place: RunDir) -> tuple[Any, ...]:
    """Stand-ins for the source roots.

    Without `--source` the source is not looked at and may be gone.
    """
    return (place.root,) if run.is_stage else tuple(place.root for _ in run.spec.source.paths)


def _check_chains(
    plan: Plan, records: Mapping[str, Record], listed: set[str], result: Verification
) -> tuple[set[str], set[str]]:
    """Follow every span from unit to unit: none is missing, and their ranges tile the pieces.

    Returns:
        the units met, and the source files whose chain breaks.
    """
    met: set[str] = set()
    broken: set[str] = set()
    for span in plan.spans:
        ranges: list[dict[str, Any]] = []
        file_rejects = 0
        for item in chain(span, records):
            unit = item if isinstance(item, str) else item.unit
            if isinstance(item, str):
                result.differences.append(
                    Difference(f"{DATA}/{unit}{SUFFIX}", "missing: no record of this unit")
                )
                broken |= {piece.source for piece in span.pieces}
                break
            met.add(unit)
            if f"{unit}{SUFFIX}" not in listed:
                result.differences.append(
                    Difference(f"{DATA}/{unit}{SUFFIX}", "missing: the file is not there")
                )
            ranges += item.ranges
            file_rejects += item.file_rejects
        else:
            for piece in span.pieces:
                found = _untiled(
                    piece, [part for part in ranges if part["source"] == piece.source], file_rejects > 0
                )
                if found:
                    result.differences.append(Difference(piece.source, found))
    return met, broken


def _untiled(piece: Piece, ranges: list[dict[str, Any]], unreadable: bool) -> str | None:
    """Say where the ranges of the units leave a gap in a piece or overlap.

    None where they tile it.
    """
    position = piece.begin
    for part in ranges:
        if part["begin"] != position:
            return f"the units jump from {position} to {part['begin']}"
        position = part["end"]
    if piece.end is not None and position != piece.end:
        return f"the units end at {position}, the plan at {piece.end}"
    counted = sum(part["records"] for part in ranges)
    if piece.rows is not None and counted != piece.rows and not unreadable:
        return f"the units hold {counted} records, the plan {piece.rows}"
    return None


def _check_unit(
    place: RunDir, record: Record, digest: str, lists: tuple[tuple[str, ...], ...]
) -> tuple[list[Difference], Places]:
    """Check the files of one unit, and list where its rows and rejects come from, in order."""
    name = f"{DATA}/{record.unit}{SUFFIX}"
    try:
        data, footer, found = _read(place, name, record.bytes, record.sha256)
        rejects, _, more = _read_rejects(place, record)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        return [Difference(name, f"can't be read: {error}")], []
    found = found + more
    expected: dict[str, Any] = {
        "unit": record.unit,
        "fingerprint": digest,
        "reject_file": record.reject_file,
        "rows": record.rows,
    }
    if "outputs" in footer:  # files of before kinds stood there are fine without
        expected["outputs"] = told(data.schema)
    found += [
        Difference(name, f"footer says {key} = {footer.get(key)!r}, should be {value!r}")
        for key, value in expected.items()
        if footer.get(key) != value
    ]
    if len(data) != record.rows:
        found.append(Difference(name, f"has {len(data)} rows, its record {record.rows}"))
    found += [Difference(name, what) for what in differences(data, lists)]
    of_rows, of_rejects = places_of(data), places_of(rejects)
    found += _check_places(name, record, of_rows, of_rejects, _file_level(rejects))
    return found, sorted(of_rows + of_rejects, key=_order(record))


def _read(
    place: RunDir, name: str, size: int, digest: str | None
) -> tuple[pa.Table, dict[str, Any], list[Difference]]:
    content = read_bytes(place.root.child(name))
    if content is None:
        raise OSError("the file is not there")
    found = []
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        found.append(
            Difference(
                name,
                f"changed since it was written: {len(content)} bytes with another sha256 than the {size} "
                "recorded",
            )
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        return file.read(), read_footer(file.metadata), found
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise OSError(f"changed since it was written, and no longer readable: {error}") from error


def _read_rejects(place: RunDir, record: Record) -> tuple[pa.Table, dict[str, Any], list[Difference]]:
    if record.reject_file is None:
        return (
            pa.table(
                {
                    SOURCE: pa.array([], pa.string()),
                    ROW: pa.array([], pa.int64()),
                    REASON: pa.array([], pa.string()),
                }
            ),
            {},
            [],
        )
    return _read(place, f"{REJECTS}/{record.reject_file}", record.reject_bytes, record.reject_sha256)


def _file_level(rejects: pa.Table) -> int:
    return sum(reason in FILE_LEVEL for reason in rejects.column(REASON).to_pylist())


def _order(record: Record) -> Any:
    rank = {part["source"]: index for index, part in enumerate(record.ranges)}
    return lambda where: (rank.get(where[0], -1), where[1])


def _check_places(
    name: str, record: Record, rows: Places, rejects: Places, file_level: int
) -> list[Difference]:
    """Check that rows and rejects are in source order, inside the unit, none twice, none missing."""
    found: list[Difference] = []
    order = _order(record)
    for what, places in (("rows", rows), ("rejects", rejects)):
        keys = [order(where) for where in places]
        if any(left >= right for left, right in itertools.pairwise(keys)):
            found.append(Difference(name, f"{what} are not in source order, or one stands twice"))
    inside = {part["source"]: (part["begin"], part["end"]) for part in record.ranges}
    outside = [where for where in rows + rejects if not _within(where, inside)]
    if outside:
        found.append(Difference(name, f"row {outside[0][1]} of {outside[0][0]} does not belong to this unit"))
    both = set(rows) & set(rejects)
    if both:
        where = min(both)
        found.append(Difference(name, f"row {where[1]} of {where[0]} is embedded and rejected"))
    records = sum(part["records"] for part in record.ranges)
    counted = len(rows) + len(rejects) - file_level + record.filtered
    if counted != records:
        found.append(
            Difference(name, f"{records} records were read, but rows + rejects + filtered = {counted}")
        )
    return found


def _within(where: tuple[str, int], inside: Mapping[str, tuple[int, int]]) -> bool:
    begin, end = inside.get(where[0], (0, -1))
    return begin <= where[1] <= end


def _check_source(
    corpus: Corpus,
    plan: Plan,
    records: Mapping[str, Record],
    places: Mapping[str, Places],
    result: Verification,
) -> None:
    """Read the source again and compare every position with the run."""
    changes = compare(plan, corpus.files)
    result.differences += [Difference(name, f"source file {what}") for name, what in changes.changed.items()]
    if corpus.spec.most_rows is None:
        result.differences += [
            Difference(name, "source file is new: it is not in this run") for name in changes.new
        ]
    at = {file.name: corpus.place(file) for file in corpus.files}
    for span in plan.spans:
        if any(piece.source in changes.changed for piece in span.pieces):
            continue
        cursor = Cursor(corpus.source, Rows(corpus.spec, plan.columns), at, span)
        for item in chain(span, records):
            if isinstance(item, str) or item.unit not in places:
                break
            found = list(_positions(cursor, item))
            if found != places[item.unit]:
                result.differences.append(
                    Difference(f"{DATA}/{item.unit}{SUFFIX}", _first_difference(found, places[item.unit]))
                )


def _positions(cursor: Cursor, record: Record) -> Iterator[tuple[str, int]]:
    """Read the positions of a unit's rows from the source.

    The cursor stands where the unit begins.
    """
    for part in record.ranges:
        while cursor.piece.source != part["source"]:
            cursor.next_piece()
        while (chunk := cursor.peek()) is not None:
            # The mark of an unreadable rest stands at the end of its range, and there the next unit
            # may begin.
            of_next = (record.next_source, record.next_position) == (part["source"], cursor.position)
            count = (
                int(np.searchsorted(chunk.positions, part["end"])) if chunk.is_record else int(not of_next)
            )
            if count == 0:
                break
            taken = cursor.take(count)
            for position in taken.positions[taken.kept].tolist():
                yield part["source"], position


def _first_difference(source: Places, run: Places) -> str:
    missing, extra = sorted(set(source) - set(run)), sorted(set(run) - set(source))
    parts = (
        [
            f"{len(missing)} rows of the source are not in it, the first is row {missing[0][1]} of "
            f"{missing[0][0]}"
        ]
        if missing
        else []
    )
    parts += (
        [f"{len(extra)} rows in it are not in the source, the first is row {extra[0][1]} of {extra[0][0]}"]
        if extra
        else []
    )
    return "; ".join(parts) or "the rows are in another order than in the source"
