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
from embed_ops.runs.parquet import reading, vectors_of
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
class Part:
    """Some rows of a unit: the first, the one behind the last, and how many the unit has."""

    unit: str
    begin: int
    end: int
    rows: int


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a run, and the global index of the first."""

    first: int
    parts: tuple[Part, ...]


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
        RunError: it can't be read, or two of its columns have one name.
    """
    place = run.child(f"{DATA}/{unit}{SUFFIX}")
    with reading(place.path):
        file = pq.ParquetFile(open_file(place))
        for name in file.schema_arrow.names:
            file.schema_arrow.field(name)
        return file


def read_columns(run: Location, unit: str, columns: Sequence[str], rows: int) -> pa.Table:
    """Read some columns of a unit's data file.

    Args:
        run: whose data file it is.
        unit: its name.
        columns: by name.
        rows: that the unit has; those of a run and of its ancestors are joined by their places.

    Raises:
        RunError: it can't be decoded, lacks a column, or has another number of rows.
    """
    file = open_unit(run, unit)
    lacking = [name for name in columns if name not in file.schema_arrow.names]
    if lacking:
        raise RunError(
            f"{run.path}/{DATA}/{unit}{SUFFIX}: has no column {lacking[0]!r}, though other files of the "
            "run have it"
        )
    if file.metadata.num_rows != rows:
        raise RunError(
            f"{run.path}/{DATA}/{unit}{SUFFIX}: has {file.metadata.num_rows} rows and not the {rows} that "
            "its run says; `embed-ops verify` tells more"
        )
    with reading(f"{run.path}/{DATA}/{unit}{SUFFIX}"):
        return file.read(columns=list(columns), use_threads=False)


def read_unit(holder: VectorColumn, unit: str, rows: int) -> Vectors:
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


def stored_unit(holder: VectorColumn, unit: str, rows: int) -> Vectors:
    """Read the vectors of a unit as (rows, dim) float32, finite or not.

    Raises:
        RunError: the file has another width or another number of rows than the run.
        StageError: a row has no vector.
    """
    table = read_columns(holder.run, unit, [holder.column], rows)
    name = f"{holder.run.path}/{DATA}/{unit}{SUFFIX}"
    kind = table.schema.field(0).type
    if not is_vector(kind) or kind.list_size != holder.dim:
        raise RunError(f"{name}: column {holder.column!r} holds {kind}, other files of the run {holder.kind}")
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
    for part in stretch.parts:
        x = read_unit(holder, part.unit, part.rows)[part.begin : part.end]
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


def positions(run: Location, unit: str, rows: int) -> pa.Table:
    """Read where the rows of a unit come from: `_source` and `_row`."""
    return read_columns(run, unit, [SOURCE, ROW], rows)


@dataclass(frozen=True)
class Label:
    """Where a label column is.

    Attributes:
        run: the run whose data files have it; None where it is a `key=value` folder of the source.
        column: its name, or the key.
    """

    run: Location | None
    column: str


def labels_of(label: Label, unit: str, rows: int) -> pa.Array:
    """Read the labels of a unit, (rows,); its folder has one for all; a null has no label."""
    if label.run is not None:
        labels = read_columns(label.run, unit, [label.column], rows).column(0).combine_chunks()
        return labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
    return pa.repeat(pa.scalar(hive_columns(unit).get(label.column), pa.string()), rows)


def values(holder: VectorColumn, stretch: Stretch) -> npt.NDArray[Any]:
    """Read a column of numbers over a stretch: (rows,)."""
    parts = [
        read_columns(holder.run, part.unit, [holder.column], part.rows)
        .column(0)
        .slice(part.begin, part.end - part.begin)
        for part in stretch.parts
    ]
    return np.concatenate([part.to_numpy() for part in parts]) if parts else np.empty(0)
