"""Lists of vectors: several of one row, such as those of the words or windows of a text."""

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


def runs(begins: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]]) -> Places:
    """Give begin, begin + 1, .

    Of each (begin, count), one after the other: (sum of counts,) int64.
    """
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
