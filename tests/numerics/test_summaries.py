"""Partial results: merging parts of rows says what one look at all of them says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_data import Array, digits, same_bits

from embed_ops.numerics.hashing import splitmix64
from embed_ops.numerics.summaries import EXACT_DIM, Covariance, Histogram, Moments, Sketch, signed
from embed_ops.stages.kmeans.seeding import Drawn, DrawnRows
from embed_ops.stages.kmeans.sums import ClusterCounts, ClusterSums
from embed_ops.stages.rounds import added, chained

ROWS, DIM = 700, 12
OFFSETS = [0.0, 1e2, 1e4]
CUTS = st.lists(st.integers(1, ROWS - 1), max_size=12, unique=True).map(sorted)


def made(offset: float = 0.0, rows: int = ROWS, dim: int = DIM) -> Array:
    """Draw rows of unlike spread per dimension, on a grid that float32 holds exactly."""
    rng = np.random.default_rng(3)
    x = (
        rng.standard_normal((rows, dim))
        * np.linspace(0.2, 3, dim)
        @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    )
    return (np.round(x * 1024) / 1024 + offset).astype(np.float32)


def close(found: Any, wanted: Any, scale: float, part: float = 1e-12) -> bool:
    """Tell whether two arrays agree to a part of a scale."""
    return bool(np.abs(np.asarray(found) - np.asarray(wanted)).max() <= part * scale)


@pytest.mark.parametrize("offset", OFFSETS)
@given(cuts=CUTS)
def test_moments(offset: float, cuts: list[int]) -> None:
    """Mean, variance and range of any parts are numpy's of the whole."""
    x = made(offset)
    wide = x.astype(np.float64)
    found = chained(Moments.of(part) for part in np.split(x, cuts))
    assert found.rows == ROWS
    assert close(found.mean, wide.mean(axis=0), max(1.0, offset), 1e-14)
    assert close(found.variance / (wide - wide.mean(axis=0)).var(axis=0), 1, 1)
    assert np.array_equal(found.low, wide.min(axis=0))
    assert np.array_equal(found.high, wide.max(axis=0))


@pytest.mark.parametrize("offset", OFFSETS)
@given(cuts=CUTS)
def test_covariance(offset: float, cuts: list[int]) -> None:
    """Mean and scatter of any parts are numpy's of the whole, in a chain as in a tree."""
    x = made(offset)
    middle = x.astype(np.float64) - np.float64(offset)
    wanted = np.cov(middle.T) * (ROWS - 1)
    for merged in (chained, added):
        found = merged([Covariance.of(part) for part in np.split(x, cuts)])
        assert found.rows == ROWS
        assert close(found.mean - offset, middle.mean(axis=0), max(1.0, offset), 1e-14)
        assert close(found.scatter, wanted, np.abs(wanted).max())


def test_covariance_beyond_exact_width() -> None:
    """Wider vectors are multiplied in float32, to 1e-6 of the exact scatter, also at an offset."""
    for offset in (0.0, 1e4):
        x = made(offset, rows=300, dim=EXACT_DIM + 1)
        found = Covariance.of(x[:100]) + Covariance.of(x[100:])
        wanted = np.cov(x.astype(np.float64).T) * (len(x) - 1)
        assert close(found.scatter, wanted, np.abs(wanted).max(), 1e-6)
        assert close(found.mean - offset, x.mean(axis=0, dtype=np.float64) - offset, 1, 1e-7)


def test_spectrum_and_sign() -> None:
    """Axes are orthonormal, sorted by variance, and turned so that the greatest entry is positive.

    The rank counts variance.
    """
    x = made()
    found = Covariance.of(x)
    variances, axes = found.spectrum()
    assert (np.diff(variances) <= 0).all()
    assert close(axes @ axes.T, np.eye(DIM), 1, 1e-13)
    assert (axes[np.arange(DIM), np.abs(axes).argmax(axis=1)] > 0).all()
    assert found.rank(variances) == DIM
    flat = Covariance.of(np.concatenate([x, x[:, :3] * 2], axis=1))
    assert flat.rank(flat.spectrum()[0]) == DIM
    assert np.array_equal(signed(np.array([[1.0, -2.0], [-1.0, 1.0]])), [[-1.0, 2.0], [1.0, -1.0]])


@pytest.mark.parametrize("offset", OFFSETS)
@given(cuts=CUTS)
def test_sketch(offset: float, cuts: list[int]) -> None:
    """The scatter times a few directions, of any parts, is the product of the whole.

    So are trace and mean.
    """
    x = made(offset)
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, 4)))[0]
    found = chained(Sketch.of(part, directions) for part in np.split(x, cuts))
    whole = Covariance.of(x)
    scale = np.abs(whole.scatter).max() * max(1.0, offset)
    assert close(found.image, whole.scatter @ directions, scale, 1e-12)
    assert found.trace == pytest.approx(np.trace(whole.scatter), rel=1e-11)
    assert close(found.seen, whole.mean @ directions, max(1.0, offset), 1e-12)


