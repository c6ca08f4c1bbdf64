"""Nearest centres: the product, fused with the search tile by tile.

No (rows, centres) matrix is held.

Products choose, sums of fixed order decide (`numerics/exact.py`): labels and their distances are
the same on every processor.

numpy and not torch: both reach about the same share of a matrix product's rate on a CPU
(`bench/stages.py`), and workers need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embed_ops.numerics import exact, products
from embed_ops.numerics.products import Columns
from embed_ops.numerics.tiles import TILE_ROWS, Floats, Ints

_CENTERS = 1024
"""A tile of `TILE_ROWS` by so many scores (4 MB) is searched while it is in the cache."""
_WAITING = 64
"""Candidates of a row, on average, at which those that are too many are told apart at once."""
_SPARE = 8
"""Candidates of a row that a device gives beside those that are wanted."""
_LEAST, _GREATEST = 2.0**-80, 2.0**100
"""Squared norms between these are computed safely in float32."""


def nearest(x: npt.NDArray[Any], centers: npt.NDArray[Any]) -> Ints:
    """Find the nearest centre of each row, the lowest index where several are as near.

    Args:
        x: (rows, dim), finite.
        centers: (k, dim).

    Returns:
        (rows,) int64, the same on every processor.
    """
    return nearest_centers(x, centers, 1)[:, 0]


def nearest_centers(x: npt.NDArray[Any], centers: npt.NDArray[Any], count: int) -> Ints:
    """Find the `count` nearest centres of each row, nearest first.

    Of equally near ones the lowest index comes first.

    Args:
        x: (rows, dim), finite.
        centers: (k, dim).
        count: centres of each row.

    Returns:
        (rows, count) int64, the same on every processor; -1 where there are fewer centres.
    """
    labels = np.full((len(x), count), -1, np.int64)
    there = min(count, len(centers))
    search = _CenterSearch.of(x.dtype, centers, there)
    rows = TILE_ROWS if search.there is None else products.ROWS
    for first in range(0, len(x), rows):
        labels[first : first + rows, :there] = search.of_tile(x[first : first + rows])
    return labels


@dataclass(frozen=True)
class _CenterSearch:
    """Centres, made ready for a search by products.

    Centres are ordered as by distance if scored by x.c - |c|^2 / 2. A score is wrong by at most e
    (|x|^2 + |c|^2) / 2, where e |x| |c| bounds the error of the product. The centre's part of this
    bound is added to all scores beforehand, so that the greatest possible scores are compared; the
    floor is the least possible score of the last rank.

    Attributes:
        centers: (k, dim) as they were given; `count`: how many are wanted, at most k.
        middle: (dim,) from where rows and centres are seen.
        across: (dim, up to `_CENTERS`) the centres seen from there.
        half: (k,) half of their squared norms, float64; `error`: e.
        scores: room for those of a tile.
        there: the centres on the device, where numpy does not compute the products.
    """

    centers: npt.NDArray[Any]
    count: int
    middle: npt.NDArray[Any]
    across: list[npt.NDArray[Any]]
    half: Floats
    error: float
    scores: npt.NDArray[Any]
    there: Columns | None = None

    @classmethod
    def of(cls, kind: npt.DTypeLike, centers: npt.NDArray[Any], count: int) -> Self:
        """Prepare a search for rows of a type.

        With products in float64 where they or the centres ask for it.
        """
        kind = np.float64 if kind == np.float64 else np.float32
        # Seen from the middle of the centres: far from the origin, products would lose the digits
        # that tell centres apart. Rows and centres are seen from the very same point, so it is
        # rounded first.
        middle = centers.mean(axis=0, dtype=np.float64).astype(kind)
        shifted = centers.astype(np.float64) - middle
        half = 0.5 * exact.squared_norms(shifted)
        if kind == np.float32 and not _LEAST < half.max() < _GREATEST:
            return cls.of(np.float64, centers, count)
        # Each tile on its own: a slice of all would have rows so far apart that they displace each
        # other in the cache.
        firsts = range(0, len(shifted), _CENTERS)
        across = [np.ascontiguousarray(shifted[first : first + _CENTERS].T.astype(kind)) for first in firsts]
        error = exact.product_error(centers.shape[1], kind)
        # One buffer for all tiles: memory that is new to the process costs as much as the search.
        scores = np.empty(TILE_ROWS * min(_CENTERS, len(centers)), kind)
        there = None
        if products.device() is not None and kind == np.float32:
            there = Columns(shifted.astype(kind), (1 - error) * half)
        return cls(centers, count, middle, across, half, error, scores, there)

    def of_tile(self, tile: npt.NDArray[Any]) -> Ints:
        """Find the nearest centres of some rows: (rows, count)."""
        with np.errstate(over="ignore", invalid="ignore"):
            x = tile.astype(self.scores.dtype, copy=False) - self.middle
            squares = np.vecdot(x, x).astype(np.float64)
        if x.dtype == np.float32 and not squares.max() < _GREATEST:
            wide = self.of(np.float64, self.centers, self.count)
            firsts = range(0, len(tile), TILE_ROWS)
            return np.concatenate([wide.of_tile(tile[first : first + TILE_ROWS]) for first in firsts])
        # What is lost where products are too small for their type is less than the last term.
        own = self.error * squares + 2 * x.shape[1] * float(np.finfo(x.dtype).tiny)
        if self.there is None:
            row, place, greatest = self._candidates(tile, x, own)
        else:
            row, place, greatest = self._candidates_of_device(self.there, tile, x, own)
        order = exact.ordered(row, place, greatest)
        row, place, greatest = row[order], place[order], greatest[order]
        least = greatest - 2 * self.error * self.half[place] - own[row]
        unsure = np.bincount(row, minlength=len(x)) > self.count
        unsure[row[1:][(row[1:] == row[:-1]) & (greatest[1:] >= least[:-1])]] = True
        some = np.flatnonzero(unsure[row])
        labels = np.empty((len(x), self.count), np.int64)
        labels[~unsure] = place[~unsure[row]].reshape(-1, self.count)
        labels[unsure] = place[some[self._decided(tile, row[some], place[some])]].reshape(-1, self.count)
        return labels

    def _candidates(
        self, tile: npt.NDArray[Any], x: npt.NDArray[Any], own: Floats
    ) -> tuple[Ints, Ints, Floats]:
        """Choose by products the centres that may be among the nearest.

        Args:
            tile: (rows, dim) as they were given.
            x: (rows, dim) seen from the middle.
            own: (rows,) twice the row's part of the bound.

        Returns:
            Row, centre and greatest possible score of each candidate.
        """
        least = np.full((len(x), self.count), -np.inf)
        row, place, greatest = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        for number, across in enumerate(self.across):
            first = number * _CENTERS
            half = self.half[first : first + _CENTERS]
            score = np.matmul(x, across, out=self.scores[: len(x) * len(half)].reshape(len(x), -1))
            score -= ((1 - self.error) * half).astype(x.dtype)
            near, value = _taken(score, min(self.count, len(half)))
            possible = np.concatenate([least, value - 2 * self.error * half[near]], axis=1)
            least = np.sort(possible, axis=1)[:, -self.count :]
            floor = np.maximum(least[:, 0] - own, np.finfo(x.dtype).min)
            others, there = _above(score, floor)
            row = np.concatenate([row, np.repeat(np.arange(len(x)), near.shape[1]), others])
            place = np.concatenate([place, first + near.ravel(), first + there])
            greatest = np.concatenate([greatest, value.ravel(), score[others, there]])
            kept = np.flatnonzero(greatest >= floor[row])
            if len(kept) > _WAITING * len(x):
                kept = kept[self._decided(tile, row[kept], place[kept])]
            row, place, greatest = row[kept], place[kept], greatest[kept]
        return row, place, greatest

    def _candidates_of_device(
        self, there: Columns, tile: npt.NDArray[Any], x: npt.NDArray[Any], own: Floats
    ) -> tuple[Ints, Ints, Floats]:
        """Choose as `_candidates` does, by products on the device.

        It gives a few more than are wanted. Rows for which that may not be all are left to numpy.
        """
        most = min(self.count + _SPARE, len(self.centers))
        near, value = there.greatest(x, most)
        least = np.sort(value - 2 * self.error * self.half[near], axis=1)[:, -self.count]
        floor = np.maximum(least - own, np.finfo(x.dtype).min)
        kept = value >= floor[:, None]
        crowded = np.flatnonzero(kept[:, -1]) if most < len(self.centers) else np.empty(0, np.int64)
        kept[crowded] = False
        row, rank = np.nonzero(kept)
        parts = [(row, near[row, rank], value[row, rank].astype(np.float64))]
        for first in range(0, len(crowded), TILE_ROWS):
            some = crowded[first : first + TILE_ROWS]
            of_some, place, greatest = self._candidates(tile[some], x[some], own[some])
            parts.append((some[of_some], place, greatest))
        row, place, greatest = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return row, place, greatest

    def _decided(self, tile: npt.NDArray[Any], row: Ints, place: Ints) -> Ints:
        """Tell which candidates are the nearest of their rows, by row and nearest first."""
        order, rank = exact.ranked(row, place, -exact.squared_distances(tile, row, self.centers, place))
        return order[rank < self.count]


def _taken(score: npt.NDArray[Any], count: int) -> tuple[Ints, npt.NDArray[Any]]:
    """Take the `count` greatest of (rows, centres) scores out: places and scores, (rows, count)."""
    rows = np.arange(len(score))
    place, value = np.empty((len(score), count), np.int64), np.empty((len(score), count), score.dtype)
    for rank in range(count):
        place[:, rank] = score.argmax(axis=1)
        value[:, rank] = score[rows, place[:, rank]]
        score[rows, place[:, rank]] = -np.inf
    return place, value


def _above(score: npt.NDArray[Any], floor: Floats) -> tuple[Ints, Ints]:
    """Find the scores (rows, centres) that reach the floor (rows,) of their row.

    Rows and places.
    """
    some = np.flatnonzero(score[np.arange(len(score)), score.argmax(axis=1)] >= floor)
    row, place = np.nonzero(score[some] >= floor[some, None])
    return some[row], place


def squared_distances(x: npt.NDArray[Any], centers: npt.NDArray[Any], labels: Ints) -> Floats:
    """Compute the squared distance of each row to its centre, from the difference itself.

    In the type of the rows: (rows,).

    It is 0 where the two are equal, infinite where its terms are too large for the type, and the
    same on every processor.
    """
    if len(centers) <= len(labels):
        centers = centers.astype(x.dtype, copy=False)
    squares = np.empty(len(x))
    for part in exact.blocks(*x.shape):
        with np.errstate(over="ignore"):
            apart = x[part] - centers.take(labels[part], axis=0).astype(x.dtype, copy=False)
            apart *= apart
            squares[part] = exact.row_sums(apart)
    return squares
