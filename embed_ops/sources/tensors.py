"""Columns of tensors: lists of numbers, nested or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.errors import SourceError
from embed_ops.sources.types import meaning

ONE_LIST = pa.list_(pa.float32())
"""What a column of nothing but nulls is read as."""


def tensor_type(kind: pa.DataType) -> pa.DataType | None:
    """Give the type that a column of tensors is read with: its own numbers, in plain lists.

    None where it holds no lists of numbers.
    """
    plain = meaning(kind)
    if pa.types.is_null(plain):
        return ONE_LIST
    if not pa.types.is_list(plain):
        return None
    inside = plain.value_type
    if pa.types.is_integer(inside) or pa.types.is_floating(inside):
        return pa.list_(inside)
    of_lists = tensor_type(inside)
    # Empty lists alone say nothing of what would be inside.
    return of_lists if pa.types.is_null(inside) or of_lists is None else pa.list_(of_lists)


def require_tensors(kind: pa.DataType, what: str) -> pa.DataType:
    """Give the type that a column of tensors is read with.

    Args:
        kind: of the column.
        what: names it, for the message.

    Raises:
        SourceError: it holds none.
    """
    of_tensors = tensor_type(kind)
    if of_tensors is None:
        raise SourceError(f"{what} is {kind}; tensors need a column of lists of numbers")
    return of_tensors


def holds_tensors(kind: pa.DataType) -> bool:
    """Tell whether a column is one of tensors beyond doubt."""
    return not pa.types.is_null(kind) and tensor_type(kind) is not None


def json_type(values: Iterable[Any]) -> pa.DataType | None:
    """Give the type of lists of numbers in JSON, as deep as the deepest: JSON knows float64 only.

    None where no value is a list.
    """
    depth = max((_depth(value) for value in values), default=0)
    kind = pa.float64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind if depth else None


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth, value = depth + 1, next(iter(value), None)
    return depth


def value_bytes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Count the bytes of each row's numbers, (rows,) int64."""
    kind = column.type
    if not pa.types.is_list(kind):
        return np.full(len(column), kind.bit_width // 8, np.int64)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    held = np.concatenate([[0], np.cumsum(value_bytes(pc.list_flatten(column)))])
    return np.asarray(held[ends] - held[ends - lengths], np.int64)


def tensor_rows(column: pa.ChunkedArray) -> list[Any]:
    """Give the rows of a column of tensors without any null: arrays of numbers, nested ones lists.

    As Python's numbers a large tensor would take ten times the memory.
    """
    rows = [row for row in column if row.is_valid]
    if not pa.types.is_list(column.type) or pa.types.is_list(column.type.value_type):
        return [row.as_py() for row in rows]
    return [row.values.to_numpy(zero_copy_only=False) for row in rows if row.values.null_count == 0]
