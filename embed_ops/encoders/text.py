"""Text to vectors: every text encoder that transformers' AutoModel loads, and sentence-transformers folders.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders import folder as folders
from embed_ops.encoders.base import FloatArray, IntArray, Prepared, no_vectors, not_loaded
from embed_ops.encoders.column import distinct
from embed_ops.encoders.modules import Dense, LayerNorm, Pooling, read_pipeline, width
from embed_ops.encoders.settings import Transformer, read_json
from embed_ops.encoders.tokenized import blank_tokens, prepare_texts, token_counts
from embed_ops.encoders.tokenizer import TextTokenizer
from embed_ops.encoders.transformer import Cost, cost, hidden_size, load_model, pad, to_device, token_limit, weightless_cost
from embed_ops.errors import ModelError
from embed_ops.spec import EncoderSpec, OutputSpec

if TYPE_CHECKING:
    import torch

    from embed_ops.encoders.compiled import CompiledModel
    from embed_ops.encoders.heads import Heads


class TextEncoder:
    """The text family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are those of sentence-transformers for its folders, else mean-pooled hidden states, unless the spec names outputs.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self._spec = spec
        self._folder = folders.locate(spec.model, spec.revision, spec.trust_remote_code)
        self._pipeline = read_pipeline(self._folder.path, transformer_only=bool(spec.outputs))
        self._settings = self._pipeline.transformer if self._pipeline else Transformer()
        self._path = self._folder.path / self._settings.path
        folders.check_config(self._path)
        if self._folder.local:
            folders.check_weights(self._path)
        self._limit = token_limit(self._path, self._settings, spec.max_tokens)
        self._prompt = self._resolve_prompt()
        named = (column.model_copy(update={"pooling": "mean"}) if column.pooling == "auto" else column for column in spec.outputs)
        self._columns = tuple(named) or (OutputSpec(pooling="mean"),)
        self._model: Any = None
        self._compiled: CompiledModel | None = None
        self._heads: Heads | None = None
        self._prompt_tokens = 0
        self._loaded: dict[str, Any] = {}

    def _resolve_prompt(self) -> str:
        """Give the text before every row: a prompt of the model by name, else the spec's own text, else the model's default."""
        prompts = self._pipeline.prompts if self._pipeline else {}
        asked = self._spec.prompt
        if asked is None:
            default = self._pipeline.default_prompt if self._pipeline else None
            return prompts[default] if default is not None else ""
        return prompts.get(asked, asked)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._path, self._limit, self._settings.lower, self._spec.trust_remote_code)

    @property
    def _parts(self) -> list[str]:
        modules = self._pipeline.modules if self._pipeline else ()
        return [self._settings.path, *(module.path for module in modules if isinstance(module, Dense | LayerNorm))]

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a string column, each distinct text once; null and non-UTF-8 rows become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>.

        Raises:
            SourceError: the column is not text.
        """
        return prepare_texts(column, lambda texts: self._tokenizer.encode(texts, self._prompt))

    def most_rows(self, modality: str, asked: int) -> int:
        """Take what is asked: units of text are cut by their bytes."""
        return asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Count the tokens of each input, shape (inputs,) int32."""
        return token_counts(inputs)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace the tokens of some inputs, special ones too, by the first of the vocabulary."""
        return blank_tokens(inputs, places)

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` in `dtype`; pooling and what follows it stay in float32.

        Raises:
            ModelError: weights are missing, broken or incomplete, or can't be compiled.
        """
        from embed_ops.encoders.heads import Heads

        folders.fetch_weights(self._folder, self._parts)
        self._model = load_model(self._path, self._settings.config, self._spec.trust_remote_code, device, dtype)
        if self._pipeline is not None and not self._spec.outputs:
            modules = self._pipeline.modules
            self._heads = Heads(modules, self._folder.path, device)
            if self._prompt and any(isinstance(module, Pooling) and not module.include_prompt for module in modules):
                self._prompt_tokens = self._tokenizer.prompt_length(self._prompt)
        if compiled:
            from embed_ops.encoders.compiled import CompiledModel

            self._compiled = CompiledModel(self._model, self._spec.model)
        attention = str(self._model.config._attn_implementation)
        self._loaded = {"device": device, "dtype": dtype, "compiled": compiled, "attention": attention}

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Start embedding a batch with the column `tokens`; an input without any token gives NaN.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        if self._model is None:
            raise not_loaded(self._spec.model)
        import torch

        if batch.num_rows == 0:
            return no_vectors(self)
        # Padding never reaches a vector, so any id in the vocabulary would do.
        ids, mask = pad(batch.column("tokens"), max(0, getattr(self._model.config, "pad_token_id", None) or 0))
        ids, mask = to_device(ids, self._model.device), to_device(mask, self._model.device)
        with torch.inference_mode():
            vectors = self._vectors(self._hidden(ids, mask), mask)
            none = ~mask.bool().any(dim=1, keepdim=True)
            found = {name: vector.masked_fill(none, float("nan")) for name, vector in vectors.items()}
        return lambda: {name: vector.cpu().numpy() for name, vector in found.items()}

    def forward(self, batch: pa.Table) -> Mapping[str, FloatArray]:
        """Embed a batch: `launch`, and wait for it."""
        return self.launch(batch)()

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._compiled is not None:
            return self._compiled.hidden(ids, mask)
        found: torch.Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return found

    def _vectors(self, hidden: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make all outputs from one forward pass: (B, T, D), (B, T) -> {output: (B, dim) float32}."""
        if self._heads is not None:
            return {self._columns[0].name: self._heads(hidden, mask, self._prompt_tokens)}
        from torch.nn.functional import normalize

        from embed_ops.encoders.pooling import pool

        pooled = {mode: pool(mode, hidden, mask) for mode in {column.pooling for column in self._columns}}
        return {out.name: normalize(pooled[out.pooling], dim=-1) if out.normalize else pooled[out.pooling] for out in self._columns}

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: there is no such output.
        """
        if output not in self.outputs():
            raise ModelError(f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}")
        hidden = hidden_size(self._path, self._spec.trust_remote_code)
        return hidden if self._pipeline is None or self._spec.outputs else width(self._pipeline.modules, hidden)

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    @cached_property
    def _cost(self) -> Cost:
        if self._model is not None:
            return cost(self._model)
        return weightless_cost(self._path, self._settings.config, self._spec.trust_remote_code)

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of inputs of these lengths (see `transformer.Cost`); padding is not counted."""
        return self._cost.flops(lengths)

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through sentence-transformers or transformers in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.reference import Reference

        folders.fetch_weights(self._folder, self._parts)
        found = distinct(column)
        result = {name: np.full((len(found.index), self.dim(name)), np.nan, np.float32) for name in self.outputs()}
        judge = Reference(self._spec, self._folder.path, self._path, self._pipeline, self._prompt, self._limit, self._columns)
        valid = found.index >= 0
        name, vectors = judge.embed(found.texts) if found.texts else ("none: no text", {})
        for output, rows in vectors.items():
            result[output][valid] = rows[found.index[valid]]
        return name, result

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        config = read_json(self._path / "config.json")
        modules = self._pipeline.modules if self._pipeline and not self._spec.outputs else ()
        return {
            "model": self._spec.model,
            "commit": self._folder.revision,
            "model_type": config.get("model_type"),
            "architectures": config.get("architectures"),
            "max_tokens": self._limit,
            "prompt": self._prompt,
            "modules": [repr(module) for module in modules],
            "outputs": {
                column.name: {"dim": self.dim(column.name), **({} if modules else column.model_dump(exclude={"name", "layer"}))}
                for column in self._columns
            },
            **self._loaded,
        }

    def weight_bytes(self) -> int:
        """Give the size of the transformer's weight files, 0 where they are not on this machine yet."""
        return folders.weight_bytes(self._path)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}; a hub model's weights stand as `commit`."""
        others = self._pipeline.folders if self._pipeline else ()
        return folders.fingerprint(self._folder, self._spec.trust_remote_code, self._parts, others)
