"""`classify`: the label that a linear probe gives each row, and how probable it is.

The probe is fitted by `analysis/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.tiles import Floats, Vectors, in_tiles


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

    def probabilities(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Give the probability of each class for (rows, dim) vectors: (rows, classes) float32."""

        def of_tile(tile: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            scores = ((tile - self.mean) / self.scale) @ self.weights.T + self.bias
            scores -= scores.max(axis=1, keepdims=True)
            weights = np.exp(scores)
            found: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
            return found

        return in_tiles(of_tile, x)

    def transform(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Give the label of each of (rows, dim): (rows,) text."""
        found: npt.NDArray[Any] = np.array(self.classes, object)[self.probabilities(x).argmax(axis=1)]
        return found

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the label, its probability, and the probabilities of all classes."""
        found = self.probabilities(x)
        best = found.argmax(axis=1)
        return {
            "predicted": np.array(self.classes, object)[best],
            "probability": found[np.arange(len(found)), best],
            "probabilities": found,
        }

    def report(self) -> dict[str, Any]:
        """Say what was fitted."""
        return {"label": self.label, "classes": list(self.classes), "fitted_on_rows": self.rows}
