"""Lists of vectors: several of one row, one after the other, as words and windows have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Places = npt.NDArray[np.int64]


def offsets_of(counts: npt.NDArray[np.integer[Any] | np.bool_]) -> Places:
    """Add counts up: (n,) to (n + 1,) int64, from 0."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def offsets_of_equal(*keys: Places) -> Places:
    """Find where neighbours of equal keys begin: (n,) each to (groups + 1,) int64, n at the end."""
    count = len(keys[0])
    changes = np.logical_or.reduce([np.diff(key) != 0 for key in keys])  # (n - 1,)
    offsets: Places = np.r_[np.flatnonzero(np.r_[True, changes])[:count], count].astype(np.int64)
    return offsets


def runs(begins: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]]) -> Places:
    """Give the whole numbers from each begin on, as many as its count: (sum of counts,) int64."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(np.asarray(begins, np.int64) - offsets[:-1], counts)


@dataclass(frozen=True)
class Ragged:
    """A list of vectors for each row.

    Attributes:
        values: (vectors, dim), or (vectors,) of other things that go with them.
        offsets: (rows + 1,) int64; row i has values[offsets[i]:offsets[i + 1]].
    """

    values: Values
    offsets: Places

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Places:
        """(rows,) vectors of each row."""
        return np.diff(self.offsets)

    def take(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> Self:
        """Choose rows by index or by a mask."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        counts = self.counts[index]
        return type(self)(self.values[runs(self.offsets[:-1][index], counts)], offsets_of(counts))

    def keep(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Choose vectors by a mask, (vectors,); rows stay."""
        return type(self)(self.values[mask], offsets_of(mask)[self.offsets])

    def all(self, of_vector: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell of which rows something is true of all vectors: (vectors,) to (rows,)."""
        bad = offsets_of(~of_vector)[self.offsets]
        return np.equal(bad[1:], bad[:-1])

    def first(self) -> Values:
        """Give the first vector of each list: (rows, dim); no list is empty."""
        return self.values[self.offsets[:-1]]

    def last(self) -> Values:
        """Give the last vector of each list: (rows, dim); no list is empty."""
        return self.values[self.offsets[1:] - 1]

    def max(self) -> Values:
        """Give the greatest value of each dimension in each list: (rows, dim); no list is empty."""
        if not len(self):
            return self.values[:0]
        greatest: Values = np.maximum.reduceat(self.values, self.offsets[:-1], axis=0)
        return greatest

    def mean(self, weights: npt.NDArray[Any]) -> Values:
        """Average each list: (rows, dim); no list is empty.

        A list of one is that vector to the bit; the others are summed in float64.

        Args:
            weights: (vectors,), positive.
        """
        means = self.first().copy()
        for row in np.flatnonzero(self.counts > 1).tolist():
            mine = slice(self.offsets[row], self.offsets[row + 1])
            means[row] = np.average(self.values[mine].astype(np.float64), axis=0, weights=weights[mine])
        return means
