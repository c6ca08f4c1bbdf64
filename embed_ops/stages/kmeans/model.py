"""What `kmeans` fits: centres, the columns they give, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.numerics.tiles import Floats, Vectors, unit_length
from embed_ops.stages.kmeans.nearest import nearest, nearest_centers, squared_distances
from embed_ops.stages.kmeans.quality import ClusterQuality


@dataclass(frozen=True)
class KMeansModel:
    """Centres of clusters.

    Attributes:
        centers: (k, dim); of length 1 where `spherical`.
        sample_rows: rows that were fitted on.
        steps: mini-batches; `inertia`: mean squared distance of a row in the last pass over the
            sample.
    """

    kind: ClassVar[str] = "kmeans"
    measured: ClassVar[tuple[str, ...]] = ("cluster", "distance", "second_distance")
    centers: Floats
    spherical: bool
    sample_rows: int
    steps: int
    inertia: float

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return int(self.centers.shape[1])

    def transform(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Give the cluster of each of (rows, dim): (rows,) int32."""
        return nearest(unit_length(x) if self.spherical else x, self.centers).astype(np.int32)

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give cluster, and distance to the nearest and the second nearest centre.

        L2, or 1 - cosine where spherical.

        With one cluster the second distance is infinite.
        """
        x = unit_length(x) if self.spherical else x
        centers = self.centers.astype(np.float32)
        labels = nearest_centers(x, self.centers, 2)
        first = squared_distances(x, centers, labels[:, 0])
        second = squared_distances(x, centers, labels[:, 1]) if len(centers) > 1 else np.full(len(x), np.inf)
        # Half of the squared distance of two vectors of length 1 is 1 - cosine.
        distances = [
            squares / 2 if self.spherical else np.sqrt(squares)
            for squares in (first, np.maximum(first, second))
        ]
        return {
            "cluster": labels[:, 0].astype(np.int32),
            "distance": distances[0].astype(np.float32),
            "second_distance": distances[1].astype(np.float32),
        }

    def report(self) -> dict[str, Any]:
        """Say what was fitted."""
        return {
            "k": len(self.centers),
            "spherical": self.spherical,
            "sample_rows": self.sample_rows,
            "steps": self.steps,
            "sample_inertia_per_row": self.inertia,
        }

    def measure(self, columns: pa.Table, labels: pa.Array | None) -> ClusterQuality:
        """Count clusters, distances, and what labels they have."""
        clusters, first, second = (
            columns[name].to_numpy().astype(kind) for name, kind in zip(self.measured, "qdd", strict=True)
        )
        inertia = float((2 * first if self.spherical else first**2).sum())
        return ClusterQuality.of(clusters, len(self.centers), inertia, first, second, labels)

    def quality(self, summary: ClusterQuality) -> dict[str, Any]:
        """Give the figures."""
        return summary.report()
