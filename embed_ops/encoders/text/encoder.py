"""Text to vectors: every text encoder that transformers' AutoModel loads, and sentence-transformers folders.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared, no_vectors
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, prepare_texts, token_counts
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec, TextEncoderSpec

if TYPE_CHECKING:
    import torch

    from embed_ops.encoders.text.layers import Layers


class TextEncoder:
    """The text family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are those of sentence-transformers for its folders, else mean-pooled hidden states,
    unless the spec names outputs.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    def __init__(self, spec: TextEncoderSpec) -> None:
        self._spec = spec
        self._backbone = Backbone(spec)
        named = (
            column.model_copy(update={"pooling": "mean"}) if column.pooling == "auto" else column
            for column in spec.outputs
        )
        self._columns = tuple(named) or (OutputSpec(pooling="mean"),)

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a string column, each distinct text once.

        Null and non-UTF-8 rows become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>.

        Raises:
            SourceError: the column is not text.
        """
        return prepare_texts(
            column, lambda texts: self._backbone.tokenizer.encode(texts, self._backbone.prompt)
        )

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
        self._backbone.load(device, dtype, self._columns, compiled=compiled)

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Start embedding a batch with the column `tokens`; an input without any token gives NaN.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        import torch

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            states, mask = self._backbone.states(batch.column(TOKENS))
            none = ~mask.bool().any(dim=1, keepdim=True)
            found = {
                name: vector.masked_fill(none, float("nan"))
                for name, vector in self._vectors(states, mask).items()
            }
        return lambda: {name: vector.cpu().numpy() for name, vector in found.items()}

    def forward(self, batch: pa.Table) -> Mapping[str, FloatArray]:
        """Embed a batch: `launch`, and wait for it."""
        return self.launch(batch)()

    def _vectors(self, states: Mapping[int, torch.Tensor], mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make all outputs from one forward pass: {layer: (B, T, D)}, (B, T) -> {output.

        (B, dim) float32}.
        """
        from embed_ops.encoders.text.pooling import finish, pool

        at = self._backbone
        if at.heads is not None:
            return {self._columns[0].name: at.heads(states[-1], mask, at.prompt_tokens)}
        pooled: dict[tuple[Layers, str], torch.Tensor] = {}
        for column in self._columns:
            key = at.layers(column), column.pooling
            if key not in pooled:
                pooled[key] = pool(column.pooling, key[0].of(states), mask)
        return {
            column.name: finish(pooled[at.layers(column), column.pooling], column) for column in self._columns
        }

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: there is no such output.
        """
        for column in self._columns:
            if column.name == output:
                return self._backbone.dim(column)
        raise ModelError(f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}")

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of inputs of these lengths (see `transformer.Cost`); padding is not counted."""
        return self._backbone.flops(lengths)

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through sentence-transformers or transformers in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.text.reference import Reference

        self._backbone.fetch()
        found = distinct(column)
        result = {
            name: np.full((len(found.index), self.dim(name)), np.nan, np.float32) for name in self.outputs()
        }
        at = self._backbone
        judge = Reference(
            self._spec, at.folder.path, at.path, at.pipeline, at.prompt, at.limit, self._columns
        )
        valid = found.index >= 0
        name, vectors = judge.embed(found.texts) if found.texts else ("none: no text", {})
        for output, rows in vectors.items():
            result[output][valid] = rows[found.index[valid]]
        return name, result

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        own = bool(self._backbone.modules)
        told = {column.name: {} if own else column.told() for column in self._columns}
        return self._backbone.describe(
            {name: {"dim": self.dim(name), **told[name]} for name in self.outputs()}
        )

    def weight_bytes(self) -> int:
        """Give the size of the transformer's weight files, 0 where they are not on this machine yet."""
        return self._backbone.weight_bytes()

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return self._backbone.fingerprint()
