"""The rows of a stage's run with the columns of the runs that it was made from.

A unit of a stage has the rows of its parent's unit, at the same places, and says which data file it
was made of. So columns are put side by side, unit by unit, and nothing is looked up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from embed_ops.runs.columns import open_unit, read_columns
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED
from embed_ops.runs.made_of import require_current
from embed_ops.runs.record import DATA, SUFFIX
from embed_ops.runs.rows import lineage_of
from embed_ops.storage.files import Location

_AHEAD = 4
"""Units that are read while one is used."""


class JoinedRows:
    """Rows of a stage's run, with the columns of its ancestors that it does not have itself.

    It answers as a pyarrow dataset does: `schema`, `files`, `to_table`, `to_batches`, `head`,
    `count_rows`. `to_reader` gives a record batch reader, and so does `__arrow_c_stream__`, for
    DuckDB, Polars and pandas. Rows are in the order of the files. At most a few units are held.

    Args:
        root: the run of a stage.
        own: its data files.

    Raises:
        RunError: an ancestor is not there, or has changed since.
    """

    def __init__(self, root: Location, own: pads.Dataset) -> None:
        self._own = own
        lineage = lineage_of(root)
        records = RunDir(root).manifest.read(timed=False)
        require_current(lineage, records, whole=lineage[0][1].status == FINISHED)
        self._data = f"{root.path.rstrip('/')}/{DATA}/"
        self._above = [above for above, _ in lineage[1:]]
        self._from: dict[str, int] = {}
        schema = own.schema.remove_metadata()
        units = [self._unit(file) for file in own.files]
        for number, above in enumerate(self._above if units else ()):
            for field in open_unit(above, units[0]).schema_arrow:
                if field.name not in schema.names:
                    schema = schema.append(field.remove_metadata())
                    self._from[field.name] = number
        self.schema: pa.Schema = schema
        """Its own columns, then those of its parent, and so on."""

    @property
    def files(self) -> list[str]:
        """The data files of the stage's run."""
        return list(self._own.files)

    def count_rows(self, filter: Any = None) -> int:
        """Count the rows, or those that a filter lets through."""
        if filter is None:
            return int(self._own.count_rows())
        return sum(len(batch) for batch in self.to_batches(columns=[], filter=filter))

    def to_batches(
        self,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        filter: Any = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream record batches, those of a unit one after the other.

        Args:
            columns: names, or expressions by name, as pyarrow's; by default all columns.
            filter: an expression of `pyarrow.dataset`.
        """
        for part in self._parts(columns, filter):
            yield from part.to_batches(columns=columns, filter=filter)

    def to_table(
        self,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        filter: Any = None,
    ) -> pa.Table:
        """Read all rows into memory; arguments as `to_batches`."""
        tables = [part.to_table(columns=columns, filter=filter) for part in self._parts(columns, filter)]
        return pa.concat_tables(tables) if tables else self._scanned(columns, filter).to_table()

    def head(self, rows: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the first rows."""
        taken: list[pa.Table] = []
        for part in self._parts(columns, None):
            taken.append(part.head(rows - sum(map(len, taken)), columns=columns))
            if sum(map(len, taken)) >= rows:
                break
        return pa.concat_tables(taken) if taken else self._scanned(columns, None).to_table()

    def to_reader(
        self,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        filter: Any = None,
    ) -> pa.RecordBatchReader:
        """Stream all rows to another program, once."""
        schema = self._scanned(columns, filter).projected_schema
        return pa.RecordBatchReader.from_batches(schema, self.to_batches(columns, filter))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream all rows to whatever takes Arrow."""
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def _scanned(self, columns: Any, filter: Any) -> pads.Scanner:
        return pads.dataset(self.schema.empty_table()).scanner(columns=columns, filter=filter)

    def _parts(self, columns: Any, filter: Any) -> Iterator[pads.Dataset]:
        """Yield the units, each as a dataset in memory with the columns that are needed."""
        # What is looked at is refused now, and not after the first unit.
        _ = self._scanned(columns, filter)
        plain = filter is None and columns is not None and not isinstance(columns, Mapping)
        names = self.schema.names if not plain else [name for name in self.schema.names if name in columns]
        fragments = self._own.get_fragments()
        with ThreadPoolExecutor(_AHEAD) as pool:
            ahead: list[Future[pa.Table]] = [
                pool.submit(self._unit_table, fragment, names)
                for fragment in itertools.islice(fragments, _AHEAD)
            ]
            while ahead:
                table = ahead.pop(0).result()
                ahead += [
                    pool.submit(self._unit_table, fragment, names)
                    for fragment in itertools.islice(fragments, 1)
                ]
                yield pads.dataset(table)

    def _unit(self, file: str) -> str:
        return file[file.index(self._data) + len(self._data) :].removesuffix(SUFFIX)

    def _unit_table(self, fragment: pads.Fragment, names: Sequence[str]) -> pa.Table:
        """Read some columns of a unit, from its own file and from those of its ancestors."""
        unit = self._unit(fragment.path)
        own = [name for name in names if name not in self._from]
        table = fragment.to_table(schema=self._own.schema, columns=own)
        for number, run in enumerate(self._above):
            theirs = [name for name in names if self._from.get(name) == number]
            if not theirs:
                continue
            part = read_columns(run, unit, theirs, len(table))
            for name in theirs:
                table = table.append_column(name, part.column(name))
        return table.select(list(names)).cast(pa.schema([self.schema.field(name) for name in names]))
