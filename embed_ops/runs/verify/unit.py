"""What `verify` asks of the files of a unit: whole, unchanged, every row once and in order."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.numerics.kinds import told
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import DAMAGE, read_footer
from embed_ops.runs.record import DATA, REJECTS, SUFFIX, Record
from embed_ops.runs.verify.stage import Places, places_of
from embed_ops.runs.verify.vectors import differences
from embed_ops.runs.verify.verification import Difference
from embed_ops.schema import FILE_LEVEL, REASON, ROW, SOURCE
from embed_ops.storage.files import read_bytes

_NO_REJECTS = pa.schema([(SOURCE, pa.string()), (ROW, pa.int64()), (REASON, pa.string())]).empty_table()


def check_unit(
    place: RunDir, record: Record, digest: str, lists: tuple[tuple[str, ...], ...]
) -> tuple[list[Difference], Places]:
    """Check the files of one unit against its record.

    Args:
        place: the run directory.
        record: of the unit.
        digest: of the run's fingerprint, which the footer must have.
        lists: columns of lists that belong together, as `lists_of` names them.

    Returns:
        the differences, and where the rows and rejects come from, in the order of the source.
    """
    name = f"{DATA}/{record.unit}{SUFFIX}"
    listed: list[Difference] = []
    try:
        rows, footer, changed = _read(place, name, record.bytes, record.sha256)
        listed += changed
        rejects, _, changed = _read_rejects(place, record)
        listed += changed
        of_rows, of_rejects = places_of(rows), places_of(rejects)
        return [
            *listed,
            *_check_footer(name, record, rows, footer, digest),
            *(Difference(name, what) for what in differences(rows, lists)),
            *_check_places(name, record, of_rows, of_rejects, _file_level(rejects)),
        ], sorted(of_rows + of_rejects, key=_order(record))
    except DAMAGE as error:
        return [*listed, Difference(name, f"can't be read: {error}")], []


def _check_footer(
    name: str, record: Record, rows: pa.Table, footer: Mapping[str, Any], digest: str
) -> list[Difference]:
    """Compare what the footer of a data file says with its record and with its rows."""
    expected: dict[str, Any] = {
        "unit": record.unit,
        "fingerprint": digest,
        "reject_file": record.reject_file,
        "rows": record.rows,
        "outputs": told(rows.schema),
    }
    listed = [
        Difference(name, f"footer says {key} = {footer.get(key)!r}, should be {value!r}")
        for key, value in expected.items()
        if footer.get(key) != value
    ]
    if len(rows) != record.rows:
        listed.append(Difference(name, f"has {len(rows)} rows, its record {record.rows}"))
    return listed


def _read(
    place: RunDir, name: str, size: int, digest: str | None
) -> tuple[pa.Table, dict[str, Any], list[Difference]]:
    content = read_bytes(place.root.child(name))
    if content is None:
        raise OSError("the file is not there")
    changed = []
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        changed.append(
            Difference(
                name,
                f"changed since it was written: {len(content)} bytes with another sha256 than the {size} "
                "recorded",
            )
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        return file.read(), read_footer(file.metadata), changed
    except DAMAGE as error:
        raise OSError(f"changed since it was written, and no longer readable: {error}") from error


def _read_rejects(place: RunDir, record: Record) -> tuple[pa.Table, dict[str, Any], list[Difference]]:
    if record.reject_file is None:
        return _NO_REJECTS, {}, []
    return _read(place, f"{REJECTS}/{record.reject_file}", record.reject_bytes, record.reject_sha256)


def _file_level(rejects: pa.Table) -> int:
    return sum(reason in FILE_LEVEL for reason in rejects.column(REASON).to_pylist())


def _order(record: Record) -> Any:
    rank = {part["source"]: index for index, part in enumerate(record.ranges)}
    return lambda where: (rank.get(where[0], -1), where[1])


def _check_places(
    name: str, record: Record, rows: Places, rejects: Places, file_level: int
) -> list[Difference]:
    """Check that rows and rejects are in source order, inside the unit, and there once each."""
    listed: list[Difference] = []
    order = _order(record)
    for what, places in (("rows", rows), ("rejects", rejects)):
        keys = [order(where) for where in places]
        if any(left >= right for left, right in itertools.pairwise(keys)):
            listed.append(Difference(name, f"{what} are not in source order, or one stands twice"))
    inside = {part["source"]: (part["begin"], part["end"]) for part in record.ranges}
    outside = [where for where in rows + rejects if not _within(where, inside)]
    if outside:
        listed.append(
            Difference(name, f"row {outside[0][1]} of {outside[0][0]} does not belong to this unit")
        )
    both = set(rows) & set(rejects)
    if both:
        where = min(both)
        listed.append(Difference(name, f"row {where[1]} of {where[0]} is embedded and rejected"))
    records = sum(part["records"] for part in record.ranges)
    counted = len(rows) + len(rejects) - file_level + record.filtered
    if counted != records:
        listed.append(
            Difference(name, f"{records} records were read, but rows + rejects + filtered = {counted}")
        )
    return listed


def _within(where: tuple[str, int], inside: Mapping[str, tuple[int, int]]) -> bool:
    begin, end = inside.get(where[0], (0, -1))
    return begin <= where[1] <= end
