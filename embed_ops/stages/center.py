"""`center`: take off the mean and the top components, which all vectors share.

All-but-the-top (Mu and Viswanath 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Covariance
from embed_ops.numerics.tiles import Floats, Vectors, in_tiles
from embed_ops.spec.stage import CenterSpec
from embed_ops.stages.base import Block, FitInput, Round

_SHARE = 100
"""One component of so many dimensions is taken off by default, as the authors advise."""


@dataclass(frozen=True)
class State:
    """Components to take off, and the scatter, once the run is read."""

    components: int
    scatter: Covariance | None = None


@dataclass(frozen=True)
class CenterModel:
    """What is taken off.

    Attributes:
        mean: (dim,); `components`: (components, dim).
        removed: share of the variance that the components have.
    """

    kind: ClassVar[str] = "center"
    mean: Floats
    components: Floats
    removed: float

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return len(self.mean)

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Take mean and components off (rows, dim), as float32 of the same shape."""

        def of_tile(tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
            wide = tile.astype(np.float64) - self.mean
            return (wide - (wide @ self.components.T) @ self.components).astype(np.float32)

        centered: Vectors = in_tiles(of_tile, x)
        return centered

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say how much variance was taken off."""
        return {"components_removed": len(self.components), "variance_removed": self.removed}


class CenterStage:
    """Fits `CenterModel`."""

    def __init__(self, spec: CenterSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data.

        Raises:
            StageError: no rows, or at least as many components as dimensions.
        """
        asked = self._spec.components
        components = max(1, given.dim // _SHARE) if asked == "auto" else asked
        if given.rows < 1:
            raise StageError("center: the run has no rows")
        if components >= given.dim:
            raise StageError(
                f"center: components = {components} would leave nothing of vectors of width {given.dim}"
            )
        return State(components)

    def round(self, state: State) -> Round | None:
        """Read the run once."""
        return Round("scatter", "run") if state.scatter is None else None

    def summarize(self, block: Block, state: State) -> Covariance:
        """Give the scatter."""
        return Covariance.of(block.x)

    def update(self, state: State, summary: Covariance) -> State:
        """Keep it."""
        return State(state.components, summary)

    def model(self, state: State) -> CenterModel:
        """Give the model."""
        if state.scatter is None:
            raise StageError("center: was not fitted")
        variances, axes = state.scatter.spectrum()
        total = float(variances.sum())
        removed = float(variances[: state.components].sum()) / total if total > 0 else 0.0
        return CenterModel(state.scatter.mean, axes[: state.components], removed)

    def progress(self, state: State) -> str:
        """Say nothing: one round."""
        return ""
