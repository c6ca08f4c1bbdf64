"""Columns of a run's units, as arrays: the vectors, the labels, the rows' names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import RunError, StageError
from embed_ops.numerics.tiles import BLOCK_ROWS, Ints, Vectors
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.record import DATA, SUFFIX
from embed_ops.schema import ROW, SOURCE
from embed_ops.sources.base import hive_columns
from embed_ops.storage.files import Location, open_file

_FLOATS = (pa.float16(), pa.float32(), pa.float64())


@dataclass(frozen=True)
class VectorColumn:
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
    """Consecutive rows of a run.

    (unit, first row in it, row behind the last) each, and the global index of the first.
    """

    first: int
    parts: tuple[tuple[str, int, int], ...]


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether a column has one vector in each row."""
    return bool(pa.types.is_fixed_size_list(kind))


def checked(holder: VectorColumn) -> VectorColumn:
    """Give a column back if stages can read it.

    Raises:
        StageError: it holds no vectors, lists of them, or codes.
    """
    if pa.types.is_list(holder.kind) or pa.types.is_large_list(holder.kind):
        raise StageError(
            f"{holder.run.path}: column {holder.column!r} is ragged: stages need one vector a row"
        )
    if not is_vector(holder.kind):
        raise StageError(f"{holder.run.path}: column {holder.column!r} holds {holder.kind}, not vectors")
    if holder.kind.value_type not in _FLOATS:
        raise StageError(
            f"{holder.run.path}: column {holder.column!r} holds codes ({holder.kind.value_type}); name "
            "the column before it"
        )
    return holder


def open_unit(run: Location, unit: str) -> pq.ParquetFile:
    """Open the data file of a unit; nothing but its footer is read.

    Raises:
        RunError: it can't be read.
    """
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
    file = open_unit(run, unit)
    lacking = [name for name in columns if name not in file.schema_arrow.names]
    if lacking:
        raise RunError(
            f"{run.path}/{DATA}/{unit}{SUFFIX}: has no column {lacking[0]!r}, though other files of the "
            "run have it"
        )
    try:
        return file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{run.path}/{DATA}/{unit}{SUFFIX}: can't be read: {error}; `embed-ops verify` tells more"
        ) from error


def read_unit(holder: VectorColumn, unit: str, rows: int | None = None) -> Vectors:
    """Read the vectors of a unit as (rows, dim) float32, all of them finite.

    Raises:
        RunError: the file has another width or another number of rows than the run.
        StageError: a row has no vector, or one that is not finite; names the file and the row.
    """
    x = stored_unit(holder, unit, rows)
    # A sum is finite where all its terms are, but for overflow: looking twice is rare and looking
    # once is cheap.
    if not np.isfinite(x.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            name = f"{holder.run.path}/{DATA}/{unit}{SUFFIX}"
            raise StageError(
                f"{name}: column {holder.column!r} is not finite in {len(bad)} rows, the first is row "
                f"{bad[0]}"
            )
    return x


def stored_unit(holder: VectorColumn, unit: str, rows: int | None = None) -> Vectors:
    """Read the vectors of a unit as (rows, dim) float32, finite or not.

    Raises:
        RunError: the file has another width or another number of rows than the run.
        StageError: a row has no vector.
    """
    table = read_columns(holder.run, unit, [holder.column])
    name = f"{holder.run.path}/{DATA}/{unit}{SUFFIX}"
    kind = table.schema.field(0).type
    if not is_vector(kind) or kind.list_size != holder.dim:
        raise RunError(f"{name}: column {holder.column!r} holds {kind}, other files of the run {holder.kind}")
    if rows is not None and len(table) != rows:
        raise RunError(f"{name}: has {len(table)} rows, its input {rows}; `embed-ops verify` tells more")
    if table.column(0).null_count:
        raise StageError(
            f"{name}: column {holder.column!r} has {table.column(0).null_count} rows without a vector"
        )
    return vectors_of(table.column(0)).astype(np.float32, copy=False)


def blocks(holder: VectorColumn, stretch: Stretch) -> Iterator[tuple[int, Vectors]]:
    """Yield (global index, (rows, dim) float32) in blocks of `BLOCK_ROWS`.

    The last may be shorter.
    """
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
    """Where a label column is.

    Attributes:
        run: the run whose data files have it; None where it is a `key=value` folder of the source.
        column: its name, or the key.
    """

    run: Location | None
    column: str


def labels_of(label: Label, unit: str) -> pa.Array:
    """Read the labels of a unit, or the only one that its folder has; a null has no label."""
    if label.run is not None:
        labels = read_columns(label.run, unit, [label.column]).column(0).combine_chunks()
        return labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
    return pa.array([hive_columns(unit).get(label.column)], pa.string())


def values(holder: VectorColumn, stretch: Stretch) -> npt.NDArray[Any]:
    """Read a column of numbers over a stretch: (rows,)."""
    parts = [
        read_columns(holder.run, unit, [holder.column]).column(0).slice(begin, end - begin)
        for unit, begin, end in stretch.parts
    ]
    return np.concatenate([part.to_numpy() for part in parts]) if parts else np.empty(0)
