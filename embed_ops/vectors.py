"""The vectors of a finished run, by position: which file has which row, and stretches of rows as arrays.

The rows of a run have a global index: its units in the order of the plan, their rows in the order of the files. A stage's
run has the units and rows of its input, so a column it lacks is read from an ancestor, at the same place.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import RunError, StageError
from embed_ops.filesystem import Location, open_file
from embed_ops.ledger import ANY_UNITS, take_stock
from embed_ops.record import DATA, SUFFIX, Record
from embed_ops.run_dir import RunDir
from embed_ops.schema import ROW, SOURCE
from embed_ops.sinks.parquet import holds_vectors, vectors_of
from embed_ops.sources.base import hive_columns
from embed_ops.stages.base import BLOCK_ROWS, Ints, Vectors

_FLOATS = (pa.float16(), pa.float32(), pa.float64())


@dataclass(frozen=True)
class Holder:
    """Where a column is: the run whose data files have it, and its type."""

    run: Location
    column: str
    kind: pa.DataType

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return int(self.kind.list_size)


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a run: (unit, first row in it, row behind the last) each, and the global index of the first."""

    first: int
    parts: tuple[tuple[str, int, int], ...]


class RunRows:
    """A finished run, its units and rows in order, and where its columns and those of its ancestors are.

    Raises:
        RunError: there is no run, it is not finished, or an ancestor is missing.
    """

    def __init__(self, root: Location) -> None:
        self.root = root
        self.lineage = _lineage(root)
        header = self.lineage[0][1]
        place = RunDir(root)
        records = place.read_manifest(timed=False)
        stock = take_stock(place.read_plan([root] * MOST_ROOTS), records, ANY_UNITS)
        if header["status"] != "finished" or stock.works:
            missing = f", {len(stock.works)} spans lack units" if stock.works else ""
            raise RunError(f"{root.path}: the run is {header['status']}{missing}; run its command again to finish it")
        self.records: tuple[Record, ...] = stock.done
        self.starts = [0, *itertools.accumulate(record.rows for record in self.records)]
        self._schemas: dict[int, pa.Schema] = {}

    @property
    def rows(self) -> int:
        """Rows of the run."""
        return self.starts[-1]

    @property
    def content(self) -> str:
        """Digest of what the run holds: names and checksums of its units."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(f"{record.unit} {record.sha256}\n".encode())
        return digest.hexdigest()[:16]

    def stretch(self, first: int, end: int) -> Stretch:
        """Give the rows from one global index to another."""
        found = []
        for number in range(max(0, bisect.bisect_right(self.starts, first) - 1), len(self.records)):
            begin, stop = max(first, self.starts[number]), min(end, self.starts[number + 1])
            if self.starts[number] >= end:
                break
            if begin < stop:
                found.append((self.records[number].unit, begin - self.starts[number], stop - self.starts[number]))
        return Stretch(first, tuple(found))

    def vector(self, column: str | None) -> Holder:
        """Find a vector column: the named one, or the only one of the nearest run in the lineage that has any.

        Raises:
            StageError: there is none, several and none is named, or it holds no floats.
        """
        if column is not None:
            return _checked(self.holder(column))
        for number, (root, _) in enumerate(self.lineage):
            found = [name for name in self._schema(number).names if _is_vector(self._schema(number).field(name).type)]
            if len(found) > 1:
                raise StageError(f"{root.path}: has several vector columns ({', '.join(found)}): say which with `column`")
            if found:
                return _checked(Holder(root, found[0], self._schema(number).field(found[0]).type))
        lists = [name for number in range(len(self.lineage)) for name in self._schema(number).names if self._holds_lists(number, name)]
        if lists:
            raise StageError(f"{self.root.path}: has lists of vectors only ({', '.join(lists)}): stages need one vector a row")
        raise StageError(f"{self.root.path}: neither it nor its ancestors have a vector column")

    def holder(self, column: str) -> Holder:
        """Find a column by name, in the nearest run of the lineage that has it.

        Raises:
            StageError: none has it.
        """
        for number, (root, _) in enumerate(self.lineage):
            schema = self._schema(number)
            if column in schema.names:
                return Holder(root, column, schema.field(column).type)
        known = ", ".join(dict.fromkeys(name for number in range(len(self.lineage)) for name in self._schema(number).names))
        raise StageError(f"{self.root.path}: no column {column!r} here or in its ancestors; there are {known}")

    def label(self, column: str) -> Label:
        """Find a column that labels rows: a kept one, or a `key=value` folder of the source.

        Raises:
            StageError: there is none, or it holds neither strings nor whole numbers nor booleans.
        """
        if self.records and column in hive_columns(self.records[0].unit):
            return Label(None, column)
        found = self.holder(column)
        kind = found.kind.value_type if pa.types.is_dictionary(found.kind) else found.kind
        if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)):
            raise StageError(f"{found.run.path}: column {column!r} holds {kind}, which labels no rows; name strings or whole numbers")
        return Label(found.run, column)

    def _holds_lists(self, number: int, name: str) -> bool:
        return holds_vectors(self._schema(number).field(name).type)

    def names(self, number: int) -> list[str]:
        """Name the columns of a run of the lineage that hold no vectors."""
        return [name for name in self._schema(number).names if not self._holds_lists(number, name)] if self.records else []

    def kind(self, name: str) -> pa.DataType:
        """Give the type of a column that was kept."""
        return self._schema(len(self.lineage) - 1).field(name).type

    def _schema(self, number: int) -> pa.Schema:
        """Read the columns of a run of the lineage off its first data file."""
        if number not in self._schemas:
            if not self.records:
                raise StageError(f"{self.root.path}: the run has no units: there is nothing to fit or to apply")
            self._schemas[number] = _open(self.lineage[number][0], self.records[0].unit).schema_arrow
        return self._schemas[number]


_CLOSE = 2
MOST_ROOTS = 4096
"""Source roots that a plan may name; a stage does not look at the source."""


def _lineage(root: Location) -> list[tuple[Location, dict[str, Any]]]:
    found: list[tuple[Location, dict[str, Any]]] = []
    while True:
        header = RunDir(root).read_header()
        if header is None:
            child = f", the parent of {found[-1][0].path}" if found else ""
            raise RunError(f"{root.path}: no run here (run.json is missing){child}")
        found.append((root, header))
        if header.get("parent") is None:
            return found
        root = parent_of(root, header["parent"])


def parent_of(root: Location, told: str) -> Location:
    """Find the parent of a stage's run from what its header tells: a path from there, or a whole one."""
    return Location(root.fs, posixpath.normpath(f"{root.path}/{told}")) if told.startswith("..") else Location(root.fs, told)


