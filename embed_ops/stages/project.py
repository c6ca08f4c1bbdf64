"""`project`: random projection, which keeps distances within a bound and looks at no row.

The bound is that of Johnson and Lindenstrauss.

Gaussian: entries from N(0, 1/columns). Sparse: of a share 1/sqrt(dim) of the entries,
+-sqrt(sqrt(dim)/columns) (Li, Hastie and Church 2006). Both are scaled as in scikit-learn's
`random_projection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.tiles import Floats, Vectors, product
from embed_ops.spec.stage import ProjectSpec
from embed_ops.stages.base import Block, FitInput, Round


@dataclass(frozen=True)
class State:
    """What is known of the run."""

    dim: int
    rows: int
    seed: int


@dataclass(frozen=True)
class ProjectModel:
    """The matrix (dim, columns), and the share by which distances are expected to change.

    That is of the rows for which it was made.
    """

    kind: ClassVar[str] = "project"
    method: str
    matrix: Floats
    distortion: float | None

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return len(self.matrix)

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Project (rows, dim) to (rows, columns) float32."""
        return product(x, None, self.matrix)

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say what the bound promises."""
        bound = "more than 1" if self.distortion is None else self.distortion
        return {"method": self.method, "dim": self.matrix.shape[1], "johnson_lindenstrauss_bound": bound}


class ProjectStage:
    """Draws `ProjectModel`."""

    def __init__(self, spec: ProjectSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data.

        Raises:
            StageError: the projection would be wider than the vectors.
        """
        if self._spec.dim > given.dim:
            raise StageError(
                f"project: dim = {self._spec.dim}, but the vectors have {given.dim} dimensions: nothing "
                "would be reduced"
            )
        return State(given.dim, given.rows, given.seed)

    def round(self, state: State) -> Round | None:
        """Read nothing."""
        return None

    def summarize(self, block: Block, state: State) -> None:
        """Find nothing: rows do not matter."""

    def update(self, state: State, summary: None) -> State:
        """Change nothing."""
        return state

    def model(self, state: State) -> ProjectModel:
        """Draw the matrix from the seed."""
        shape, width = (state.dim, self._spec.dim), self._spec.dim
        rng = np.random.default_rng((state.seed, 1))
        if self._spec.method == "gaussian":
            matrix = rng.standard_normal(shape) / np.sqrt(width)
        else:
            density = 1 / np.sqrt(state.dim)
            drawn = rng.random(shape)
            matrix = (
                np.where(drawn < density / 2, 1.0, 0.0) - np.where(drawn > 1 - density / 2, 1.0, 0.0)
            ) / np.sqrt(density * width)
        return ProjectModel(self._spec.method, matrix, distortion(state.rows, width))

    def progress(self, state: State) -> str:
        """Say nothing: no rounds."""
        return ""


def distortion(rows: int, dim: int) -> float | None:
    """Find the least share e with dim >= 4 ln(rows) / (e^2/2 - e^3/3) (Dasgupta and Gupta 1999).

    None where there is none below 1.
    """
    shares = np.arange(1, 1000) / 1000
    enough = np.flatnonzero(4 * np.log(max(2, rows)) / (shares**2 / 2 - shares**3 / 3) <= dim)
    return float(shares[enough[0]]) if len(enough) else None
