"""The transformer behind families of texts.

Its folder, tokenizer, weights, and the hidden states of a batch.

Importing this module imports no torch: CPU workers tokenize only. Legend: B inputs, T tokens of the
longest input, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from embed_ops.encoders.base import IntArray, Output, not_loaded, outputs_of
from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.encoders.text.cost import Cost, cost, weightless_cost
from embed_ops.encoders.text.files import locate_texts
from embed_ops.encoders.text.layers import Layers, read_layers
from embed_ops.encoders.text.module_types import Pooling, width
from embed_ops.encoders.text.positions import token_limit
from embed_ops.encoders.text.prompts import Prompts
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.transformer import (
    flat,
    hidden_size,
    layer_count,
    load_transformer,
    pad,
)
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import LanguageEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

    from embed_ops.encoders.text.compiled import CompiledModel
    from embed_ops.encoders.text.heads import Heads
    from embed_ops.encoders.text.layers import LayerStates
    from embed_ops.encoders.text.masks import Attention
    from embed_ops.encoders.text.packed import Packer


class Backbone:
    """A transformer, or a sentence-transformers model: its folder, and the model once it is loaded.

    Attributes:
        spec: of the encoder.
        columns: the vector columns, with their pooling.
        files: where its parts are.
        prompts: texts before rows.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    def __init__(self, spec: LanguageEncoderSpec, columns: tuple[OutputSpec, ...]) -> None:
        self.files = locate_texts(spec)
        self.spec, self.columns = self.files.spec, columns
        self.fetch, self.fingerprint = self.files.fetch, self.files.fingerprint
        self.prompts = Prompts.of(self.files.pipeline, spec.prompt)
        self._layers: dict[str, Layers] = {}
        self._model: Any = None
        self._compiled: CompiledModel | None = None
        self._states: LayerStates | None = None
        self._attention: Attention | None = None
        self._packer: Packer | None = None
        self.heads: Heads | None = None
        self.prompt_tokens = 0
        self.loaded: dict[str, Any] = {}

    @cached_property
    def limit(self) -> int | None:
        """Most tokens that the model takes, special ones included; None for no limit."""
        return token_limit(self.files)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, which cuts at the limit."""
        return TextTokenizer(
            self.files.tokenizer, self.limit, self.files.settings.lower, self.spec.trust_remote_code
        )

    @property
    def modules(self) -> tuple[Any, ...]:
        """The modules behind the transformer, where they are what the run asks for."""
        return self.files.pipeline.modules if self.files.pipeline else ()

    def layers(self, output: OutputSpec) -> Layers:
        """Give the layers that an output names.

        Raises:
            ModelError: the model has no such layer.
        """
        if output.name not in self._layers:
            where = f"{self.spec.model}: output {output.name!r}"
            last = output.layer == -1
            self._layers[output.name] = (
                Layers("one", (-1,)) if last else read_layers(output.layer, self._count, where)
            )
        return self._layers[output.name]

    @cached_property
    def _count(self) -> int:
        return layer_count(self.files.path, self.spec.trust_remote_code)

    @cached_property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return hidden_size(self.files.path, self.spec.trust_remote_code)

    def dim(self, output: OutputSpec) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: it is to be shortened to more than the model gives.
        """
        full = width(self.modules, self.hidden) if self.modules else self.hidden * self.layers(output).width
        if output.dim is not None and output.dim > full:
            raise ModelError(
                f"{self.spec.model}: output {output.name!r}: dim is {output.dim}, and the vectors have "
                f"{full} dimensions"
            )
        return output.dim or full

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order; raises as `dim`."""
        return outputs_of(self.spec, self.columns, self.dim)

    def prompted(self, prompt: str) -> Backbone:
        """Give the same model with another prompt: a text, or the name of one of its own."""
        other = copy.copy(self)
        other.spec = self.spec.model_copy(update={"prompt": prompt, "prompt_column": None, "prompts": {}})
        other.prompts = Prompts.of(self.files.pipeline, prompt)
        other.prompt_tokens = other._prompt_tokens()
        return other

    @property
    def leaves_prompts_out(self) -> bool:
        """Whether pooling leaves out the tokens of the prompt."""
        return any(isinstance(module, Pooling) and not module.include_prompt for module in self.modules)

    def _prompt_tokens(self) -> int:
        """Count the tokens of the prompt of every row, where pooling leaves them out."""
        return self.tokenizer.prompt_length(self.prompts.every) if self.leaves_prompts_out else 0

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` in `dtype`; pooling and what follows it stay in float32.

        Raises:
            ModelError: weights are missing, broken or incomplete, or can't be compiled.
        """
        from embed_ops.encoders.text.layers import LayerStates
        from embed_ops.encoders.text.masks import attention_for, plain, tried

        self.fetch()
        model = load_transformer(self.files, dtype)
        self._attention = plain if compiled or device == "cpu" else attention_for(model)
        if self.modules:
            from embed_ops.encoders.text.heads import Heads

            self.heads = Heads(self.modules, self.files.root, device)
            self.prompt_tokens = self._prompt_tokens()
        inner = [output for output in self.columns if output.layer != -1]
        if inner and compiled:
            raise ModelError(
                f"{self.spec.model}: outputs ask for other layers than the last, which a compiled model "
                "does not give"
            )
        if inner:
            numbers = frozenset(number for output in inner for number in self.layers(output).numbers)
            self._states = LayerStates(model, self._count, numbers)
        if self.spec.attention == "packed":
            from embed_ops.encoders.text.packed import Packer

            if compiled:
                raise ModelError(
                    f"{self.spec.model}: packed batches are not compiled: leave encoder.compile out"
                )
            self._packer = Packer(model, self.spec.model, device, dtype)
        self._model = model.to(device)
        require_repeatable(self.spec.model, tried(self._model), tried(self._model))
        if compiled:
            from embed_ops.encoders.text.compiled import CompiledModel

            self._compiled = CompiledModel(self._model, self.spec.model)
        self.loaded = {"device": device, "dtype": dtype, "compiled": compiled}
        self.loaded["attention"] = str(self._model.config._attn_implementation)

    def states(self, tokens: pa.ChunkedArray) -> tuple[dict[int, Tensor], Tensor]:
        """Run a batch: {layer: (B, T, D)}, -1 being the model's output, and the mask (B, T) int64.

        Raises:
            ModelError: `load` was not called.
        """
        from embed_ops.encoders.device import to_device

        if self._model is None or self._attention is None:
            raise not_loaded(self.spec.model)
        device = self._model.device
        # Padding never reaches a vector, so any id in the vocabulary would do.
        ids, mask = pad(tokens, max(0, getattr(self._model.config, "pad_token_id", None) or 0))
        values, lengths = flat(tokens)
        padded, mask = bool((lengths < mask.shape[1]).any()), to_device(mask, device)
        if self._packer is not None and len(values):
            return self._packer.run(self._pass, values, lengths, device), mask
        ids = to_device(ids, device)
        if self._compiled is not None:
            return {-1: self._compiled.hidden(ids, mask)}, mask
        return self._pass(ids, self._attention(mask, padded)), mask

    def _pass(self, ids: Tensor, attention: Tensor | None, **more: Any) -> dict[int, Tensor]:
        """Run the model: {layer: (B, T, D)} of ids (B, T), and what else it takes."""
        if self._states is not None:
            return self._states(ids, attention, **more)
        return {-1: self._model(input_ids=ids, attention_mask=attention, **more).last_hidden_state}

    @cached_property
    def _cost(self) -> Cost:
        if self._model is not None:
            return cost(self._model)
        return weightless_cost(self.files.path, self.files.settings.config, self.spec.trust_remote_code)

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of inputs of these lengths (see `Cost`)."""
        return self._cost.flops(lengths)

    def describe(self, also: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values.

        `also` has more to say of each output, by name.
        """
        outputs = {
            column.name: {
                "dim": self.dim(column),
                **(also or {}).get(column.name, {}),
                **({} if self.modules else column.told()),
            }
            for column in self.columns
        }
        config = read_json(self.files.path / "config.json")
        return {
            "model": self.spec.model,
            "commit": self.files.folder.revision,
            "model_type": config.get("model_type"),
            "architectures": config.get("architectures"),
            "max_tokens": self.limit,
            **self.prompts.told(self.spec),
            "modules": [repr(module) for module in self.modules],
            "outputs": outputs,
            **(self.files.adapter.told() if self.files.adapter else {}),
            **contents.own_code(self.files.path, run=self.spec.trust_remote_code),
            **self.loaded,
        }

    def weight_bytes(self) -> int:
        """Give the size of the transformer's weight files, 0 where they are not here yet."""
        return folders.weight_bytes(self.files.path)