def told_parent(root: Location, parent: Location) -> str:
    """Say where a run's parent is: by a path from there where they lie close, so that they can be moved together."""
    told = posixpath.relpath(parent.path, root.path)
    return told if told.count("..") <= _CLOSE else parent.path


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _checked(holder: Holder) -> Holder:
    if pa.types.is_list(holder.kind) or pa.types.is_large_list(holder.kind):
        raise StageError(f"{holder.run.path}: column {holder.column!r} is ragged: stages need one vector a row")
    if not _is_vector(holder.kind):
        raise StageError(f"{holder.run.path}: column {holder.column!r} holds {holder.kind}, not vectors")
    if holder.kind.value_type not in _FLOATS:
        raise StageError(f"{holder.run.path}: column {holder.column!r} holds codes ({holder.kind.value_type}); name the column before it")
    return holder


def _open(run: Location, unit: str) -> pq.ParquetFile:
    place = run.child(f"{DATA}/{unit}{SUFFIX}")
    try:
        return pq.ParquetFile(open_file(place))
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{place.path}: can't be read: {error}; `embed-ops verify` tells more") from error


def read_columns(run: Location, unit: str, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a unit's data file.

    Raises:
        RunError: it can't be decoded, or lacks a column.
    """
    file = _open(run, unit)
    lacking = [name for name in columns if name not in file.schema_arrow.names]
    if lacking:
        raise RunError(f"{run.path}/{DATA}/{unit}{SUFFIX}: has no column {lacking[0]!r}, though other files of the run have it")
    try:
        return file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{run.path}/{DATA}/{unit}{SUFFIX}: can't be read: {error}; `embed-ops verify` tells more") from error


def read_unit(holder: Holder, unit: str, rows: int | None = None) -> Vectors:
    """Read the vectors of a unit as (rows, dim) float32, all of them finite.

    Raises:
        RunError: the file has another width or another number of rows than the run.
        StageError: a row has no vector, or one that is not finite; names the file and the row.
    """
    x = stored_unit(holder, unit, rows)
    # A sum is finite where all its terms are, but for overflow: looking twice is rare and looking once is cheap.
    if not np.isfinite(x.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            name = f"{holder.run.path}/{DATA}/{unit}{SUFFIX}"
            raise StageError(f"{name}: column {holder.column!r} is not finite in {len(bad)} rows, the first is row {bad[0]}")
    return x


def stored_unit(holder: Holder, unit: str, rows: int | None = None) -> Vectors:
    """Read the vectors of a unit as (rows, dim) float32, finite or not.

    Raises:
        RunError: the file has another width or another number of rows than the run.
        StageError: a row has no vector.
    """
    table = read_columns(holder.run, unit, [holder.column])
    name = f"{holder.run.path}/{DATA}/{unit}{SUFFIX}"
    kind = table.schema.field(0).type
    if not _is_vector(kind) or kind.list_size != holder.dim:
        raise RunError(f"{name}: column {holder.column!r} holds {kind}, other files of the run {holder.kind}")
    if rows is not None and len(table) != rows:
        raise RunError(f"{name}: has {len(table)} rows, its input {rows}; `embed-ops verify` tells more")
    if table.column(0).null_count:
        raise StageError(f"{name}: column {holder.column!r} has {table.column(0).null_count} rows without a vector")
    return vectors_of(table.column(0)).astype(np.float32, copy=False)


def blocks(holder: Holder, stretch: Stretch) -> Iterator[tuple[int, Vectors]]:
    """Yield (global index, (rows, dim) float32) in blocks of `BLOCK_ROWS`; the last may be shorter."""
    held, first = 0, stretch.first
    buffer = np.empty((BLOCK_ROWS, holder.dim), np.float32)
    for unit, begin, end in stretch.parts:
        x = read_unit(holder, unit)[begin:end]
        while len(x):
            taken = min(BLOCK_ROWS - held, len(x))
            buffer[held : held + taken] = x[:taken]
            held, x = held + taken, x[taken:]
            if held == BLOCK_ROWS:
                yield first, buffer
                # A new one: who got the last may keep it.
                buffer, first, held = np.empty_like(buffer), first + BLOCK_ROWS, 0
    if held:
        yield first, buffer[:held]


def indexes(first: int, rows: int) -> Ints:
    """Give the global row indexes of consecutive rows."""
    return np.arange(first, first + rows, dtype=np.int64)


def positions(run: Location, unit: str) -> pa.Table:
    """Read where the rows of a unit come from: `_source` and `_row`."""
    return read_columns(run, unit, [SOURCE, ROW])


@dataclass(frozen=True)
class Label:
    """Where a label column is: the run whose data files have it, or None where it is a `key=value` folder of the source."""

    run: Location | None
    column: str


def labels_of(label: Label, unit: str) -> pa.Array:
    """Read the labels of a unit, or the only one that its folder has; a null has no label.

    Raises:
        StageError: the folder has none.
    """
    if label.run is not None:
        found = read_columns(label.run, unit, [label.column]).column(0).combine_chunks()
        return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found
    folders = hive_columns(unit)
    if label.column not in folders:
        raise StageError(f"{unit}: is in no folder {label.column}=..., as other units of the run are")
    return pa.array([folders[label.column]])


def values(holder: Holder, stretch: Stretch) -> npt.NDArray[Any]:
    """Read a column of numbers over a stretch: (rows,)."""
    parts = [read_columns(holder.run, unit, [holder.column]).column(0).slice(begin, end - begin) for unit, begin, end in stretch.parts]
    return np.concatenate([part.to_numpy() for part in parts]) if parts else np.empty(0)
