"""A model in an ONNX file: what it takes and gives, and how texts become its tokens.

Importing this module imports no torch and no onnxruntime.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_ops.encoders.base import IntArray, Output, dims_of, outputs_of
from embed_ops.encoders.onnx.cost import Cost, cost_of
from embed_ops.encoders.onnx.files import TOKENIZER, locate_onnx
from embed_ops.encoders.onnx.graph import Shape
from embed_ops.encoders.onnx.session import Ids, Session, check_inputs, runtime
from embed_ops.encoders.onnx.wiring import Wire, wire
from embed_ops.encoders.text.module_types import Dense, LayerNorm
from embed_ops.encoders.text.module_types import width as width_behind
from embed_ops.encoders.text.modules import Pipeline, read_pipeline
from embed_ops.encoders.text.positions import UNBOUNDED
from embed_ops.encoders.text.prompts import Prompts
from embed_ops.encoders.text.settings import Transformer
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from embed_ops.encoders.text.heads import Heads

_TRIED = "A few words, to see what the model gives."


class OnnxModel:
    """A graph, its tokenizer, and the vector columns that it gives.

    Attributes:
        spec: of the encoder.
        files: where it is; `graph`: what its file says.
        prompts: texts before rows.
        loaded: what is known once it is loaded, for `run.json`.

    Raises:
        ModelError: a part is missing, or the graph takes something else than tokens.
        PackageError: onnxruntime is not installed.
    """

    def __init__(self, spec: OnnxEncoderSpec) -> None:
        self.spec = spec
        self.files = locate_onnx(spec)
        self._home, self.graph = self.files.home, self.files.graph
        check_inputs(self.files.file, self.graph)
        runtime()
        listed = read_pipeline(self._home, transformer_only=True)
        self._sentences = listed is not None
        self._settings = listed.transformer if listed else Transformer()
        self.prompts = Prompts.of(listed, spec.prompt)
        self.loaded: dict[str, Any] = {}

    def prompted(self, prompt: str) -> OnnxModel:
        """Give the same model with another prompt: a text, or the name of one of its own."""
        other = copy.copy(self)
        other.spec = self.spec.model_copy(update={"prompt": prompt, "prompt_column": None, "prompts": {}})
        other.prompts = Prompts.of(read_pipeline(self._home, transformer_only=True), prompt)
        return other

    @cached_property
    def wires(self) -> tuple[Wire, ...]:
        """The vector columns, and the tensors that they are."""
        return tuple(
            wire(column, self.files.file, self.graph, self._measured, self._sentences)
            for column in self.spec.named
        )

    @cached_property
    def _pipeline(self) -> Pipeline | None:
        """The modules behind the transformer, where a column is what they give."""
        used = any(wire.way == "modules" for wire in self.wires)
        return read_pipeline(self._home) if used else None

    @property
    def modules(self) -> tuple[Any, ...]:
        """The modules behind the transformer, where they are what a column asks for."""
        return self._pipeline.modules if self._pipeline else ()

    def _measured(self, tensor: str) -> Shape:
        """Run the graph on two lengths: the shape of a tensor, None where they differ."""
        session = Session(self.files.file, self.graph, (tensor,))
        first, second = (
            session.run(ids, np.ones_like(ids))[tensor].shape for ids in (self.tried[:, :-1], self.tried)
        )
        if len(first) != len(second):
            raise ModelError(
                f"{self.files.file}: {tensor} has {len(first)} axes for one text and {len(second)} for "
                "another; name another tensor"
            )
        sizes = [None if one != other else one for one, other in zip(first, second, strict=True)]
        return (None, *sizes[1:])

    @property
    def tried(self) -> Ids:
        """Token ids of a text to try the graph with, (1, T)."""
        return np.array([self.tokenizer.encode([_TRIED]).values], np.int64)

    @cached_property
    def _limit(self) -> int | None:
        """Most tokens of a text, special ones included; None for no limit."""
        told = self.files.limits()
        own = self._settings.max_seq_length or told["tokenizer"]
        limits = [own, told["table"] or told["stated"]]
        if not any(limit and limit < UNBOUNDED for limit in limits):
            truncation: Mapping[str, Any] = self._backend.truncation or {}
            limits.append(truncation.get("max_length"))
        return min(
            (limit for limit in (self.spec.max_tokens, *limits) if limit and 0 < limit < UNBOUNDED),
            default=None,
        )

    @cached_property
    def _backend(self) -> Tokenizer:
        from tokenizers import Tokenizer

        file = self._home / TOKENIZER
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # what tokenizers raises has no class of its own
            raise ModelError(
                f"{file}: the tokenizer can't be read ({error}); save it again with its model"
            ) from error

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, which cuts at the limit."""
        return TextTokenizer(self._home, self._limit, self._settings.lower, False, given=self._backend)

    def open(self, device: str, threads: int) -> Session:
        """Load the graph, for the tensors of all columns."""
        wanted = dict.fromkeys(wire.tensor for wire in self.wires)
        return Session(self.files.file, self.graph, wanted, device, threads)

    def heads(self) -> Heads | None:
        """Load the modules behind the transformer, where a column is what they give."""
        if not self.modules:
            return None
        from embed_ops.encoders.text.heads import Heads

        return Heads(self.modules, self._home, "cpu")

    @property
    def prompt_tokens(self) -> int:
        """Count the tokens of the prompt; modules that pool without it leave them out."""
        return self.tokenizer.prompt_length(self.prompts.every)

    @property
    def alone(self) -> bool:
        """Whether each input goes through the graph by itself, un-padded.

        Where a graph would let its neighbours or its padding reach it.
        """
        asked = {tensor.name: tensor.shape for tensor in self.graph.inputs}
        one = any(shape is not None and shape[0] == 1 for shape in asked.values())
        return one or "attention_mask" not in asked or self.graph.quantized_together

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: the graph gives no such vectors.
        """
        widths = {wire.column.name: self._width(wire) for wire in self.wires}
        return outputs_of(self.spec, self.spec.named, lambda column: self._dim(column, widths[column.name]))

    def _width(self, wire: Wire) -> int:
        return width_behind(self.modules, wire.width) if wire.way == "modules" else wire.width

    def _dim(self, column: OutputSpec, width: int) -> int:
        if column.dim is not None and column.dim > width:
            raise ModelError(
                f"{self.spec.model}: output {column.name!r}: dim is {column.dim}, and the vectors have "
                f"{width} dimensions; give that or fewer"
            )
        return column.dim or width

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations (see `Cost`); 0 where the graph does not tell."""
        return self._cost.flops(lengths) if self._cost else 0.0

    @cached_property
    def _cost(self) -> Cost | None:
        return cost_of(self.graph)

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths = dims_of(self.outputs())
        return {
            "model": self.spec.model,
            "commit": self.files.folder.revision,
            "model_type": "onnx",
            "file": self.files.name,
            "producer": self.graph.producer,
            "elements": dict(self.graph.elements),
            "quantization": self.graph.quantization,
            "rows_at_once": "one" if self.alone else "a batch",
            "flops": "counted" if self._cost else "not counted: operators multiply in another way",
            "max_tokens": self._limit,
            **self.prompts.told(self.spec),
            "modules": [repr(module) for module in self.modules],
            "outputs": {
                each.column.name: {
                    "dim": widths[each.column.name],
                    **each.column.told(),
                    "tensor": each.tensor,
                    "pooling": each.column.pooling if each.way == "pooled" else each.way,
                }
                for each in self.wires
            },
            **self.loaded,
        }

    def weight_bytes(self) -> int:
        """Give the size of the file and of the weights beside it."""
        return self.files.weight_bytes()

    def fingerprint(self) -> dict[str, str]:
        """Hash the file, weights beside it, tokenizer and configurations, {name: sha256}."""
        folders = self._pipeline.folders if self._pipeline else ()
        weighted = tuple(module.path for module in self.modules if isinstance(module, Dense | LayerNorm))
        return self.files.fingerprint(folders, weighted)
