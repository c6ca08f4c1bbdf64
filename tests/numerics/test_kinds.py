"""Kinds of vectors: through Arrow and back, and what is asked of them in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embed_ops.numerics.kinds import Dense, Kind, Lists, kind_in_memory, kind_of_type, kinds_of, told
from embed_ops.numerics.ragged import Ragged, offsets_of

VALUES = np.arange(18, dtype=np.float32).reshape(6, 3)
DENSE = VALUES
LISTS = Ragged(VALUES, np.array([0, 2, 2, 6]))


def same(left: Any, right: Any) -> bool:
    """Tell whether vectors of either kind are equal."""
    if isinstance(left, Ragged):
        return np.array_equal(left.values, right.values) and np.array_equal(left.offsets, right.offsets)
    return np.array_equal(left, right)


@pytest.mark.parametrize(("kind", "vectors"), [(Dense(3), DENSE), (Lists(3), LISTS)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
def test_there_and_back(kind: Kind[Any], vectors: Any, dtype: str) -> None:
    """A column says by its type what it holds, in chunks and in slices too."""
    column = kind.column(vectors, dtype)
    assert kind_of_type(column.type) == kind_in_memory(vectors) == kind
    assert same(kind.read(pa.chunked_array([column])), vectors)
    halves = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    assert same(kind.read(halves), vectors)
    rows = np.arange(1, len(vectors))
    assert same(kind.read(pa.chunked_array([column.slice(1)])), kind.take(vectors, rows))


@pytest.mark.parametrize(("kind", "vectors"), [(Dense(3), DENSE), (Lists(3), LISTS)])
def test_in_memory(kind: Kind[Any], vectors: Any) -> None:
    """Values may be replaced, and what is true of vectors becomes what is true of rows."""
    assert np.array_equal(kind.values(vectors), VALUES)
    assert same(kind.with_values(vectors, VALUES), vectors)
    bad = np.ones(6, np.bool_)
    bad[0] = False
    assert kind.rows_where(vectors, bad).tolist() == [False] + [True] * (len(vectors) - 1)
    assert len(kind.as_lists(vectors)) == len(vectors)


def test_what_stands_in_a_footer() -> None:
    """Columns without vectors are left out, lists of numbers among them."""
    table = pa.table(
        {
            "text": ["a"],
            "counts": pa.array([[1, 2]], pa.list_(pa.int32())),
            "own": Dense(2).column(np.zeros((1, 2)), "float32"),
            "words": Lists(4).column(Ragged(np.zeros((3, 4)), offsets_of(np.array([3]))), "float16"),
        }
    )
    assert kinds_of(table.schema) == {"own": Dense(2), "words": Lists(4)}
    assert told(table.schema) == {"own": {"kind": "dense", "dim": 2}, "words": {"kind": "lists", "dim": 4}}
