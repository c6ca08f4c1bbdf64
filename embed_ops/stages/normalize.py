"""`normalize`: rows of length 1, or dimensions of mean 0 and variance 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Moments
from embed_ops.numerics.tiles import Floats, Vectors, unit_length
from embed_ops.spec.stage import NormalizeSpec
from embed_ops.stages.base import Block, FitInput, Round


@dataclass(frozen=True)
class State:
    """What was summed over the run: nothing where rows are brought to length 1."""

    method: str
    moments: Moments | None = None


@dataclass(frozen=True)
class NormalizeModel:
    """Mean and scale of each dimension (standardize), or nothing (l2)."""

    kind: ClassVar[str] = "normalize"
    method: Literal["l2", "standardize"]
    mean: Floats | None = None
    scale: Floats | None = None
    constant: int = 0

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return None if self.mean is None else len(self.mean)

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Normalise (rows, dim) to float32 of the same shape; a row of zeros stays one."""
        if self.mean is None or self.scale is None:
            return unit_length(x)
        scaled: Vectors = ((x.astype(np.float64) - self.mean) / self.scale).astype(np.float32)
        return scaled

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say how many dimensions do not vary."""
        return {"method": self.method} | ({} if self.mean is None else {"constant_dimensions": self.constant})


class NormalizeStage:
    """Fits `NormalizeModel`; standardize as scikit-learn's StandardScaler.

    Ddof 0, constant dimensions are centred only.
    """

    def __init__(self, spec: NormalizeSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Begin with nothing.

        Raises:
            StageError: there are no rows to take mean and variance from.
        """
        if given.rows < 1 and self._spec.method == "standardize":
            raise StageError("normalize: the run has no rows to take mean and variance from")
        return State(self._spec.method)

    def round(self, state: State) -> Round | None:
        """Read the run once, if at all."""
        return Round("moments", "run") if state.method == "standardize" and state.moments is None else None

    def summarize(self, block: Block, state: State) -> Moments:
        """Give mean and spread."""
        return Moments.of(block.x)

    def update(self, state: State, summary: Moments) -> State:
        """Keep them."""
        return State(state.method, summary)

    def model(self, state: State) -> NormalizeModel:
        """Give the model."""
        moments = state.moments
        if moments is None:
            return NormalizeModel("l2")
        precision = np.finfo(np.float64).eps
        # scikit-learn's bound: what rounding leaves of the variance of a constant (Chan et al.
        # 1983).
        constant = (
            moments.variance
            <= moments.rows * precision * moments.variance + (moments.rows * moments.mean * precision) ** 2
        )
        scale = np.where(constant, 1.0, np.sqrt(moments.variance))
        return NormalizeModel("standardize", moments.mean, scale, int(constant.sum()))

    def progress(self, state: State) -> str:
        """Say nothing: one round."""
        return ""
