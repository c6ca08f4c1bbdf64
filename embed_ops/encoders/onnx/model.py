"""A model in an ONNX file: what it takes, and the vector columns that it gives.

Importing this module imports no torch and no onnxruntime.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import numpy as np

from embed_ops.encoders.base import IntArray, Output, dims_of, outputs_of
from embed_ops.encoders.onnx.files import locate_onnx
from embed_ops.encoders.onnx.graph import Shape
from embed_ops.encoders.onnx.inputs import read_inputs
from embed_ops.encoders.onnx.original import OriginalModel
from embed_ops.encoders.onnx.session import Session, runtime
from embed_ops.encoders.onnx.wiring import Wire
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec


class OnnxModel:
    """A graph, what goes into it, and the vector columns that it gives.

    Attributes:
        spec: of the encoder.
        files: where it is; `graph`: what its file says.
        inputs: texts or images, and what becomes of them.
        loaded: what is known once it is loaded, for `run.json`.

    Raises:
        ModelError: a part is missing, or the graph takes something else.
        PackageError: onnxruntime is not installed.
    """

    def __init__(self, spec: OnnxEncoderSpec) -> None:
        self.spec = spec
        self.files = locate_onnx(spec)
        self.graph = self.files.graph
        self.inputs = read_inputs(spec, self.files)
        runtime()
        self.loaded: dict[str, Any] = {}

    def prompted(self, prompt: str) -> OnnxModel:
        """Give the same model with another prompt: a text, or the name of one of its own."""
        other = copy.copy(self)
        other.inputs = self.inputs.prompted(prompt)
        return other

    @cached_property
    def wires(self) -> tuple[Wire, ...]:
        """The vector columns, and the tensors that they are."""
        return tuple(self.inputs.wire(column, self._measured) for column in self.spec.named)

    def _measured(self, tensor: str) -> Shape:
        """Run the graph on two rows: the shape of a tensor, None where they differ."""
        session = Session(self.files.file, self.graph, (tensor,))
        first, second = (session.run(row)[tensor].shape for row in self.inputs.tried())
        if len(first) != len(second):
            raise ModelError(
                f"{self.files.file}: {tensor} has {len(first)} axes for one text and {len(second)} for "
                "another; name another tensor"
            )
        sizes = [None if one != other else one for one, other in zip(first, second, strict=True)]
        return (None, *sizes[1:])

    def open(self, device: str, threads: int) -> Session:
        """Load the graph, for the tensors of all columns."""
        wanted = dict.fromkeys(wire.tensor for wire in self.wires)
        return Session(self.files.file, self.graph, wanted, device, threads)

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit."""
        return self.inputs.most_rows(4 * sum(dims_of(self.outputs()).values()), asked)

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: the graph gives no such vectors.
        """
        widths = {wire.column.name: self.inputs.width(wire) for wire in self.wires}
        return outputs_of(self.spec, self.spec.named, lambda column: self._dim(column, widths[column.name]))

    def _dim(self, column: OutputSpec, width: int) -> int:
        if column.dim is not None and column.dim > width:
            raise ModelError(
                f"{self.spec.model}: output {column.name!r}: dim is {column.dim}, and the vectors have "
                f"{width} dimensions; give that or fewer"
            )
        return column.dim or width

    @cached_property
    def original(self) -> OriginalModel | None:
        """The model that the file was made of, where the spec names one.

        Raises:
            ModelError: it can't be used, or is another model.
        """
        if self.spec.reference is None:
            return None
        return OriginalModel(self.spec, self.spec.reference, self.graph, self.inputs, self.wires)

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations; 0 where the graph does not tell."""
        return self.inputs.flops(lengths) or 0.0

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths = dims_of(self.outputs())
        counted = self.inputs.flops(np.ones(1, np.int32)) is not None
        return {
            "model": self.spec.model,
            "commit": self.files.folder.revision,
            "model_type": "onnx",
            "file": self.files.name,
            "producer": self.graph.producer,
            "elements": dict(self.graph.elements),
            "quantization": self.graph.quantization,
            "rows_at_once": "one" if self.inputs.alone else "a batch",
            "flops": "counted" if counted else "not counted: operators multiply in another way",
            **self.inputs.told(self.wires),
            "outputs": {
                each.column.name: {
                    "dim": widths[each.column.name],
                    **each.column.told(),
                    "tensor": each.tensor,
                    "pooling": each.column.pooling if each.way == "pooled" else each.way,
                }
                for each in self.wires
            },
            **({} if self.original is None else {"reference": self.original.told()}),
            **self.loaded,
        }

    def weight_bytes(self) -> int:
        """Give the size of the file and of the weights beside it."""
        return self.files.weight_bytes()

    def fingerprint(self) -> dict[str, str]:
        """Hash the file, weights beside it, tokenizer and configurations, {name: sha256}."""
        return self.files.fingerprint(self.inputs.home, self.inputs.hashed(self.wires))
