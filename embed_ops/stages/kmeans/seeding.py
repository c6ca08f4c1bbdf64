"""Where k-means starts: k-means|| (Bahmani et al. 2012), and its two-level form for many clusters.

k-means||   a few rounds, each of which draws about k rows, with probability in proportion to
            their squared distance to the candidates so far; candidates are weighted by the rows
            nearest to them and clustered in memory
two-level   sqrt(k) coarse centres by k-means||, candidates drawn in every cell, half of them
            at random and half by distance, and clustered cell by cell
"""

from __future__ import annotations

import heapq
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.tiles import Floats, Ints, Vectors
from embed_ops.stages.kmeans.nearest import nearest

ROUNDS = 5
OVERSAMPLING, OVERSAMPLING_IN_CELLS = 1.0, 0.5
"""Candidates that a round draws for each cluster; fewer in cells, since they are many and the
driver holds them all."""
LEAST_DRAWN = 256
"""Candidates that a round draws at least: of few clusters one is easily missed, and they cost
nothing."""
_LLOYD = 30
_STARTS, _FLOP_OF_STARTS = 4, 2e10
"""Of several starts over the candidates the best is kept, where they are half a second's work: one
may miss a cluster for good."""


@dataclass(frozen=True)
class Drawn:
    """Rows that a round of k-means|| draws.

    A row is drawn if u < wanted * d^2 / potential, the potential being that of all rows. A part of
    the rows has a smaller one and so keeps more than will be drawn in the end: about `wanted` rows,
    whatever its size.

    Attributes:
        x: (drawn, dim); `ids`: (drawn,) row indexes; `ratio`: (drawn,) u / d^2.
        potential: sum of squared distances to the candidates.
        wanted: rows to draw.
    """

    x: Vectors
    ids: Ints
    ratio: Floats
    potential: float
    wanted: int

    @classmethod
    def of(cls, x: Vectors, ids: Ints, apart: Floats, u: Floats, wanted: int) -> Self:
        """Draw among some rows.

        Args:
            x: (rows, dim).
            ids: (rows,) their indexes.
            apart: (rows,) squared distances to the candidates.
            u: (rows,) draws in [0, 1).
            wanted: rows to draw of the whole sample.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(apart > 0, u / apart, np.inf)
        return cls(x, ids, ratio, float(apart.sum()), wanted)._pruned()

    def _pruned(self) -> Self:
        # Without a potential every row is a candidate already.
        kept = (
            self.ratio * self.potential < self.wanted if self.potential > 0 else np.zeros(len(self.ids), bool)
        )
        return type(self)(self.x[kept], self.ids[kept], self.ratio[kept], self.potential, self.wanted)

    def __add__(self, other: Self) -> Self:
        """Merge."""
        parts = (self, other)
        x, ids, ratio = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "ids", "ratio")
        )
        return type(self)(x, ids, ratio, self.potential + other.potential, self.wanted)._pruned()


@dataclass(frozen=True)
class DrawnRows:
    """Some rows, (rows, dim), with their indexes (rows,)."""

    x: Vectors
    ids: Ints

    def __add__(self, other: Self) -> Self:
        """Put one behind the other."""
        return type(self)(np.concatenate([self.x, other.x]), np.concatenate([self.ids, other.ids]))


def nearest_in_cells(x: Vectors, coarse: Vectors, candidates: Vectors, cells: Ints) -> Ints:
    """Find the nearest candidate in each row's own cell: (rows,) int64, indexes of candidates.

    Args:
        x: (rows, dim).
        coarse: (cells, dim) centres.
        candidates: (candidates, dim), ordered by cell, at least one in each.
        cells: (candidates,) the cell of each.
    """
    labels = nearest(x, coarse)
    order = np.argsort(labels, kind="stable")
    places = np.empty(len(x), np.int64)
    ends = np.cumsum(np.bincount(labels, minlength=len(coarse)))
    bounds = np.searchsorted(cells, np.arange(len(coarse) + 1))
    for cell in np.unique(labels):
        mine = order[ends[cell - 1] if cell else 0 : ends[cell]]
        places[mine] = bounds[cell] + nearest(x[mine], candidates[bounds[cell] : bounds[cell + 1]])
    return places


def clustered(candidates: Vectors, weights: npt.NDArray[Any], k: int, seed: int) -> tuple[Floats, Floats]:
    """Cluster weighted candidates in memory, by scikit-learn on one core: k-means++, then Lloyd.

    Args:
        candidates: (candidates, dim), at least k.
        weights: (candidates,).
        k: clusters.
        seed: of what it draws.

    Returns:
        (k, dim) centres, and (k,) the weight of each.
    """
    if len(candidates) == k:
        return candidates.astype(np.float64), weights.astype(np.float64)
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # A candidate to which no row is nearest any more still may be a centre: k-means++ can't draw
    # from weights of zero alone.
    weights = np.maximum(weights, 1e-3)
    starts = int(
        np.clip(_FLOP_OF_STARTS / (2.0 * len(candidates) * k * candidates.shape[1] * _LLOYD), 1, _STARTS)
    )
    best: Any = None
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct candidates than clusters: empty clusters are repaired later.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # In float64: for float32 scikit-learn copies all candidates anew for each centre that it
        # draws, which takes twice as long.
        wide = candidates.astype(np.float64)
        for start in range(starts):
            first, _ = kmeans_plusplus(wide, k, sample_weight=weights, random_state=(seed + start) % 2**32)
            fitted = KMeans(k, init=first.astype(candidates.dtype), n_init=1, max_iter=_LLOYD).fit(
                candidates, sample_weight=weights
            )
            best = fitted if best is None or fitted.inertia_ < best.inertia_ else best
    of_clusters: Floats = np.bincount(best.labels_, weights, k).astype(np.float64)
    return best.cluster_centers_.astype(np.float64), of_clusters


def shared_out(k: int, weights: Ints, most: Ints) -> Ints:
    """Divide k clusters among cells in proportion to their rows.

    Each cell that has rows gets at least one, and at most `most`.

    Args:
        k: clusters, at most the sum of `most`.
        weights: (cells,) rows.
        most: (cells,) candidates.
    """
    exact = k * weights / weights.sum()
    given: Ints = np.minimum(np.maximum(np.floor(exact).astype(np.int64), weights > 0), most)
    while given.sum() != k:
        # The cell that lacks most gets one more, or the one that has most too many gives one.
        if given.sum() < k:
            given[np.where(given < most, exact - given, -np.inf).argmax()] += 1
        else:
            given[np.where(given > 1, given - exact, -np.inf).argmax()] -= 1
    return given


def merged_down(cells: list[tuple[Floats, Floats]], k: int) -> tuple[Floats, Floats]:
    """Join clusters until k are left.

    Each time the two of one cell whose union costs least inertia (Ward 1963).

    Cells get clusters by their rows in a sample, which is off by a few: where each has some too
    many, those that are least needed go, whatever cell they are in.

    Args:
        cells: (clusters, dim) centres and (clusters,) weights of each cell.
        k: clusters, at most as many as there are.

    Returns:
        (k, dim) centres, and (k,) the weight of each.
    """
    cells = [(centers.copy(), weights.copy()) for centers, weights in cells]
    costs = [np.full((len(centers), len(centers)), np.inf, np.float32) for centers, _ in cells]
    for cell, (centers, _) in enumerate(cells):
        for place in range(len(centers)):
            _price(costs[cell], *cells[cell], place)
    waiting = [(float(cost.min()), cell) for cell, cost in enumerate(costs) if len(cost) > 1]
    heapq.heapify(waiting)
    for _ in range(sum(len(centers) for centers, _ in cells) - k):
        _, cell = waiting[0]
        (centers, weights), cost = cells[cell], costs[cell]
        one, other = divmod(int(cost.argmin()), len(cost))
        total = max(weights[one] + weights[other], np.finfo(np.float64).tiny)
        centers[one] = (centers[one] * weights[one] + centers[other] * weights[other]) / total
        weights[one], weights[other] = total, -1.0
        cost[other, :] = cost[:, other] = np.inf
        _price(cost, centers, weights, one)
        heapq.heapreplace(waiting, (float(cost.min()), cell))
    left = [(centers[weights >= 0], weights[weights >= 0]) for centers, weights in cells]
    return np.concatenate([centers for centers, _ in left]), np.concatenate([weights for _, weights in left])


def _price(cost: npt.NDArray[np.float32], centers: Floats, weights: Floats, place: int) -> None:
    """Compute what joining a cluster with each other one of its cell costs.

    Those that are gone (negative weight) are left out.
    """
    there = weights >= 0
    apart = centers[there] - centers[place]
    share = (
        weights[there]
        * weights[place]
        / np.maximum(weights[there] + weights[place], np.finfo(np.float64).tiny)
    )
    cost[place, there] = cost[there, place] = share * np.vecdot(apart, apart)
    cost[place, place] = np.inf
