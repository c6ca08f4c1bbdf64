"""Products on a device choose, and what is decided is what numpy's lead to.

The code of GPUs, on torch's CPU: what it finds must not depend on where products come from.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embed_ops.numerics import products
from embed_ops.numerics.exact import kernel_name
from embed_ops.numerics.products import Columns, computing_on, pairs_above, scatter_of, segment_sums
from embed_ops.numerics.summaries import Covariance
from embed_ops.numerics.topk import Metric, TopK
from embed_ops.stages.dedup import near_duplicates
from embed_ops.stages.kmeans.nearest import nearest_centers
from embed_ops.stages.kmeans.sums import ClusterSums

RNG = np.random.default_rng(0)


def vectors(rows: int, dim: int = 24) -> npt.NDArray[np.float32]:
    """Draw vectors, of which some are equal, some nearly so, and one is zero."""
    x = RNG.standard_normal((rows, dim)).astype(np.float32)
    x[rows // 2 : rows // 2 + rows // 4] = x[: rows // 4]
    x[rows - rows // 8 :] = x[: rows // 8] * np.float32(1 + 2**-22)
    x[rows // 3] = 0
    return x


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("centers", [1, 3, 40, 1500])
def test_nearest_centres(centers: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are those of numpy's products, whatever the tiles, with many near-ties too."""
    x = vectors(3000)
    places = np.concatenate([x[:centers], x[: min(60, centers)]])
    expected = nearest_centers(x, places, count)
    monkeypatch.setattr(products, "ROWS", 700)
    monkeypatch.setattr(products, "_COLUMNS", 256)
    monkeypatch.setattr(products, "_TILE", 1 << 16)
    with computing_on("cpu"):
        np.testing.assert_array_equal(nearest_centers(x, places, count), expected)


def test_one_centre_many_times() -> None:
    """More equal centres than a device gives candidates: the lowest index is found all the same."""
    x = vectors(500)
    places = np.repeat(x[:3], 30, axis=0)
    with computing_on("cpu"):
        labels = nearest_centers(x, places, 2)
    np.testing.assert_array_equal(labels, nearest_centers(x, places, 2))
    assert set(labels[:, 0].tolist()) <= {0, 30, 60}


@pytest.mark.parametrize("kind", ["one", "equal", "huge rows"])
def test_what_float32_can_not_tell_apart(kind: str) -> None:
    """One centre, equal ones and huge rows are left to float64, by numpy, in its own tiles."""
    x = vectors(3000)
    centers = {"one": x[:1], "equal": np.repeat(x[:1], 5, axis=0), "huge rows": x[:9]}[kind]
    if kind == "huge rows":
        x = x.copy()
        x[::7] *= np.float32(1e25)
    with computing_on("cpu"):
        labels = nearest_centers(x, centers, 1)
    np.testing.assert_array_equal(labels, nearest_centers(x, centers, 1))


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("itself", [False, True])
def test_neighbours(metric: Metric, k: int, itself: bool) -> None:
    """Neighbours and scores are those of numpy's products."""
    x = vectors(2500)
    queries = x[:300] if itself else vectors(300)

    def search() -> tuple[Any, Any, int]:
        best = TopK(queries, k, metric, np.arange(300) if itself else None)
        for first in range(0, len(x), 900):
            best.add(x[first : first + 900], np.arange(first, min(first + 900, len(x))))
        best.add(x[:4], np.arange(4) + 10_000)
        return *best.result(), best.scored

    expected = search()
    with computing_on("cpu"):
        found = search()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_near_duplicates() -> None:
    """Groups are those of numpy's products."""
    x, ids, distance = vectors(1500), np.arange(1500), RNG.random(1500)
    expected = near_duplicates(x, ids, distance, 0.9, "central")
    with computing_on("cpu"):
        found = near_duplicates(x, ids, distance, 0.9, "central")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("exact", [True, False])
def test_scatter(exact: bool) -> None:
    """A scatter matrix is that of numpy to the last bits."""
    x = vectors(2000)
    expected = Covariance.of(x, exact).scatter
    with computing_on("cpu"):
        found = Covariance.of(x, exact).scatter
    np.testing.assert_allclose(found, expected, rtol=1e-12 if exact else 1e-5, atol=1e-9 if exact else 1e-2)


def test_sums_by_segment() -> None:
    """Sums are those of numpy to the last bit, of a segment without rows as well."""
    x, order = vectors(2000), RNG.permutation(2000)[:1500]
    ends = np.array([0, 3, 3, 900, 1500])
    expected = segment_sums(x, order, ends)
    by_hand = [np.add.reduce(x[order[one:other]].astype(np.float64)) for one, other in pairwise(ends)]
    np.testing.assert_allclose(expected, by_hand, atol=1e-12)
    with computing_on("cpu"):
        np.testing.assert_array_equal(segment_sums(x, order, ends), expected)
        assert segment_sums(x[:0], order[:0], ends[:1]).shape == (0, x.shape[1])


@pytest.mark.parametrize("clusters", [1, 7])
def test_steps_of_kmeans(clusters: int) -> None:
    """What a step of k-means adds up has the same bits."""
    x = vectors(900)
    drawn = RNG.integers(0, 1 << 60, len(x)).astype(np.uint64)
    expected = ClusterSums.of(x, x[:clusters], drawn, 5)
    with computing_on("cpu"):
        found = ClusterSums.of(x, x[:clusters], drawn, 5)
    for name in ("ids", "counts", "sums", "inertia", "drawn", "spares"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_where_products_run() -> None:
    """Outside of `computing_on` numpy computes; inside, what runs is told."""
    assert products.device() is None
    assert "torch" not in kernel_name()
    with computing_on("cpu"):
        assert products.device() == "cpu"
        assert "torch cpu" in kernel_name()
    assert products.device() is None


def test_what_is_empty() -> None:
    """No rows, no pairs, no queries."""
    x = vectors(40)
    with computing_on("cpu"):
        assert Columns(x).greatest(x[:0], 3)[0].shape == (0, 3)
        assert len(pairs_above(x, x, 1e9)[0]) == 0
        assert nearest_centers(x[:0], x, 2).shape == (0, 2)
        assert scatter_of(x[:0]).shape == (24, 24)
        TopK(x[:0], 3, "dot").add(x, np.arange(40))
        TopK(x, 3, "dot").add(x[:0], np.arange(0))
