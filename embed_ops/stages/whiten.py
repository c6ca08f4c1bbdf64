"""`whiten`: dimensions without correlation, of variance 1.

In the principal axes (PCA), or turned back to those of the input (ZCA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Covariance
from embed_ops.numerics.tiles import Floats, Vectors, product
from embed_ops.spec.stage import WhitenSpec
from embed_ops.stages.base import Block, FitInput, Round


@dataclass(frozen=True)
class State:
    """The scatter, once it is scatter."""

    scatter: Covariance | None = None


@dataclass(frozen=True)
class WhitenModel:
    """A linear map.

    Attributes:
        mean: (dim,).
        matrix: (dim, columns) what vectors less the mean are multiplied with.
        rank: dimensions that have variance; `deficient`: those that have none.
    """

    kind: ClassVar[str] = "whiten"
    method: str
    mean: Floats
    matrix: Floats
    rank: int
    deficient: int

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return len(self.mean)

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Whiten (rows, dim) to (rows, columns) float32."""
        return product(x, self.mean, self.matrix)

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say what had no variance."""
        return {
            "method": self.method,
            "dim": self.matrix.shape[1],
            "rank": self.rank,
            "dimensions_without_variance": self.deficient,
        }


class WhitenStage:
    """Fits `WhitenModel`."""

    def __init__(self, spec: WhitenSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data.

        Raises:
            StageError: fewer than two rows, or more components than dimensions.
        """
        if given.rows < 2:
            raise StageError(f"whiten: {given.rows} rows have no variance: at least 2 are needed")
        if self._spec.dim is not None and self._spec.dim > given.dim:
            raise StageError(f"whiten: dim = {self._spec.dim}, but the vectors have {given.dim} dimensions")
        return State()

    def round(self, state: State) -> Round | None:
        """Read the run once."""
        return Round("scatter", "run") if state.scatter is None else None

    def summarize(self, block: Block, state: State) -> Covariance:
        """Give the scatter."""
        return Covariance.of(block.x)

    def update(self, state: State, summary: Covariance) -> State:
        """Keep it."""
        return State(summary)

    def model(self, state: State) -> WhitenModel:
        """Give the model.

        Raises:
            StageError: nothing varies, or less than `dim` asks for.
        """
        scatter = state.scatter
        if scatter is None:
            raise StageError("whiten: was not fitted")
        variances, axes = scatter.spectrum()
        rank = scatter.rank(variances)
        if rank == 0:
            raise StageError("whiten: all vectors are equal: nothing can be brought to variance 1")
        tamed = variances + self._spec.epsilon * variances[0]
        kept = len(variances) if self._spec.epsilon else rank
        wanted = kept if self._spec.dim is None else self._spec.dim
        if wanted > kept:
            raise StageError(
                f"whiten: dim = {wanted}, but only {kept} dimensions have variance; give dim = {kept} or "
                "less, or epsilon = 1e-6"
            )
        matrix = axes[:wanted].T / np.sqrt(tamed[:wanted])
        if self._spec.method == "zca":
            matrix = matrix @ axes[:wanted]
        return WhitenModel(
            self._spec.method, scatter.mean, np.ascontiguousarray(matrix), rank, len(variances) - rank
        )

    def progress(self, state: State) -> str:
        """Say nothing: one round."""
        return ""
