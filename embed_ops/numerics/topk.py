"""The k best rows for each query: exact, in any order of rows, in bounded memory.

Products are float32, tile by tile while they are in the cache; they only choose candidates. A
candidate is scored again in float64 from the vectors themselves, and those scores decide, ties by
the lesser row index. The threshold lies below the k-th exact score by a bound on what float32
products and norms can be wrong, 2 (d + 16) 2^-24 |q| |x| (Higham 2002, section 3.1), so that no row
is lost to rounding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.ragged import offsets_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Metric = Literal["cosine", "dot"]

_QUERIES, _ROWS = 1024, 1024
"""A tile of scores (4 MB) is searched while it is in the cache."""
_WAITING = 32_768
"""Candidates that are scored and sorted at once."""
_SCORED = 4_096
"""Pairs whose vectors are gathered at once."""


class TopK:
    """The best rows of all that were shown.

    Args:
        queries: (queries, dim) float32.
        k: rows of each query.
        metric: "cosine", of which zero vectors have none, or "dot".
        itself: (queries,) rows that are no neighbours of their query, -1 for none.

    Attributes:
        scored: products that were computed.
        zeros: rows of zeros that were shown, with metric cosine.
    """

    def __init__(self, queries: Vectors, k: int, metric: Metric, itself: Ints | None = None) -> None:
        self.k, self.metric = k, metric
        self.scored = self.zeros = 0
        self._queries = queries
        self._norms = norms_of(queries)
        self._itself = np.full(len(queries), -1, np.int64) if itself is None else itself
        # Scaled, so that a product of float32 is the score itself; a query of zeros finds nothing.
        self._scaled = (
            scaled(queries, self._norms) if metric == "cosine" else np.ascontiguousarray(queries, np.float32)
        )
        self._lengths = np.where(self._norms > 0, 1.0, 0.0) if metric == "cosine" else self._norms
        # Memory that is new to the process costs as much as the search.
        self._buffers = np.empty(_QUERIES * _ROWS, np.float32), np.empty(_QUERIES * _ROWS, np.bool_)
        self._ids = np.full((len(queries), k), -1, np.int64)
        self._scores = np.full((len(queries), k), -np.inf)

    def add(self, x: Vectors, ids: Ints, queries: Ints | None = None) -> None:
        """Show rows: (rows, dim) float32, finite, and their indexes (rows,), to all queries or to some (by number)."""
        norms = _near_norms(x)
        if self.metric == "cosine":
            fine = norms > 0
            self.zeros += len(x) - int(np.count_nonzero(fine))
            if not fine.all():
                x, ids, norms = x[fine], ids[fine], norms[fine]
            shown = scaled(x, norms)
            largest = 1.0
        else:
            shown, largest = x, float(norms.max(initial=0.0)) * 1.0001
        error = 2 * (x.shape[1] + 16) * 2.0**-24 * largest
        chosen = np.arange(len(self._queries)) if queries is None else queries
        if self.metric == "cosine":
            chosen = chosen[self._norms[chosen] > 0]
        self.scored += len(chosen) * len(x)
        for first in range(0, len(chosen), _QUERIES):
            self._tile(chosen[first : first + _QUERIES], x, shown, ids, error)

    def _tile(self, chosen: Ints, x: Vectors, shown: Vectors, ids: Ints, error: float) -> None:
        queries = self._scaled[chosen]
        slack = error * self._lengths[chosen]
        floor = self._floor(chosen, slack)
        waiting: list[tuple[Ints, Ints]] = []
        count = 0
        for begin in range(0, len(x), _ROWS):
            part = shown[begin : begin + _ROWS]
            size = len(chosen) * len(part)
            found, above = (buffer[:size].reshape(len(chosen), -1) for buffer in self._buffers)
            np.matmul(queries, part.T, out=found)
            open_ended = np.flatnonzero(np.isneginf(floor))
            if len(open_ended) and len(part) > self.k:
                # Nothing is known yet: the k-th of these rows is a bound, one more since a query
                # may be among them itself.
                least = np.partition(found[open_ended], len(part) - self.k - 1, axis=1)[
                    :, len(part) - self.k - 1
                ]
                lower: Floats = least.astype(np.float64) - 2 * slack[open_ended]
                floor[open_ended] = np.nextafter(lower.astype(np.float32), np.float32(-np.inf))
            np.greater_equal(found, floor[:, None], out=above)
            places = np.flatnonzero(above)
            waiting.append((places // len(part), places % len(part) + begin))
            count += len(places)
            if count >= _WAITING:
                self._take(chosen, waiting, x, ids)
                waiting, count, floor = [], 0, self._floor(chosen, slack)
        self._take(chosen, waiting, x, ids)

    def _floor(self, chosen: Ints, slack: Floats) -> npt.NDArray[np.float32]:
        """Give the least float32 score of a row that may be among the best: (chosen,)."""
        worst = self._scores[chosen, -1] - slack
        floor: npt.NDArray[np.float32] = np.nextafter(worst.astype(np.float32), np.float32(-np.inf))
        return floor

    def _take(self, chosen: Ints, waiting: list[tuple[Ints, Ints]], x: Vectors, ids: Ints) -> None:
        """Score candidates exactly, and keep the best."""
        query = np.concatenate([part for part, _ in waiting]) if waiting else np.empty(0, np.int64)
        if not len(query):
            return
        row = np.concatenate([part for _, part in waiting])
        query = chosen[query]
        other = ids[row] != self._itself[query]
        query, row = query[other], row[other]
        self._merge(query, ids[row], self._exact(query, row, x))

    def _exact(self, query: Ints, row: Ints, x: Vectors) -> Floats:
        found = np.empty(len(query))
        for first in range(0, len(query), _SCORED):
            part = slice(first, first + _SCORED)
            left, right = self._queries[query[part]].astype(np.float64), x[row[part]].astype(np.float64)
            found[part] = np.vecdot(left, right)
            if self.metric == "cosine":
                found[part] /= self._norms[query[part]] * np.sqrt(np.vecdot(right, right))
        return found

    def merge(self, ids: Ints, scores: Floats) -> None:
        """Add what was found elsewhere for the same queries.

        (queries, k) each, -1 where there is nothing.
        """
        query, place = np.nonzero(ids >= 0)
        self._merge(query, ids[query, place], scores[query, place])

    def _merge(self, query: Ints, ids: Ints, scores: Floats) -> None:
        touched = np.unique(query)
        known, place = np.nonzero(self._ids[touched] >= 0)
        query = np.concatenate([touched[known], query])
        ids = np.concatenate([self._ids[touched][known, place], ids])
        scores = np.concatenate([self._scores[touched][known, place], scores])
        order = np.lexsort((ids, -scores, query))
        query, ids, scores = query[order], ids[order], scores[order]
        counts = np.bincount(np.searchsorted(touched, query), minlength=len(touched))
        rank = np.arange(len(query)) - np.repeat(offsets_of(counts)[:-1], counts)
        best = rank < self.k
        self._ids[query[best], rank[best]] = ids[best]
        self._scores[query[best], rank[best]] = scores[best]

    def result(self) -> tuple[Ints, Floats]:
        """Give the best rows of each query, best first: indexes and scores, (queries, k).

        -1 and NaN where there are fewer rows.
        """
        return self._ids.copy(), np.where(self._ids >= 0, self._scores, np.nan)


def norms_of(x: Vectors) -> Floats:
    """L2 norms, row by row in float64: (rows,)."""
    wide = x.astype(np.float64)
    found: Floats = np.sqrt(np.vecdot(wide, wide))
    return found


def _near_norms(x: Vectors) -> Floats:
    """L2 norms to float32's precision, zero only for zeros: (rows,)."""
    found: Floats = np.sqrt(np.vecdot(x, x).astype(np.float64))
    # Squares of tiny and of huge numbers are no float32.
    odd = np.flatnonzero((found < 1e-15) | ~np.isfinite(found))
    if len(odd):
        found[odd] = norms_of(x[odd])
    return found


def scaled(x: Vectors, norms: Floats) -> Vectors:
    """Bring rows to length 1 in float32; zeros stay zeros."""
    found: Vectors = (x * (1.0 / np.where(norms > 0, norms, 1.0)).astype(np.float32)[:, None]).astype(
        np.float32
    )
    return found
