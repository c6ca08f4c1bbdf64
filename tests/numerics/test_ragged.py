"""Reductions of lists of vectors, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from embed_ops.numerics.norms import normalized
from embed_ops.numerics.ragged import Ragged, offsets_of, offsets_of_equal


@pytest.mark.parametrize("counts", [[2, 1, 4], [1, 1], []])
def test_reductions(counts: list[int]) -> None:
    """First, last, greatest and mean of each list; a list of one is that vector to the bit."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((sum(counts), 5)).astype(np.float32)
    weights = rng.integers(1, 9, sum(counts))
    lists = Ragged(values, offsets_of(np.array(counts, np.int64)))
    of_row = np.repeat(np.arange(len(counts)), counts)
    expected = {
        "first": [values[of_row == row][0] for row in range(len(counts))],
        "last": [values[of_row == row][-1] for row in range(len(counts))],
        "max": [values[of_row == row].max(0) for row in range(len(counts))],
        "mean": [
            np.average(values[of_row == row].astype(np.float64), axis=0, weights=weights[of_row == row])
            for row in range(len(counts))
        ],
    }
    got = {"first": lists.first(), "last": lists.last(), "max": lists.max(), "mean": lists.mean(weights)}
    for name, rows in expected.items():
        assert np.array_equal(got[name], np.array(rows, np.float32).reshape(-1, 5)), name
        assert got[name].dtype == np.float32


@pytest.mark.parametrize(
    ("keys", "offsets"),
    [
        (([0, 0, 1, 1], [5, 5, 5, 6]), [0, 2, 3, 4]),
        (([3, 3, 3],), [0, 3]),
        (([], []), [0]),
    ],
)
def test_equal_neighbours(keys: tuple[list[int], ...], offsets: list[int]) -> None:
    """A group ends where any of its keys changes."""
    assert offsets_of_equal(*(np.array(key, np.int64) for key in keys)).tolist() == offsets


def test_unit_length() -> None:
    """Norms are 1, but of zeros, which stay zeros; one vector or many."""
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]], np.float32)
    assert normalized(x).tolist() == [[0.6, 0.8], [0.0, 0.0], [float(x[2, 0]) / 1e-12, 0.0]]
    assert normalized(x[0]).tolist() == [0.6, 0.8]