@given(cuts=CUTS, scale=st.sampled_from([1e-30, 1.0, 1e4, 1e30]))
def test_histogram_is_exact(cuts: list[int], scale: float) -> None:
    """Counts of any parts, added in any order, are those of the whole, whatever their range."""
    x = (made() * np.float32(scale)).astype(np.float32)
    x[: ROWS // 3] *= np.float32(1e-3)
    x[:, 0], x[ROWS // 2 :, 1] = 0.0, 0.0
    parts = [Histogram.of(part) for part in np.split(x, cuts)]
    whole = Histogram.of(x)
    for found in (
        chained(parts),
        chained(parts[::-1]),
        added(parts),
        parts[0] + chained(parts[1:]) if len(parts) > 1 else whole,
    ):
        assert np.array_equal(found.exponent, whole.exponent)
        assert np.array_equal(found.counts, whole.counts)
    assert (whole.counts.sum(axis=1) == ROWS).all()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.25, 0.5, 0.9, 0.999])
def test_quantiles(share: float) -> None:
    """Quantiles are within a bin of numpy's, also of skewed and of constant dimensions."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 4)).astype(np.float32)
    x[:, 1] = np.exp(x[:, 1])
    x[:, 2], x[:, 3] = 5.0, 0.0
    found = chained(Histogram.of(part) for part in np.array_split(x, 7))
    bins = np.ldexp(1.0, (found.exponent + 1).astype(np.int32)) / found.counts.shape[1]
    ordered = np.sort(x.astype(np.float64), axis=0)
    place = min(len(x) - 1, int(np.ceil(share * len(x))) - 1)
    assert (np.abs(found.quantiles(share) - ordered[place]) <= bins).all()
    assert (np.abs(found.quantiles(share) - np.quantile(x.astype(np.float64), share, axis=0)) <= 2 * bins)[
        [0, 2, 3]
    ].all()


def test_histogram_of_powers_of_two() -> None:
    """Values at the very edges of bins and ranges fall into them.

    None is lost, none is counted elsewhere.
    """
    x = np.array([[-4.0], [-1.0], [-0.5], [0.0], [0.5], [1.0], [4.0]], np.float32)
    whole = Histogram.of(x)
    assert whole.counts.sum() == len(x)
    assert (whole.counts > 0).sum() == len(x)
    for end in range(1, len(x)):
        merged = Histogram.of(x[:end]) + Histogram.of(x[end:])
        assert np.array_equal(merged.counts, whole.counts)


@given(cuts=CUTS)
def test_cluster_sums(cuts: list[int]) -> None:
    """Counts, sums and inertia of any parts are those of the whole; spares: the least draws."""
    x, ids = made(), np.arange(ROWS)
    centers = x[:40:5].astype(np.float64)
    drawn = splitmix64(0, 1, ids)
    bounds = [*zip([0, *cuts], [*cuts, ROWS], strict=True)]
    found = chained(ClusterSums.of(x[first:end], centers, drawn[first:end], 9) for first, end in bounds)
    labels = ((x[:, None].astype(np.float64) - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(found.ids, np.unique(labels))
    assert np.array_equal(found.counts, np.bincount(labels)[found.ids])
    wanted = np.array([x[labels == one].sum(axis=0, dtype=np.float64) for one in found.ids])
    assert close(found.sums, wanted, np.abs(wanted).max(), 1e-6)
    apart = ((x - centers[labels]) ** 2).sum()
    assert found.inertia == pytest.approx(apart, rel=1e-6)
    assert same_bits(found.spares, x[np.argsort(drawn)[:9]])
    assert found.rows == ROWS


@given(cuts=CUTS)
def test_drawn(cuts: list[int]) -> None:
    """A round of k-means|| draws the same rows whatever parts it looks at."""
    x, ids, wanted = made(), np.arange(ROWS), 50
    rng = np.random.default_rng(0)
    apart, u = rng.exponential(size=ROWS), rng.random(ROWS)
    apart[::7] = 0.0
    bounds = [*zip([0, *cuts], [*cuts, ROWS], strict=True)]
    found = chained(Drawn.of(x[a:b], ids[a:b], apart[a:b], u[a:b], wanted) for a, b in bounds)
    chosen = np.flatnonzero(u * apart.sum() < wanted * apart)
    chosen = chosen[apart[chosen] > 0]
    assert np.array_equal(found.ids, chosen)
    assert same_bits(found.x, x[chosen])
    assert 25 <= len(chosen) <= 75


def test_nothing_to_draw() -> None:
    """Where every row is a candidate already, none is drawn."""
    x = made()
    assert len(Drawn.of(x, np.arange(ROWS), np.zeros(ROWS), np.full(ROWS, 0.5), 5).ids) == 0


def test_rows_and_counts() -> None:
    """Rows are put one behind the other, counts are added."""
    x = digits()[0][:10]
    both = DrawnRows(x[:4], np.arange(4)) + DrawnRows(x[4:], np.arange(4, 10))
    assert same_bits(both.x, x)
    assert np.array_equal((ClusterCounts(np.array([1, 2])) + ClusterCounts(np.array([3, 0]))).rows, [4, 2])
