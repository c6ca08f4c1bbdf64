"""How good clusters are: inertia, balance, simplified silhouette, agreement with labels.

A mergeable summary.

Agreement is computed from the contingency table, as in scikit-learn: adjusted Rand index (Hubert
and Arabie 1985), normalised mutual information (arithmetic mean), homogeneity, completeness and
V-measure (Rosenberg and Hirschberg 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Floats, Ints

_MOST_PAIRS = 5_000_000
_LARGEST = 32
"""Clusters whose sizes are told one by one."""
_CLUSTER, _LABEL, _ROWS = "cluster", "label", "rows"


@dataclass(frozen=True)
class ClusterQuality:
    """What is counted of clustered rows.

    Attributes:
        rows: (k,) of each cluster.
        inertia: sum of squared distances; `silhouette`: sum of (second - first) / second distance.
        pairs: table of cluster, label and rows; None without labels.
    """

    rows: Ints
    inertia: float
    silhouette: float
    pairs: pa.Table | None

    @classmethod
    def of(
        cls,
        clusters: npt.NDArray[Any],
        k: int,
        inertia: float,
        first: Floats,
        second: Floats,
        labels: pa.Array | None,
    ) -> Self:
        """Count what some rows have.

        Args:
            clusters: (rows,) of each row.
            k: clusters that there are.
            inertia: sum of squared distances.
            first: (rows,) distance to the nearest centre.
            second: (rows,) distance to the second nearest centre.
            labels: (rows,) of each; None where no label was named.
        """
        share = (
            np.divide(second - first, second, out=np.zeros(len(first)), where=second > 0)
            if k > 1
            else np.zeros(len(first))
        )
        pairs = None
        if labels is not None:
            pairs = pa.table(
                {_CLUSTER: clusters.astype(np.int64), _LABEL: labels, _ROWS: np.ones(len(clusters), np.int64)}
            )
            pairs = _summed(pairs.filter(pairs[_LABEL].is_valid()))
        return cls(np.bincount(clusters, minlength=k), inertia, float(share.sum()), pairs)

    def __add__(self, other: Self) -> Self:
        """Merge.

        Raises:
            StageError: there are too many different labels for a table of them.
        """
        pairs = self.pairs if other.pairs is None else other.pairs
        if self.pairs is not None and other.pairs is not None:
            pairs = _summed(pa.concat_tables([self.pairs, other.pairs]))
            if len(pairs) > _MOST_PAIRS:
                raise StageError(
                    f"kmeans: label has more than {_MOST_PAIRS:,} pairs with clusters: name a column "
                    "with fewer values"
                )
        return type(self)(
            self.rows + other.rows, self.inertia + other.inertia, self.silhouette + other.silhouette, pairs
        )

    def report(self) -> dict[str, Any]:
        """Give the figures of `report.json`."""
        total, k = int(self.rows.sum()), len(self.rows)
        figures: dict[str, Any] = {
            "inertia": self.inertia,
            "inertia_per_row": self.inertia / max(1, total),
            "imbalance": float(k * ((self.rows / max(1, total)) ** 2).sum()),
            "smallest_cluster": int(self.rows.min()),
            "largest_cluster": int(self.rows.max()),
            "empty_clusters": int((self.rows == 0).sum()),
            "largest_clusters": {
                str(cluster): int(self.rows[cluster])
                for cluster in np.argsort(-self.rows, kind="stable")[:_LARGEST]
            },
            "simplified_silhouette": self.silhouette / max(1, total) if k > 1 else None,
        }
        return figures if self.pairs is None else figures | agreement(self.pairs)


def _summed(pairs: pa.Table) -> pa.Table:
    summed = pairs.group_by([_CLUSTER, _LABEL], use_threads=False).aggregate([(_ROWS, "sum")])
    return summed.rename_columns([_CLUSTER, _LABEL, _ROWS])


def agreement(pairs: pa.Table) -> dict[str, Any]:
    """Compare clusters with labels.

    `ari`, `nmi`, `homogeneity`, `completeness`, `v_measure`, and the rows that have a label.
    """
    counts = pairs[_ROWS].to_numpy().astype(np.float64)
    total = counts.sum()
    if total == 0:
        return {"labelled_rows": 0}
    clusters = np.unique(pairs[_CLUSTER].to_numpy(), return_inverse=True)[1]
    labels = pairs[_LABEL].combine_chunks().dictionary_encode().indices.to_numpy()
    of_cluster, of_label = np.bincount(clusters, counts), np.bincount(labels, counts)
    by_cluster, by_label = _entropy(of_cluster), _entropy(of_label)
    expected = of_cluster[clusters] * of_label[labels] / total
    information = max(0.0, float((counts / total * np.log(counts / expected)).sum()))
    mean = (by_cluster + by_label) / 2
    homogeneity = information / by_label if by_label else 1.0
    completeness = information / by_cluster if by_cluster else 1.0
    both = homogeneity + completeness
    return {
        "labelled_rows": int(total),
        "ari": _adjusted_rand(counts, of_cluster, of_label),
        "nmi": information / mean if mean else 1.0,
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": 2 * homogeneity * completeness / both if both else 0.0,
    }


def _entropy(counts: npt.NDArray[Any]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _adjusted_rand(
    counts: npt.NDArray[Any], of_cluster: npt.NDArray[Any], of_label: npt.NDArray[Any]
) -> float:
    def within(rows: npt.NDArray[Any]) -> float:
        return float((rows * (rows - 1) / 2).sum())

    together, clusters, labels, everything = (
        within(counts),
        within(of_cluster),
        within(of_label),
        within(counts.sum()[None]),
    )
    expected = clusters * labels / everything if everything else 0.0
    most = (clusters + labels) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)
