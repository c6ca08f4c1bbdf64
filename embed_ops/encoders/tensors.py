"""Turns a column of tensors into its distinct ones. For families whose models take such rows.

A row is a list of as many numbers as the model takes, or nested lists of the lengths of its axes.
Needs no torch. Legend: rows = rows of the column, inputs = distinct tensors in order of first
appearance, numbers = of one tensor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.base import IntArray, Modality, Prepared, Rejected
from embed_ops.errors import SourceError
from embed_ops.schema import Reason
from embed_ops.sources.tensors import ONE_LIST, tensor_type
from embed_ops.sources.types import plain_column

TENSOR = Modality(4_000, {"cpu": 2_048, "cuda": 65_536}, frozenset({"token_budget"}))
TENSORS = "tensor"
"""The column of inputs."""
NUMBERS_A_POSITION = 256
"""So many numbers count as one position of a forward pass: an image's patch has as many pixels."""
_UNIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Taken:
    """What a model takes of a row.

    Attributes:
        shape: lengths of its axes, without that of rows.
        dtype: numpy's name of the type of its numbers.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def numbers(self) -> int:
        """Count the numbers of a row."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Count their bytes."""
        return self.numbers * np.dtype(self.dtype).itemsize

    @property
    def arrow(self) -> pa.DataType:
        """The type of inputs."""
        return pa.list_(pa.from_numpy_dtype(np.dtype(self.dtype)), self.numbers)


