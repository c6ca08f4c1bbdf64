"""The manifest: the records of the units that are done, in parts that are only ever added."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embed_ops.errors import RunError, StorageError
from embed_ops.runs.names import require_inside, require_own_rejects
from embed_ops.runs.parquet import reading
from embed_ops.runs.record import MANIFEST, MANIFEST_SCHEMA, REMOVED, SUFFIX, Record, records_of
from embed_ops.runs.statistics import METADATA_KEY, Statistics, VectorStatistics, dump, load, merged
from embed_ops.storage.files import Location, publish, read_bytes, walk

_THREADS = 16
_PART = re.compile(rf"\d{{8,}}-[0-9a-f]{{8}}{re.escape(SUFFIX)}")
_ALWAYS = ("unit", "attempt", "ranges", "rows", "rejects", "file_rejects", "filtered", "bytes", "sha256")
"""Columns that every record of every version has."""
_REPAIR = "delete it: its records are read back from data/"


class Manifest:
    """The parts below `manifest/` of a run directory, each a Parquet file of `MANIFEST_SCHEMA`."""

    def __init__(self, root: Location) -> None:
        """Take the run directory; nothing is read yet, and the next part is the first."""
        self._root = root
        self._next = 0

    def read(self, *, timed: bool = True) -> dict[str, Record]:
        """Read all parts: the latest record of each unit, by the unit's name.

        Args:
            timed: with the seconds of each unit, which are a third of what records take in memory.

        Raises:
            RunError: a part can't be read, or names files that are not the run's.
        """
        records: dict[str, Record] = {}
        names = self._names()
        # Small files, many at once: each costs a store its time to answer. Not all at once: they
        # are read faster than taken in.
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(names), _THREADS):
                for part in pool.map(self._read_part, names[first : first + _THREADS]):
                    for record in records_of(part, timed=timed):
                        if REMOVED in record.flags:
                            records.pop(record.unit, None)
                        else:
                            records[record.unit] = record
        self._next = max((int(name.partition("-")[0]) for name in names), default=-1) + 1
        return records

    def statistics(self) -> dict[str, VectorStatistics]:
        """Add up the statistics of all parts, by vector column.

        Those of a unit that was written twice count twice.

        Raises:
            RunError: a part can't be read.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            contents = pool.map(lambda name: read_bytes(self._place(name)), self._names())
            with reading(f"{self._root.path}/{MANIFEST}", _REPAIR):
                texts = (
                    pq.read_schema(pa.BufferReader(content)).metadata
                    for content in contents
                    if content is not None
                )
                return merged(load(text[METADATA_KEY]) for text in texts if text and METADATA_KEY in text)

    def append(self, records: Iterable[Record], attempt: str, statistics: Statistics | None = None) -> None:
        """Write records, and the statistics of their vectors, as the next part; none, no part."""
        rows = [asdict(record) for record in records]
        if not rows:
            return
        sink = pa.BufferOutputStream()
        schema = MANIFEST_SCHEMA.with_metadata({METADATA_KEY: dump(statistics)} if statistics else None)
        pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
        name = f"{MANIFEST}/{self._next:08d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        publish(self._root, name, sink.getvalue(), attempt)
        self._next += 1

    def _names(self) -> list[str]:
        """List the parts; what else lies there is none of ours."""
        return sorted(name for name, _ in walk(self._root, MANIFEST) if _PART.fullmatch(name))

    def _place(self, name: str) -> Location:
        return self._root.child(f"{MANIFEST}/{name}")

    def _read_part(self, name: str) -> pa.Table:
        place = self._place(name)
        content = read_bytes(place)
        if content is None:
            raise StorageError(
                f"{place.path}: is listed and can't be found: another command may be at work here; run again"
            )
        with reading(place.path, _REPAIR):
            part = pq.read_table(pa.BufferReader(content), schema=MANIFEST_SCHEMA)
        lacking = [column for column in _ALWAYS if part.column(column).null_count]
        if lacking:
            raise RunError(f"{place.path}: is no part of a manifest: a record has no {lacking[0]}; {_REPAIR}")
        sources = pc.struct_field(pc.list_flatten(part.column("ranges")), "source")
        for what, names in (("unit", part.column("unit")), ("source file", sources)):
            require_inside(names, place.path, what, _REPAIR)
        require_own_rejects(part, place.path, _REPAIR)
        return part
