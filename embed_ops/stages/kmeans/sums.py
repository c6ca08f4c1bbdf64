"""What steps of k-means need of some rows: mergeable sums by cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.products import segment_sums
from embed_ops.numerics.tiles import Floats, Ints
from embed_ops.stages.kmeans.nearest import nearest, squared_distances


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
        sums = segment_sums(x, order, pointers)
        inertia = float(squared_distances(x, centers, labels).sum())
        least = np.argsort(drawn, kind="stable")[:most] if drawn is not None else np.empty(0, np.int64)
        kept = drawn[least] if drawn is not None else np.empty(0, np.uint64)
        return cls(ids, counts[ids], sums, inertia, len(x), kept, x[least], most)

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
class ClusterCounts:
    """Rows of each centre, (k,) int64."""

    rows: Ints

    def __add__(self, other: Self) -> Self:
        """Merge."""
        return type(self)(self.rows + other.rows)