@dataclass
class _Faults:
    """What is wrong with rows; the first that is found counts."""

    of_rows: dict[int, tuple[Reason, str]] = field(default_factory=dict)

    def add(self, rows: npt.NDArray[Any], reason: Reason, message: str) -> None:
        for row in np.unique(rows).tolist():
            self.of_rows.setdefault(row, (reason, message))

    def without(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell which of these rows have none."""
        return ~np.isin(rows, list(self.of_rows))


def prepare_tensors(column: pa.Array, taken: Taken) -> Prepared:
    """Make what the model takes of a column of lists of numbers, each distinct tensor once.

    Null rows become rejects, and those with a null inside, of other lengths, with NaN or infinity,
    and with numbers that the model's type does not have.

    Returns:
        inputs with the column `tensor`, (inputs,) fixed-size lists of the model's type.

    Raises:
        SourceError: the column holds no lists of numbers, or lists in more or fewer lists than the
            model has axes.
    """
    faults = _Faults()
    matrix, rows = _matrix(_as_lists(column, taken), taken, faults)
    matrix, rows = _converted(matrix, rows, taken, faults)
    index = np.full(len(column), -1, np.int32)
    distinct, index[rows] = _distinct(matrix, taken)
    rejects = [Rejected(row, *faults.of_rows[row]) for row in sorted(faults.of_rows)]
    return Prepared(pa.table({TENSORS: distinct}), index, np.zeros(len(distinct), np.bool_), rejects)


def _as_lists(column: pa.Array, taken: Taken) -> pa.Array:
    """Give the column as lists of numbers, or as lists in lists of as many axes as the model has.

    Raises:
        SourceError: it is something else.
    """
    kind = column.type if pa.types.is_null(column.type) else tensor_type(column.type)
    depth, inside = 0, kind
    while inside is not None and pa.types.is_list(inside):
        depth, inside = depth + 1, inside.value_type
    if kind is None:
        raise SourceError(f"the column is {column.type}, and the model takes lists of numbers")
    if depth > 1 and depth != len(taken.shape):
        raise SourceError(
            f"the column is {column.type}, and a row of the model has the shape {taken.shape}: give lists of "
            f"{taken.numbers} numbers, or lists in lists of these lengths"
        )
    return plain_column(column).cast(kind if depth else ONE_LIST)


def _matrix(column: pa.Array, taken: Taken, faults: _Faults) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give the numbers of the rows that have as many as they must, and the places of these rows.

    What is wrong with the others is kept. Shape (rows, numbers), in the column's own type.
    """
    flat = not pa.types.is_list(column.type.value_type)
    rows = np.arange(len(column))  # of the lists of a level, the row that each is of
    lengths = (taken.numbers,) if flat else taken.shape
    for level, length in enumerate(lengths, 1):
        counts = pc.list_value_length(column)
        null = counts.is_null().to_numpy(zero_copy_only=False)
        faults.add(rows[null], Reason.NULL, "the tensor, or a list in it, is null")
        counts = pc.fill_null(counts, length).to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(counts != length).tolist():
            has = f"the tensor has {counts[place]} numbers"
            if not flat:
                has = f"a list of the tensor, of axis {level} of {len(lengths)}, has {counts[place]} entries"
            faults.add(rows[place], Reason.WRONG_SHAPE, f"{has}, and the model takes {length}")
        whole = faults.without(rows)
        column, rows = column.filter(pa.array(whole)).flatten(), rows[whole]
        if level < len(lengths):
            rows = np.repeat(rows, length)
    rows = rows[:: taken.numbers // lengths[-1]]
    null = column.is_null().to_numpy(zero_copy_only=False).reshape(-1, taken.numbers).any(axis=1)
    faults.add(rows[null], Reason.NULL, "a number of the tensor is null")
    numbers = pc.fill_null(column, pa.scalar(0, column.type)) if null.any() else column
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, taken.numbers)[~null], rows[~null]


def _converted(
    matrix: npt.NDArray[Any], rows: npt.NDArray[Any], taken: Taken, faults: _Faults
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give the numbers in the model's type, of the rows whose numbers have one there."""
    wanted = np.dtype(taken.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(matrix.astype(wanted, copy=False))
    finite = np.isfinite(matrix).all(axis=1)
    if wanted.kind == "f":
        finite &= np.isfinite(converted).all(axis=1)
        exact = finite
    else:
        exact = (converted == matrix).all(axis=1)
    faults.add(
        rows[~finite], Reason.NON_FINITE, f"the tensor holds NaN, infinity, or more than {wanted} does"
    )
    faults.add(rows[finite & ~exact], Reason.WRONG_TYPE, f"a number of the tensor is none of {wanted}")
    return converted[finite & exact], rows[finite & exact]


def _distinct(matrix: npt.NDArray[Any], taken: Taken) -> tuple[pa.Array, IntArray]:
    """Give the distinct rows of a matrix, in order of first appearance, and which each row is."""
    raw = [None, pa.py_buffer(matrix)]
    encoded = pa.Array.from_buffers(pa.binary(taken.bytes), len(matrix), raw).dictionary_encode()
    # The same bytes, read as numbers again.
    values = np.frombuffer(
        encoded.dictionary.buffers()[1], taken.dtype, len(encoded.dictionary) * taken.numbers
    )
    return (
        pa.FixedSizeListArray.from_arrays(pa.array(values), type=taken.arrow),
        encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
    )


def most_tensors(taken: Taken, vector_bytes: int, asked: int) -> int:
    """Give the most rows of a unit, `asked` or less; `vector_bytes`: of all vectors of a row."""
    return max(1, min(asked, _UNIT_BYTES // max(taken.bytes, vector_bytes)))


def tensor_positions(inputs: pa.Table, taken: Taken) -> IntArray:
    """Give the positions of each input, all the same: (inputs,) int32."""
    return np.full(len(inputs), -(-taken.numbers // NUMBERS_A_POSITION), np.int32)


def blank_tensors(inputs: pa.Table, places: Collection[int], taken: Taken) -> pa.Table:
    """Make some inputs zero."""
    matrix = tensors_of(inputs, taken).reshape(-1, taken.numbers).copy()
    matrix[list(places)] = 0
    blank = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), type=taken.arrow)
    return inputs.set_column(inputs.schema.get_field_index(TENSORS), TENSORS, blank)


def tensors_of(batch: pa.Table, taken: Taken) -> npt.NDArray[Any]:
    """Give a batch as an array of the model's type, (inputs, *shape)."""
    numbers = batch.column(TENSORS).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(numbers, taken.dtype).reshape(-1, *taken.shape)
