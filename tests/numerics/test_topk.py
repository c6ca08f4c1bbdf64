"""The k best rows against brute force, ties included, whatever the order and the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute_force import brute

from embed_ops.numerics.topk import Metric, TopK

Array = np.ndarray[Any, Any]


def vectors(rows: int, dim: int, seed: int) -> Array:
    """Draw vectors among which are copies, nearly equal ones, scaled ones and zeros."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, dim)).astype(np.float32)
    if rows > 40:
        x[rows // 2 : rows // 2 + 12] = x[3]
        x[-9:] = x[4] * (1 + np.arange(9)[:, None] * np.float32(1e-7))
        x[10] = x[11] * 2
        x[20] = 0
    return x


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize(
    ("rows", "count", "dim", "k"),
    [(5000, 1500, 24, 10), (3000, 7, 3, 25), (1, 3, 8, 5), (30, 30, 4, 40), (2100, 2, 384, 1)],
)
def test_equal_to_brute_force(rows: int, count: int, dim: int, k: int, metric: Metric) -> None:
    """Ids and scores are those of sorting all pairs.

    Copies come in the order of their index, in whatever order rows are shown.
    """
    x, queries = vectors(rows, dim, 1), vectors(count, dim, 2)
    queries[: min(count, rows) // 2] = x[: min(count, rows) // 2]
    ids = np.random.default_rng(3).permutation(10 * rows)[:rows].astype(np.int64)
    expected = brute(queries, x, ids, k, metric)
    for block in (rows, 700, 1025):
        best = TopK(queries, k, metric)
        for first in np.random.default_rng(block).permutation(range(0, rows, block)).tolist():
            best.add(x[first : first + block], ids[first : first + block])
        found, scores = best.result()
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(scores, expected[1])
        assert best.zeros == (int((x == 0).all(axis=1).sum()) if metric == "cosine" else 0)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_a_row_is_no_neighbour_of_itself(k: int) -> None:
    """Queries that are rows, each without itself, are those of brute force."""
    x = vectors(1300, 6, 9)
    ids = np.arange(len(x), dtype=np.int64)
    best = TopK(x[:400], k, "dot", itself=ids[:400])
    for first in range(0, len(x), 300):
        best.add(x[first : first + 300], ids[first : first + 300])
    expected = brute(x[:400], x, ids, k, "dot", ids[:400])
    np.testing.assert_array_equal(best.result()[0], expected[0])
    np.testing.assert_array_equal(best.result()[1], expected[1])


def test_one_vector_thousands_of_times() -> None:
    """Of equal rows the least indexes are kept, though each of them passes every threshold."""
    x = np.broadcast_to(vectors(1, 16, 5), (20_000, 16)).copy()
    best = TopK(x[:3], 7, "cosine", itself=np.array([0, 5, 19_999]))
    best.add(x, np.arange(20_000, dtype=np.int64))
    assert best.result()[0].tolist() == [[1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 3, 4, 5, 6]]


def test_parts_are_merged() -> None:
    """Two searches over halves of the rows, merged, are one over all.

    So are rows shown to some queries only.
    """
    x, queries = vectors(4000, 12, 6), vectors(90, 12, 7)
    ids = np.arange(4000, dtype=np.int64)
    whole, left, right = (TopK(queries, 9, "dot") for _ in range(3))
    whole.add(x, ids)
    left.add(x[:1500], ids[:1500])
    for first in range(0, 90, 20):
        right.add(x[1500:], ids[1500:], np.arange(first, min(90, first + 20)))
    left.merge(*right.result())
    for mine, theirs in zip(left.result(), whole.result(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert whole.scored == 90 * 4000
