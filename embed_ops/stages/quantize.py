"""`quantize`: 8 bits or 1 bit a dimension, with one range per dimension for all rows.

Codes in range are those of sentence-transformers' `quantize_embeddings` with the same ranges;
values out of range are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.summaries import Histogram, Moments
from embed_ops.numerics.tiles import Vectors
from embed_ops.spec.stage import QuantizeSpec
from embed_ops.stages.base import Block, FitInput, Round

_STEPS = 255
_ZERO = 128


@dataclass(frozen=True)
class Ranges:
    """Least and greatest values, and where percentiles are wanted a histogram."""

    moments: Moments
    histogram: Histogram | None

    def __add__(self, other: Self) -> Self:
        """Merge."""
        both = None if self.histogram is None or other.histogram is None else self.histogram + other.histogram
        return type(self)(self.moments + other.moments, both)


@dataclass(frozen=True)
class State:
    """Width of the vectors, and their ranges, once they are ranges."""

    dim: int
    ranges: Ranges | None = None


@dataclass(frozen=True)
class QuantizeModel:
    """Ranges of the dimensions; none for 1 bit.

    Attributes:
        to: kind of code.
        of: width of the vectors.
        low: (dim,) float32, the value of the least code; `high`: of the greatest.
    """

    kind: ClassVar[str] = "quantize"
    to: str
    of: int
    low: Vectors | None = None
    high: Vectors | None = None

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return self.of

    def transform(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Code (rows, dim) as (rows, dim) int8 or uint8, or (rows, ceil(dim / 8)) packed bits."""
        if self.low is None or self.high is None:
            packed: npt.NDArray[Any] = np.packbits(x > 0, axis=1)
            return packed if self.to == "ubinary" else (packed.astype(np.int16) - _ZERO).astype(np.int8)
        step = self._step
        # A constant dimension has no step: its code is the least one.
        steps = np.floor(
            (x.astype(np.float32, copy=False) - self.low) / np.where(step == 0, np.float32(1), step)
        )
        steps = np.clip(steps, 0, _STEPS)
        codes: npt.NDArray[Any] = (
            steps.astype(np.uint8) if self.to == "uint8" else (steps - _ZERO).astype(np.int8)
        )
        return codes

    @property
    def _step(self) -> Vectors:
        if self.low is None or self.high is None:
            return np.ones(1, np.float32)
        step: Vectors = (self.high - self.low) / np.float32(_STEPS)
        return step

    def inverse(self, codes: npt.NDArray[Any]) -> Vectors:
        """Turn codes back into (rows, dim) float32: the middle of each step, or -1 and 1 for bits.

        What is constant exactly.
        """
        if self.low is None:
            bits = codes if self.to == "ubinary" else (codes.astype(np.int16) + _ZERO).astype(np.uint8)
            return np.unpackbits(bits, axis=1)[:, : self.of].astype(np.float32) * 2 - 1
        steps = codes.astype(np.float32) + (0 if self.to == "uint8" else _ZERO)
        middles: Vectors = (self.low + (steps + np.float32(0.5)) * self._step).astype(np.float32)
        return middles

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Give the column of codes."""
        return {name: self.transform(x)}

    def report(self) -> dict[str, Any]:
        """Say which code, and how many dimensions are constant."""
        if self.low is None or self.high is None:
            return {"to": self.to}
        return {"to": self.to, "constant_dimensions": int((self.high == self.low).sum())}


class QuantizeStage:
    """Fits `QuantizeModel`."""

    def __init__(self, spec: QuantizeSpec) -> None:
        self._spec = spec
        self._bits = spec.to in ("binary", "ubinary")

    def start(self, given: FitInput) -> State:
        """Begin with nothing.

        Raises:
            StageError: there are no rows to take ranges from.
        """
        if given.rows < 1 and not self._bits:
            raise StageError("quantize: the run has no rows to take ranges from")
        return State(given.dim)

    def round(self, state: State) -> Round | None:
        """Read the run once, but for bits."""
        return None if self._bits or state.ranges is not None else Round("ranges", "run")

    def summarize(self, block: Block, state: State) -> Ranges:
        """Give the ranges."""
        return Ranges(Moments.of(block.x), Histogram.of(block.x) if self._spec.percentile else None)

    def update(self, state: State, summary: Ranges) -> State:
        """Keep them."""
        return State(state.dim, summary)

    def model(self, state: State) -> QuantizeModel:
        """Give the model."""
        ranges = state.ranges
        if ranges is None:
            return QuantizeModel(self._spec.to, state.dim)
        low, high = ranges.moments.low, ranges.moments.high
        if ranges.histogram is not None:
            share = self._spec.percentile / 100
            low, high = (np.clip(ranges.histogram.quantiles(at), low, high) for at in (share, 1 - share))
        return QuantizeModel(self._spec.to, state.dim, low.astype(np.float32), high.astype(np.float32))

    def progress(self, state: State) -> str:
        """Say nothing: one round."""
        return ""
