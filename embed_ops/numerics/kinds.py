"""What a vector is, by kind: one for each row (`Dense`), or a list of them for each row (`Lists`).

A kind knows its type in Arrow, and what its vectors are in memory. Everything else (files,
statistics, quantizers, parity, verify) asks the kind, and never the family of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.numerics.ragged import Ragged
from embed_ops.schema import VECTOR_TYPES

Values = npt.NDArray[Any]
Vectors = Values | Ragged
"""The vectors of some rows in memory, of any kind."""
Held = TypeVar("Held")


class Kind(Protocol[Held]):
    """What one vector column holds; `Held` is the type of its vectors in memory."""

    name: ClassVar[str]
    """Stands in the footer of data files."""

    @property
    def dim(self) -> int:
        """Width of one vector."""
        ...

    def column(self, vectors: Held, dtype: str) -> pa.Array:
        """Make the Arrow column, (rows,), with elements of a type of `schema.VECTOR_TYPES`."""
        ...

    def read(self, column: pa.ChunkedArray) -> Held:
        """Read what `column` made."""
        ...

    def leaf(self, name: str) -> str:
        """Name the leaf of a Parquet column in which the numbers stand."""
        ...

    def values(self, vectors: Held) -> Values:
        """Give all vectors of all rows, (vectors, dim)."""
        ...

    def with_values(self, vectors: Held, values: Values) -> Held:
        """Put other values, (vectors, any), in place of these, row by row the same number."""
        ...

    def take(self, vectors: Held, rows: Values) -> Held:
        """Choose rows, by index or by a mask."""
        ...

    def rows_where(self, vectors: Held, of_vector: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell of which rows something is true of all vectors: (vectors,) to (rows,)."""
        ...

    def as_lists(self, vectors: Held) -> Ragged:
        """Give the vectors as a list for each row, of one where there is one."""
        ...


@dataclass(frozen=True)
class Dense:
    """One vector for each row: (rows, dim) in memory, a fixed-size list in Arrow."""

    name: ClassVar[str] = "dense"
    dim: int

    def column(self, vectors: Values, dtype: str) -> pa.FixedSizeListArray:
        """Make the Arrow column."""
        flat = np.ascontiguousarray(vectors, dtype=np.dtype(dtype)).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, VECTOR_TYPES[dtype]), self.dim)

    def read(self, column: pa.ChunkedArray | pa.FixedSizeListArray) -> Values:
        """Read (rows, dim), without a copy where the column is one chunk."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        flat: Values = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), self.dim)

    def leaf(self, name: str) -> str:
        """Name the leaf of a Parquet column in which the numbers stand."""
        return f"{name}.list.element"

    def values(self, vectors: Values) -> Values:
        """Give them as they are: (rows, dim)."""
        return vectors

    def with_values(self, vectors: Values, values: Values) -> Values:
        """Give the other values."""
        return values

    def take(self, vectors: Values, rows: Values) -> Values:
        """Choose rows, by index or by a mask."""
        chosen: Values = vectors[rows]
        return chosen

    def rows_where(self, vectors: Values, of_vector: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Give what is true of each vector."""
        return of_vector

    def as_lists(self, vectors: Values) -> Ragged:
        """Give lists of one."""
        return Ragged(vectors, np.arange(len(vectors) + 1, dtype=np.int64))


@dataclass(frozen=True)
class Lists:
    """A list of vectors for each row: `Ragged` in memory, a list of fixed-size lists in Arrow."""

    name: ClassVar[str] = "lists"
    dim: int

    def column(self, vectors: Ragged, dtype: str) -> pa.ListArray:
        """Make the Arrow column."""
        flat = Dense(self.dim).column(vectors.values, dtype)
        return pa.ListArray.from_arrays(pa.array(vectors.offsets, pa.int32()), flat)

    def read(self, column: pa.ChunkedArray | pa.ListArray) -> Ragged:
        """Read the lists, without a copy where the column is one chunk."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        offsets = array.offsets.to_numpy().astype(np.int64)
        return Ragged(Dense(self.dim).read(array.flatten()), offsets - offsets[:1])

    def leaf(self, name: str) -> str:
        """Name the leaf of a Parquet column in which the numbers stand."""
        return f"{name}.list.element.list.element"

    def values(self, vectors: Ragged) -> Values:
        """Give all vectors, one list after the other: (vectors, dim)."""
        return vectors.values

    def with_values(self, vectors: Ragged, values: Values) -> Ragged:
        """Put other values in place of these, list by list the same number."""
        return Ragged(values, vectors.offsets)

    def take(self, vectors: Ragged, rows: Values) -> Ragged:
        """Choose rows, by index or by a mask."""
        return vectors.take(rows)

    def rows_where(self, vectors: Ragged, of_vector: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell of which rows something is true of all vectors."""
        return vectors.all(of_vector)

    def as_lists(self, vectors: Ragged) -> Ragged:
        """Give them as they are."""
        return vectors


def kind_in_memory(vectors: Vectors) -> Kind[Any]:
    """Give the kind of vectors in memory."""
    return Lists(vectors.values.shape[1]) if isinstance(vectors, Ragged) else Dense(vectors.shape[1])


def kind_of_type(column: pa.DataType) -> Kind[Any] | None:
    """Give the kind of an Arrow column of this type, None where it holds no vectors."""
    listed = pa.types.is_list(column)
    inner = column.value_type if listed else column
    if not pa.types.is_fixed_size_list(inner):
        return None
    return Lists(inner.list_size) if listed else Dense(inner.list_size)


def kinds_of(schema: pa.Schema) -> dict[str, Kind[Any]]:
    """Find the vector columns of a table: {column: kind}, in the order of the schema."""
    return dict(_kinds(schema))


def _kinds(schema: pa.Schema) -> Iterator[tuple[str, Kind[Any]]]:
    for field in schema:
        if (kind := kind_of_type(field.type)) is not None:
            yield field.name, kind


def told(schema: pa.Schema) -> dict[str, Any]:
    """Say of each vector column what it holds, as the footer of a data file has it: JSON values."""
    return {name: {"kind": kind.name, "dim": kind.dim} for name, kind in _kinds(schema)}
