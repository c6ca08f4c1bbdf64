"""A record that was lost, made again from the unit's files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.runs.parquet import DAMAGE, read_footer
from embed_ops.runs.record import COUNTED, DATA, REJECTS, SUFFIX, Record, norms_of, reject_name, reject_unit
from embed_ops.runs.statistics import Statistics, statistics_of
from embed_ops.storage.files import Location, read_bytes


class Recovered(NamedTuple):
    """What was read back of a unit whose record was lost.

    Its record has the flag "recovered", and no seconds; the statistics are by vector column.
    """

    record: Record
    statistics: Statistics


def recover(root: Location, unit: str, fingerprint: str, attempt: str) -> Recovered | None:
    """Read a unit's files back to make the record that was lost.

    None where they are not whole, or not of this unit and of a run with this fingerprint (its
    digest): the unit is computed again.

    Raises:
        StorageError: they can't be read for a reason that is not in them.
    """
    try:
        return _recover(root, unit, fingerprint, attempt)
    except DAMAGE:
        return None


def _recover(root: Location, unit: str, fingerprint: str, attempt: str) -> Recovered | None:
    content = read_bytes(root.child(f"{DATA}/{unit}{SUFFIX}"))
    if content is None:
        return None
    file = pq.ParquetFile(pa.BufferReader(content))
    footer, table = read_footer(file.metadata), file.read()
    low, high = norms_of(table)
    named = footer["reject_file"]
    if named is not None and reject_unit(str(named)) != unit:
        return None  # Not the reject file of this unit: nothing is read by such a name.
    rejected = b"" if named is None else read_bytes(root.child(f"{REJECTS}/{named}"))
    if footer["unit"] != unit or footer["fingerprint"] != fingerprint or rejected is None:
        return None
    digest = hashlib.sha256(rejected).hexdigest()
    if named not in (None, reject_name(unit, digest)):
        return None
    following = footer["next"] or [None, None]
    record = Record(
        unit=unit,
        attempt=attempt,
        next_source=following[0],
        next_position=following[1],
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        min_norm=low,
        max_norm=high,
        made_of=footer.get("made_of"),
        flags=("recovered",),
        **{
            name: footer[name]
            for name in ("ranges", "rows", "rejects", "file_rejects", "filtered", "reject_file")
        },
        # A footer of an earlier version counts less.
        **{name: footer.get(name, 0) for name in COUNTED},
    )
    if named is not None:
        record = replace(record, reject_bytes=len(rejected), reject_sha256=digest)
    return Recovered(record, statistics_of(table))
