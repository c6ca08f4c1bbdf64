"""The k best rows for each query: exact, in any order of rows, in bounded memory.

Products are float32, tile by tile while they are in the cache; they only choose candidates. A
candidate is scored again in float64 from the vectors themselves (`exact.py`), and those scores
decide, ties by the lesser row index: neighbours and scores are the same on every processor. The
threshold lies below the k-th exact score by twice a bound on what products of vectors of length 1
can be wrong, so that no row is lost to rounding.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embed_ops.numerics import exact, products
from embed_ops.numerics.products import Columns

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Metric = Literal["cosine", "dot"]

_QUERIES, _ROWS = 1024, 1024
"""A tile of scores (4 MB) is searched while it is in the cache."""
_SPARE = 8
"""Candidates of a query that a device gives beside k."""
_WAITING = 32_768
"""Candidates that are scored and sorted at once."""


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
        self._squares = exact.squared_norms(queries)
        self._norms = np.sqrt(self._squares)
        self._itself = np.full(len(queries), -1, np.int64) if itself is None else itself
        # Of length 1, so that no product is too large for float32.
        self._scaled = scaled(queries, self._norms)
        self._error = 2 * exact.product_error(queries.shape[1], np.float32)
        # Memory that is new to the process costs as much as the search.
        self._buffers = np.empty(_QUERIES * _ROWS, np.float32), np.empty(_QUERIES * _ROWS, np.bool_)
        self._ids = np.full((len(queries), k), -1, np.int64)
        self._scores = np.full((len(queries), k), -np.inf)

    def add(self, x: Vectors, ids: Ints, queries: Ints | None = None) -> None:
        """Show rows to all queries.

        Args:
            x: (rows, dim) float32, finite.
            ids: (rows,) their indexes.
            queries: the numbers of some queries, to show the rows to these only.
        """
        norms = _near_norms(x)
        if self.metric == "cosine":
            fine = norms > 0
            self.zeros += len(x) - int(np.count_nonzero(fine))
            if not fine.all():
                x, ids, norms = x[fine], ids[fine], norms[fine]
            shown, unit = scaled(x, norms), np.ones(len(self._queries))
        else:
            largest = float(norms.max(initial=0.0)) or 1.0
            shown, unit = (
                scaled(x, np.full(len(x), largest)),
                np.where(self._norms > 0, self._norms, 1.0) * largest,
            )
        chosen = np.arange(len(self._queries)) if queries is None else queries
        if self.metric == "cosine":
            chosen = chosen[self._norms[chosen] > 0]
        self.scored += len(chosen) * len(x)
        if products.device() is not None:
            chosen = self._on_device(chosen, x, shown, ids, unit)
        for first in range(0, len(chosen), _QUERIES):
            self._tile(chosen[first : first + _QUERIES], x, shown, ids, unit)

    def _tile(self, chosen: Ints, x: Vectors, shown: Vectors, ids: Ints, unit: Floats) -> None:
        """Search rows for some queries; `unit`: (queries,) the score whose product is 1."""
        queries = self._scaled[chosen]
        floor = self._floor(chosen, unit)
        waiting: list[tuple[Ints, Ints]] = []
        count = 0
        for begin in range(0, len(x), _ROWS):
            part = shown[begin : begin + _ROWS]
            size = len(chosen) * len(part)
            products, above = (buffer[:size].reshape(len(chosen), -1) for buffer in self._buffers)
            np.matmul(queries, part.T, out=products)
            open_ended = np.flatnonzero(np.isneginf(floor))
            if len(open_ended) and len(part) > self.k:
                # Nothing is known yet: the k-th of these rows is a bound, one more since a query
                # may be among them itself.
                least = np.partition(products[open_ended], len(part) - self.k - 1, axis=1)[
                    :, len(part) - self.k - 1
                ]
                floor[open_ended] = _below(least, self._error)
            np.greater_equal(products, floor[:, None], out=above)
            places = np.flatnonzero(above)
            waiting.append((places // len(part), places % len(part) + begin))
            count += len(places)
            if count >= _WAITING:
                self._take(chosen, waiting, x, ids)
                waiting, count, floor = [], 0, self._floor(chosen, unit)
        self._take(chosen, waiting, x, ids)

    def _on_device(self, chosen: Ints, x: Vectors, shown: Vectors, ids: Ints, unit: Floats) -> Ints:
        """Search rows for some queries by products on the device.

        It gives a few more than k. Gives the queries for which that may not be all.
        """
        most = min(self.k + _SPARE, len(x))
        if not len(chosen) or not most:
            return chosen[:0]
        columns, crowded = Columns(shown), [chosen[:0]]
        for first in range(0, len(chosen), products.ROWS):
            some = chosen[first : first + products.ROWS]
            near, value = columns.greatest(self._scaled[some], most)
            floor = self._floor(some, unit)
            open_ended = np.isneginf(floor)
            if most > self.k:
                floor[open_ended] = _below(value[open_ended, self.k], self._error)
            kept = value >= floor[:, None]
            many = kept[:, -1] & (most < len(x))
            kept[many] = False
            query, rank = np.nonzero(kept)
            self._take(some, [(query, near[query, rank])], x, ids)
            crowded.append(some[many])
        return np.concatenate(crowded)

    def _floor(self, chosen: Ints, unit: Floats) -> npt.NDArray[np.float32]:
        """Give the least float32 product of a row that may be among the best: (chosen,)."""
        worst = self._scores[chosen, -1] / unit[chosen] - self._error
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
        scores = exact.dots(self._queries, query, x, row)
        if self.metric == "cosine":
            rows, places = np.unique(row, return_inverse=True)
            # One root of both, so that the cosine of equal vectors is exactly 1.
            scores /= np.sqrt(self._squares[query] * exact.squared_norms(x[rows])[places])
        return scores

    def merge(self, ids: Ints, scores: Floats) -> None:
        """Add the best rows of other parts for the same queries.

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
        order, rank = exact.ranked(query, ids, scores)
        query, ids, scores = query[order], ids[order], scores[order]
        best = rank < self.k
        self._ids[query[best], rank[best]] = ids[best]
        self._scores[query[best], rank[best]] = scores[best]

    def result(self) -> tuple[Ints, Floats]:
        """Give the best rows of each query, best first: indexes and scores, (queries, k).

        -1 and NaN where there are fewer rows.
        """
        return self._ids.copy(), np.where(self._ids >= 0, self._scores, np.nan)


def _below(least: npt.NDArray[Any], error: float) -> Vectors:
    """Give what the products of the best may not lie below, where `least` is the k-th of some."""
    lower: Floats = least.astype(np.float64) - 2 * error
    floor: Vectors = np.nextafter(lower.astype(np.float32), np.float32(-np.inf))
    return floor


def _near_norms(x: Vectors) -> Floats:
    """L2 norms to float32's precision, zero only for zeros: (rows,)."""
    with np.errstate(over="ignore"):
        norms: Floats = np.sqrt(np.vecdot(x, x).astype(np.float64))
    # Squares of tiny and of huge numbers are no float32.
    odd = np.flatnonzero((norms < 1e-15) | ~np.isfinite(norms))
    if len(odd):
        norms[odd] = exact.norms_of(x[odd])
    return norms


def scaled(x: Vectors, norms: Floats) -> Vectors:
    """Divide rows by their norms, as float32; zeros stay zeros."""
    return (x / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
