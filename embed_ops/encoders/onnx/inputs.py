"""What goes into a graph and comes out of it: what is asked of texts and of images alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared
from embed_ops.encoders.onnx.files import OnnxFiles
from embed_ops.encoders.onnx.pixels import takes_images
from embed_ops.encoders.onnx.session import Batch, Session
from embed_ops.encoders.onnx.texts import TextInputs
from embed_ops.encoders.onnx.wiring import Measured, Wire
from embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor


class Inputs(Protocol):
    """How rows of one modality get into a graph, and how its tensors become their vectors.

    Attributes:
        modality: what a row is, as `source.modality` says it.
        home: the folder with the configurations that say how.
    """

    modality: ClassVar[str]
    home: Path

    @property
    def alone(self) -> bool:
        """Whether each input goes through the graph by itself."""
        ...

    def prompted(self, prompt: str) -> Self:
        """Give the same with another prompt; raises ModelError where there are none."""
        ...

    def prepare(self, column: pa.Array) -> Prepared:
        """Turn a column into inputs, as `Encoder.prepare`."""
        ...

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Give the most rows of a unit; `vector_bytes`: of all vectors of one."""
        ...

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each input, (inputs,) int32."""
        ...

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace some inputs by harmless ones of the same length."""
        ...

    def batches(self, inputs: pa.Table) -> Iterator[Batch]:
        """Give inputs as the graph takes them: all at once, or one after the other."""
        ...

    def trial(self) -> pa.Table:
        """Give one input, to see what the loaded graph gives."""
        ...

    def tried(self) -> tuple[Batch, Batch]:
        """Give a row to try the graph with, and another, of another size where rows have such."""
        ...

    def wire(self, column: OutputSpec, measured: Measured) -> Wire:
        """Choose the tensor of a column; raises ModelError where none or several may be meant."""
        ...

    def width(self, wire: Wire) -> int:
        """Give the width of a column's vectors before they are shortened."""
        ...

    def begin(self, wires: Collection[Wire]) -> None:
        """Load what stands behind the graph."""
        ...

    def pooled(self, wire: Wire, hidden: Tensor, batch: Batch) -> Tensor:
        """Make one vector a row of a tensor, (B, dim); raises ModelError for another shape."""
        ...

    def flops(self, lengths: IntArray) -> float | None:
        """Count the operations of inputs of these lengths; None where the graph does not tell."""
        ...

    def one_by_one(
        self, session: Session, wires: Collection[Wire], column: pa.Array, dims: Mapping[str, int]
    ) -> dict[str, FloatArray]:
        """Embed rows one at a time, by other code: {output: (rows, dim)}, NaN for rejects."""
        ...

    def hashed(self, wires: Collection[Wire]) -> dict[str, Path]:
        """Name what decides vectors beside the file and the configurations, {name: file}."""
        ...

    def told(self, wires: Collection[Wire]) -> dict[str, Any]:
        """Say what becomes of a row, for `run.json`."""
        ...


def read_inputs(spec: OnnxEncoderSpec, files: OnnxFiles) -> Inputs:
    """Tell from the graph whether it takes texts or images, and read what says how.

    Raises:
        ModelError: it takes something else, or a part is missing.
    """
    if not takes_images(files.graph):
        return TextInputs(spec, files)
    from embed_ops.encoders.onnx.images import ImageInputs

    return ImageInputs(spec, files)
