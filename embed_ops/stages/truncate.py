"""`truncate`: the first dimensions of Matryoshka vectors, brought back to length 1.

Kusupati et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.tiles import Vectors, unit_length
from embed_ops.spec.stage import TruncateSpec
from embed_ops.stages.base import Block, FitInput, Round


@dataclass(frozen=True)
class State:
    """Width of the vectors."""

    dim: int


@dataclass(frozen=True)
class TruncateModel:
    """How many dimensions of how many are kept, and whether rows are brought to length 1."""

    kind: ClassVar[str] = "truncate"
    of: int
    kept: int
    normalize: bool

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return self.of

    def transform(self, x: npt.NDArray[Any]) -> Vectors:
        """Cut (rows, dim) to (rows, kept) float32; a row of zeros stays one."""
        cut = x[:, : self.kept]
        return unit_length(cut) if self.normalize else cut.astype(np.float32)

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the vector column."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say what is kept."""
        return {"dim": self.kept, "of": self.of}


class TruncateStage:
    """Makes `TruncateModel`."""

    def __init__(self, spec: TruncateSpec) -> None:
        self._spec = spec

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data.

        Raises:
            StageError: the vectors have fewer dimensions.
        """
        if self._spec.dim > given.dim:
            raise StageError(f"truncate: dim = {self._spec.dim}, but the vectors have {given.dim} dimensions")
        return State(given.dim)

    def round(self, state: State) -> Round | None:
        """Read nothing."""
        return None

    def summarize(self, block: Block, state: State) -> None:
        """Find nothing: rows do not matter."""

    def update(self, state: State, summary: None) -> State:
        """Change nothing."""
        return state

    def model(self, state: State) -> TruncateModel:
        """Give the model."""
        return TruncateModel(state.dim, self._spec.dim, self._spec.normalize)

    def progress(self, state: State) -> str:
        """Say nothing: no rounds."""
        return ""
