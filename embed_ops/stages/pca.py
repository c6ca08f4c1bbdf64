"""`pca`: projection on the principal components.

Exact up to a width of 8,192: one pass gathers the scatter matrix, the driver takes its
eigenvectors. Beyond, block subspace iteration (Halko, Martinsson and Tropp 2011) needs several
passes and no (dim, dim) matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Covariance, Sketch, signed
from embed_ops.numerics.tiles import Floats, Vectors, product
from embed_ops.spec.stage import PcaSpec
from embed_ops.stages.base import Block, FitInput, Round

MOST_EXACT_DIM = 8192
_MORE_DIRECTIONS = 10
_MANY, _FEW = 7, 4
"""Power iterations: many where few components of many are wanted, as scikit-learn's `auto`."""
_FEW_COMPONENTS = 0.1


@dataclass(frozen=True)
class State:
    """What the passes have summary.

    Attributes:
        rows, dim: of the run.
        summary: of the one pass, or of the latest.
        directions: (dim, directions) orthonormal, of the next pass; None with the exact solver.
        left: passes that are left.
    """

    rows: int
    dim: int
    left: int
    directions: Floats | None = None
    summary: Covariance | Sketch | None = None


@dataclass(frozen=True)
class PcaModel:
    """Principal components, as in scikit-learn's PCA.

    Attributes:
        mean: (dim,).
        components: (components, dim) orthonormal rows; the entry of greatest absolute value is
            positive.
        explained_variance: (components,) ddof 1; `singular_values`, `explained_variance_ratio`
            alike.
        noise_variance: mean variance of the dimensions left out.
        rows: that were fitted on.
        residual: greatest |Cv - lambda v| over lambda_1: 0 with the exact solver.
    """

    kind: ClassVar[str] = "pca"
    mean: Floats
    components: Floats
    explained_variance: Floats
    explained_variance_ratio: Floats
    singular_values: Floats
    noise_variance: float
    rows: int
    residual: float = 0.0

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return len(self.mean)

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Project (rows, dim) to (rows, components) float32."""
        return product(x, self.mean, self.components.T)

    def inverse(self, y: npt.NDArray[Any]) -> Vectors:
        """Turn (rows, components) back into (rows, dim) float32."""
        return (product(y, None, self.components) + self.mean).astype(np.float32)

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say how much variance is kept."""
        return {
            "dim": len(self.components),
            "explained": float(self.explained_variance_ratio.sum()),
            "explained_variance_ratio": self.explained_variance_ratio.tolist(),
            "residual": self.residual,
        }


class PcaStage:
    """Fits `PcaModel`."""

    def __init__(self, spec: PcaSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data, and draw the first directions if needed.

        Raises:
            StageError: more components than dimensions or rows, fewer than two rows, or a share
                with the subspace solver.
        """
        wanted, most = self._spec.dim, min(given.rows, given.dim)
        if given.rows < 2:
            raise StageError(f"pca: {given.rows} rows have no variance: at least 2 are needed")
        if isinstance(wanted, int) and wanted > most:
            raise StageError(
                f"pca: dim = {wanted}, but {given.rows:,} rows of width {given.dim:,} have at most "
                f"{most:,} components"
            )
        if self._spec.solver == "covariance" or (self._spec.solver == "auto" and given.dim <= MOST_EXACT_DIM):
            return State(given.rows, given.dim, 1)
        if not isinstance(wanted, int):
            raise StageError(
                f"pca: dim = {wanted} is a share of variance, which takes solver = 'covariance'; give a "
                "number of components"
            )
        width = min(most, wanted + _MORE_DIRECTIONS)
        drawn = np.random.default_rng((given.seed, 0)).standard_normal((given.dim, width))
        passes = 2 + (_MANY if wanted < _FEW_COMPONENTS * most else _FEW)
        return State(given.rows, given.dim, passes, np.linalg.qr(drawn)[0])

    def round(self, state: State) -> Round | None:
        """Read the run once more."""
        return Round("scatter", "run") if state.left else None

    def summarize(self, block: Block, state: State) -> Covariance | Sketch:
        """Give the scatter, or what the directions show of it."""
        if state.directions is not None:
            return Sketch.of(block.x, state.directions)
        return Covariance.of(
            block.x, None if self._spec.precision == "auto" else self._spec.precision == "float64"
        )

    def update(self, state: State, summary: Any) -> State:
        """Keep the scatter, or turn the directions towards the principal ones."""
        directions = state.directions
        if directions is not None and state.left > 1:
            directions = np.linalg.qr(summary.image)[0]
        return State(state.rows, state.dim, state.left - 1, directions, summary)

    def model(self, state: State) -> PcaModel:
        """Give the model."""
        summary = state.summary
        if isinstance(summary, Covariance):
            variances, axes = summary.spectrum()
            total, residual = float(variances.sum()), 0.0
        else:
            variances, axes, residual = _ritz(summary, state.directions)
            total = summary.trace / (summary.rows - 1) if summary is not None else 0.0
        ratio = variances / total if total > 0 else np.zeros_like(variances)
        kept = _kept(self._spec.dim, ratio, min(state.rows, state.dim))
        left_out = min(state.rows, state.dim) - kept
        return PcaModel(
            mean=summary.mean if summary is not None else np.zeros(state.dim),
            components=axes[:kept],
            explained_variance=variances[:kept],
            explained_variance_ratio=ratio[:kept],
            singular_values=np.sqrt(variances[:kept] * (state.rows - 1)),
            noise_variance=max(0.0, total - float(variances[:kept].sum())) / left_out if left_out else 0.0,
            rows=state.rows,
            residual=residual,
        )

    def progress(self, state: State) -> str:
        """Say how many passes are left."""
        return f"{state.left} passes left" if state.directions is not None else ""


def _kept(dim: int | float, ratio: Floats, most: int) -> int:
    """Tell how many components are kept.

    Of a share as many as explain more than it, as in scikit-learn.
    """
    if isinstance(dim, int):
        return dim
    return min(most, int(np.searchsorted(np.cumsum(ratio), dim, side="right")) + 1)


def _ritz(summary: Any, directions: Any) -> tuple[Floats, Floats, float]:
    """Take the best axes within the directions (Rayleigh-Ritz).

    Variances, axes as rows, and the residual.
    """
    image = summary.image / (summary.rows - 1)
    small = directions.T @ image
    variances, turn = np.linalg.eigh((small + small.T) / 2)
    variances, turn = np.maximum(variances[::-1], 0.0), turn[:, ::-1]
    axes = directions @ turn
    off = np.linalg.norm(image @ turn - axes * variances, axis=0)[: max(1, len(variances) - _MORE_DIRECTIONS)]
    return variances, signed(axes.T), float(off.max() / variances[0]) if variances[0] > 0 else 0.0
