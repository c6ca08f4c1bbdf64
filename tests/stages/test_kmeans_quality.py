"""How good the clusters are that k-means finds.

Against scikit-learn on the same data, over several seeds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from stage_data import Array, blobs, cancer, digits, fitted

SEEDS = range(5)
DATA: dict[str, tuple[Any, int, int]] = {
    "digits k=10": (lambda: digits()[0], 10, 256),
    "digits k=50": (lambda: digits()[0], 50, 256),
    "cancer k=5": (cancer, 5, 256),
    "cancer k=2": (cancer, 2, 256),
    **{f"blobs {seed}": (lambda seed=seed: blobs(6000, 16, 30, 1.0, seed)[0], 30, 1024) for seed in range(4)},
    "blobs k=100": (lambda: blobs(10_000, 16, 100)[0], 100, 1024),
}


def inertia(x: Array, centers: Array) -> float:
    """Sum the squared distances to the nearest centre."""
    return float(cdist(x.astype(np.float64), centers, "sqeuclidean").min(axis=1).sum())


@cache
def ours(data: str) -> float:
    """Give the mean inertia of our fits."""
    make, k, _ = DATA[data]
    return float(
        np.mean([inertia(make(), fitted(make(), seed, kind="kmeans", k=k).centers) for seed in SEEDS])
    )


@pytest.mark.parametrize("data", DATA)
def test_against_mini_batch(data: str) -> None:
    """Mean inertia over five seeds is at most 1.02 times that of scikit-learn's MiniBatchKMeans."""
    make, k, batch = DATA[data]
    peers = [
        MiniBatchKMeans(k, batch_size=batch, random_state=seed).fit(make()).cluster_centers_ for seed in SEEDS
    ]
    assert ours(data) <= 1.02 * np.mean([inertia(make(), centers) for centers in peers])


@pytest.mark.parametrize("data", DATA)
def test_against_lloyd(data: str) -> None:
    """Mean inertia over five seeds is at most 1.03 times that of scikit-learn's KMeans."""
    make, k, _ = DATA[data]
    peers = [KMeans(k, n_init=1, random_state=seed).fit(make()).inertia_ for seed in SEEDS]
    assert ours(data) <= 1.03 * np.mean(peers)


def test_classes_of_digits() -> None:
    """Ten clusters tell the digits apart: normalised mutual information of 0.70 or more."""
    x, y = digits()
    found = [
        normalized_mutual_info_score(y, fitted(x, seed, kind="kmeans", k=10).transform(x)) for seed in SEEDS
    ]
    assert np.mean(found) >= 0.70


@pytest.mark.parametrize("init", ["k-means||", "two-level"])
def test_blobs_are_found(init: str) -> None:
    """Blobs of next to no spread are found exactly."""
    x, y = blobs(5000, 16, 30, 0.01)
    for seed in SEEDS:
        assert adjusted_rand_score(y, fitted(x, seed, kind="kmeans", k=30, init=init).transform(x)) == 1.0


@pytest.mark.parametrize(("init", "most"), [("two-level", 1.03), ("random", 1.10)])
def test_other_starts(init: str, most: float) -> None:
    """The two-level start is nearly as good as k-means||.

    A random one is worse, within what is known of it.
    """
    x, k = digits()[0], 50
    found = np.mean([inertia(x, fitted(x, seed, kind="kmeans", k=k, init=init).centers) for seed in SEEDS])
    assert found <= most * ours("digits k=50")


@pytest.mark.parametrize("sample_rows", ["auto", 1200])
def test_order_of_rows(sample_rows: Any) -> None:
    """Rows sorted by class give inertia within 2 % of shuffled rows, also from a sample."""
    x, y = digits()
    orders = {
        "sorted": np.argsort(y, kind="stable"),
        "shuffled": np.random.default_rng(0).permutation(len(x)),
    }
    found = {
        name: np.mean(
            [
                inertia(x, fitted(x[order], seed, kind="kmeans", k=10, sample_rows=sample_rows).centers)
                for seed in SEEDS
            ]
        )
        for name, order in orders.items()
    }
    assert found["sorted"] == pytest.approx(found["shuffled"], rel=0.02)


def test_skewed_clusters() -> None:
    """A cluster of a thousandth of the rows, far from all others, gets a centre."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 8)).astype(np.float32)
    x[:20] += 100
    for seed in SEEDS:
        labels = fitted(x, seed, kind="kmeans", k=8).transform(x)
        assert len(np.unique(labels[:20])) == 1
        assert not np.isin(labels[20:], labels[:20]).any()


def test_many_clusters() -> None:
    """Five hundred clusters: both starts find more of them than MiniBatchKMeans; none is empty."""
    x, _ = blobs(30_000, 32, 500)
    peer = inertia(x, MiniBatchKMeans(500, batch_size=1024, random_state=0).fit(x).cluster_centers_)
    for init, share in (("k-means||", 0.7), ("two-level", 0.9)):
        model = fitted(x, kind="kmeans", k=500, init=init)
        assert inertia(x, model.centers) <= share * peer
        assert len(np.unique(model.transform(x))) == 500
