"""`classify`: the label that a linear probe gives each row, and how probable it is.

The probe is fitted by `analysis/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.numerics import exact
from embed_ops.numerics.tiles import TILE_ROWS, Floats, Ints, Vectors, in_tiles


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression over standardised vectors.

    Attributes:
        classes: labels, as text.
        mean, scale: (dim,) by which vectors are standardised.
        weights: (classes, dim); `bias`: (classes,).
        rows: that it was fitted on; `label`: the column of labels.
    """

    kind: ClassVar[str] = "classify"
    classes: tuple[str, ...]
    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    rows: int
    label: str

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return len(self.mean)

    def _standardised(self, x: npt.NDArray[Any]) -> Floats:
        return (x - self.mean) / self.scale

    def _scores(self, x: npt.NDArray[Any]) -> Floats:
        """Give the log-odds of (rows, dim) vectors up to a constant: (rows, classes)."""
        scores: Floats = in_tiles(lambda tile: self._standardised(tile) @ self.weights.T + self.bias, x)
        return scores

    def _labels(self, x: npt.NDArray[Any], scores: Floats) -> Ints:
        """Decide the likeliest class of each row, of equal ones the first.

        (rows,), the same on every processor.
        """
        tiles = [slice(first, first + TILE_ROWS) for first in range(0, max(1, len(x)), TILE_ROWS)]
        return np.concatenate(
            [self._labels_of_tile(self._standardised(x[tile]), scores[tile]) for tile in tiles]
        )

    def _labels_of_tile(self, x: Floats, scores: Floats) -> Ints:
        # (rows,): what the scores of a row can be wrong.
        size = (
            np.sqrt(np.vecdot(x, x)) * np.sqrt(np.vecdot(self.weights, self.weights).max())
            + np.abs(self.bias).max()
        )
        error = exact.product_error(x.shape[1], np.float64) * size
        row, place = np.nonzero(scores >= (scores.max(axis=1) - 2 * error)[:, None])
        order, rank = exact.ranked(row, place, exact.dots(x, row, self.weights, place) + self.bias[place])
        best: Ints = place[order[rank == 0]]
        return best

    def probabilities(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Give the probability of each class for (rows, dim) vectors: (rows, classes) float32."""
        return _softmax(self._scores(x))

    def transform(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Give the label of each of (rows, dim): (rows,) text."""
        labels: npt.NDArray[Any] = np.array(self.classes, object)[self._labels(x, self._scores(x))]
        return labels

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the label, its probability, and the probabilities of all classes.

        The last bits of probabilities name the processor: its kernel of float64 products, and its
        exponential function.
        """
        scores = self._scores(x)
        best, probabilities = self._labels(x, scores), _softmax(scores)
        return {
            "predicted": np.array(self.classes, object)[best],
            "probability": probabilities[np.arange(len(best)), best],
            "probabilities": probabilities,
        }

    def report(self) -> dict[str, Any]:
        """Say what was fitted."""
        return {"label": self.label, "classes": list(self.classes), "fitted_on_rows": self.rows}


def _softmax(scores: Floats) -> npt.NDArray[np.float32]:
    """Turn (rows, classes) scores into probabilities."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
