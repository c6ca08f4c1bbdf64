"""`dedup`: near-duplicates within clusters (SemDeDup, Abbas et al. 2023).

Rows above a cosine, joined to groups, one of each kept.

Not fitted by rounds: what it finds is as long as the run. `postprocessing/dedup.py` brings the
rows of a cluster together and calls `near_duplicates`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from embed_ops.numerics import exact
from embed_ops.numerics.products import pairs_above
from embed_ops.numerics.tiles import Floats, Ints, Vectors, unit_length
from embed_ops.stages.base import OfOneRun

_ROWS, _COLUMNS = 512, 4096
_ROUNDING = 1e-12
"""What a cosine of 1 may lack: one text in two batches gives vectors that differ by 1e-6 of their
length, and a cosine by half the square of that."""
_DECIDED = 1024
"""Pairs that are decided at first: of many equal rows these join most, and the others need not be
looked at."""
Keep = Literal["first", "central", "outer"]


@dataclass(frozen=True)
class DedupModel(OfOneRun):
    """How many rows of a run are duplicates; it says nothing of other rows.

    Attributes:
        threshold: least cosine of duplicates.
        keep: which row of a group is kept.
        rows: of the run; `duplicates`: those not kept; `groups`: of two rows or more.
    """

    kind: ClassVar[str] = "dedup"
    threshold: float
    keep: str
    rows: int
    duplicates: int
    groups: int

    def report(self) -> dict[str, Any]:
        """Say how many are duplicates."""
        share = self.duplicates / max(1, self.rows)
        return {
            "threshold": self.threshold,
            "duplicates": self.duplicates,
            "duplicate_share": share,
            "groups": self.groups,
        }


def near_duplicates(
    x: Vectors, ids: Ints, distance: Floats, threshold: float, keep: Keep
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Find groups of rows that are connected by cosines of at least `threshold`.

    They are the same on every processor.

    Args:
        x: (rows, dim) vectors of a cluster.
        ids: (rows,) ascending, indexes of the rows.
        distance: (rows,) to the centre of the cluster.
        threshold: least cosine.
        keep: the row of a group to keep.

    Returns:
        (rows,) index of the row that is kept of each row's group, and (rows,) whether it is the
        row itself.
    """
    unit, squares = unit_length(x), exact.squared_norms(x)
    error = 2 * exact.product_error(x.shape[1], np.float32) + _ROUNDING
    labels = np.arange(len(x))
    for first in range(0, len(x), _ROWS):
        tile = unit[first : first + _ROWS]
        for begin in range(0, first + len(tile), _COLUMNS):
            part = unit[begin : min(begin + _COLUMNS, first + len(tile))]
            if (labels[begin : begin + len(part)] == labels[first]).all() and (
                labels[first : first + len(tile)] == labels[first]
            ).all():
                # One group already: thousands of copies of a row are joined by their first tiles.
                continue
            one, other, cosine = pairs_above(part, tile, threshold - error)
            sure = cosine >= threshold + error
            one, other = one + begin, other + first
            labels = _joined(labels, one[sure], other[sure])
            labels = _decided(labels, one[~sure], other[~sure], x, squares, threshold)
    order = {"first": ids.astype(np.float64), "central": distance, "outer": -distance}[keep]
    # By group, then by what is kept first, then by order: the first of each group is kept.
    ranked = np.lexsort((ids, order, labels))
    begins = np.flatnonzero(np.r_[True, labels[ranked][1:] != labels[ranked][:-1]])
    kept = np.empty(len(x), np.int64)
    kept[ranked] = np.repeat(ids[ranked][begins], np.diff(np.r_[begins, len(x)]))
    return kept, kept == ids


def _decided(labels: Ints, one: Ints, other: Ints, x: Vectors, squares: Floats, threshold: float) -> Ints:
    """Join the groups of pairs whose cosine, in float64, reaches the threshold.

    Pairs that are in one group already are not looked at.
    """
    begin, size = 0, _DECIDED
    while begin < len(one):
        pairs = np.arange(begin, min(begin + size, len(one)))
        pairs = pairs[labels[one[pairs]] != labels[other[pairs]]]
        left, right = one[pairs], other[pairs]
        norms = np.sqrt(squares[left] * squares[right])
        least = (threshold - _ROUNDING) * np.where(norms > 0, norms, 1.0)
        near = exact.dots(x, left, x, right) >= least
        labels = _joined(labels, left[near], right[near])
        begin, size = begin + size, 2 * size
    return labels


def _joined(labels: Ints, one: Ints, other: Ints) -> Ints:
    """Join groups, (rows,) labels, along pairs of rows.

    One pair of each group at a time (Boruvka): where most rows are near each other, a few of
    millions of pairs join them all.
    """
    while True:
        left, right = labels[one], labels[other]
        apart = left != right
        if not apart.any():
            return labels
        one, other, left, right = one[apart], other[apart], left[apart], right[apart]
        # Some pair of each group, whichever was written last.
        pair = np.full(len(labels), -1)
        pair[left] = pair[right] = np.arange(len(one))
        chosen = pair[pair >= 0]
        edges = (np.ones(len(chosen), bool), (left[chosen], right[chosen]))
        graph = scipy.sparse.coo_matrix(edges, shape=(len(labels), len(labels)))
        labels = connected_components(graph, directed=False)[1][labels]
