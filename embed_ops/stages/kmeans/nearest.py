"""Nearest centres: the product, fused with the search tile by tile.

So that no (rows, centres) matrix is ever held.

numpy and not torch: both reach about the same share of a matrix product's rate on a CPU
(`bench/stages.py`), and workers need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse

from embed_ops.numerics.tiles import TILE_ROWS, Floats, Ints, in_tiles

_CENTERS = 1024
"""A tile of `TILE_ROWS` by so many scores (4 MB) is searched while it is in the cache."""


def nearest(x: npt.NDArray[Any], centers: npt.NDArray[Any]) -> Ints:
    """Find the nearest centre of each row, the lowest index where several are as near.

    Args:
        x: (rows, dim).
        centers: (k, dim).

    Returns:
        (rows,) int64.
    """
    return two_nearest(x, centers, 1)[:, 0]


def two_nearest(x: npt.NDArray[Any], centers: npt.NDArray[Any], count: int = 2) -> Ints:
    """Find the nearest and the second nearest centre of each row: (rows, count) int64.

    Second -1 where there is one centre.
    """
    kind = np.float64 if x.dtype == np.float64 else np.float32
    # Seen from the middle of the centres: far from the origin, products would lose the digits that
    # tell centres apart. Rows and centres are seen from the very same point, so it is rounded
    # first.
    middle = centers.mean(axis=0, dtype=np.float64).astype(kind)
    shifted = centers.astype(np.float64) - middle
    half = (0.5 * np.einsum("ij,ij->i", shifted, shifted)).astype(kind)
    # Each tile of centres on its own: a slice of all of them would have rows so far apart that they
    # displace each other in the cache.
    across = [
        np.ascontiguousarray(shifted[first : first + _CENTERS].T.astype(kind))
        for first in range(0, len(shifted), _CENTERS)
    ]
    # One buffer for all tiles: memory that is new to the process costs as much as the search.
    scores = np.empty(TILE_ROWS * min(_CENTERS, len(centers)), kind)

    def of_tile(tile: npt.NDArray[Any]) -> Ints:
        return _search(tile.astype(kind, copy=False) - middle, across, half, count, scores)

    found: Ints = in_tiles(of_tile, x)
    return found


def _search(
    x: npt.NDArray[Any],
    across: list[npt.NDArray[Any]],
    half: npt.NDArray[Any],
    count: int,
    scores: npt.NDArray[Any],
) -> Ints:
    rows = np.arange(len(x))
    best = np.full((len(x), count), -np.inf, x.dtype)
    found = np.full((len(x), count), -1, np.int64)
    for first, tile in zip(range(0, len(half), _CENTERS), across, strict=True):
        score = np.matmul(x, tile, out=scores[: len(x) * tile.shape[1]].reshape(len(x), -1))
        score -= half[first : first + _CENTERS]
        for _ in range(min(count, score.shape[1])):
            place = score.argmax(axis=1)
            value = score[rows, place]
            _insert(best, found, value, place + first)
            if count > 1:
                score[rows, place] = -np.inf
    return found


def _insert(best: npt.NDArray[Any], found: Ints, value: npt.NDArray[Any], place: Ints) -> None:
    """Put a candidate of each row where it belongs among the best.

    An equal one that came earlier stays before it.
    """
    first = value > best[:, 0]
    if best.shape[1] > 1:
        second = ~first & (value > best[:, 1])
        best[first, 1], found[first, 1] = best[first, 0], found[first, 0]
        best[second, 1], found[second, 1] = value[second], place[second]
    best[first, 0], found[first, 0] = value[first], place[first]


def squared_distances(x: npt.NDArray[Any], centers: npt.NDArray[Any], labels: Ints) -> Floats:
    """Compute the squared distance of each row to its centre, from the difference itself.

    Exact where the two are equal.
    """
    if len(centers) <= len(labels):
        centers = centers.astype(x.dtype, copy=False)
    apart = centers[labels].astype(x.dtype, copy=False)
    np.subtract(x, apart, out=apart)
    # Row by row: a sum over several rows at once would be split where a buffer ends, beyond 8,192
    # dimensions.
    found: Floats = np.vecdot(apart, apart).astype(np.float64)
    return found


@dataclass(frozen=True)
class ClusterSums:
    """What a step of k-means needs of some rows; only of the clusters that have some.

    Attributes:
        ids: (clusters,) ascending; `counts`: rows of each; `sums`: (clusters, dim) of their rows.
        inertia: sum of squared distances to the nearest centre.
        rows: how many.
        drawn: (spares,) uint64 ascending, the least draws among the rows; `spares`: (spares, dim)
            those rows.
        most: spares that are kept.
    """

    ids: Ints
    counts: Ints
    sums: Floats
    inertia: float
    rows: int
    drawn: npt.NDArray[np.uint64]
    spares: npt.NDArray[Any]
    most: int

    @classmethod
    def of(
        cls, x: npt.NDArray[Any], centers: npt.NDArray[Any], drawn: npt.NDArray[np.uint64] | None, most: int
    ) -> Self:
        """Assign (rows, dim) to (k, dim) centres and sum.

        Keeps the `most` rows of the least draws as spares.
        """
        labels = nearest(x, centers)
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(centers))
        ids = np.flatnonzero(counts)
        pointers = np.concatenate([[0], np.cumsum(counts[ids])])
        chosen = scipy.sparse.csr_matrix((np.ones(len(x)), order, pointers), shape=(len(ids), len(x)))
        inertia = float(squared_distances(x, centers, labels).sum())
        least = np.argsort(drawn, kind="stable")[:most] if drawn is not None else np.empty(0, np.int64)
        kept = drawn[least] if drawn is not None else np.empty(0, np.uint64)
        return cls(ids, counts[ids], chosen @ x, inertia, len(x), kept, x[least], most)

    def __add__(self, other: Self) -> Self:
        """Merge."""
        ids = np.union1d(self.ids, other.ids)
        counts = np.zeros(len(ids), np.int64)
        sums = np.zeros((len(ids), self.sums.shape[1]))
        for part in (self, other):
            places = np.searchsorted(ids, part.ids)
            counts[places] += part.counts
            sums[places] += part.sums
        drawn = np.concatenate([self.drawn, other.drawn])
        least = np.argsort(drawn, kind="stable")[: self.most]
        spares = np.concatenate([self.spares, other.spares])[least]
        return type(self)(
            ids,
            counts,
            sums,
            self.inertia + other.inertia,
            self.rows + other.rows,
            drawn[least],
            spares,
            self.most,
        )


@dataclass(frozen=True)
class Counts:
    """Rows of each centre, (k,) int64."""

    rows: Ints

    def __add__(self, other: Self) -> Self:
        """Merge."""
        return type(self)(self.rows + other.rows)
