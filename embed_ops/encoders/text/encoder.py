"""Text to vectors: all encoders of texts that AutoModel or sentence-transformers loads.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from embed_ops.encoders.base import (
    TEXT,
    FloatArray,
    Launched,
    Modality,
    Prepared,
    dims_of,
    no_vectors,
    pooled_by,
)
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.encoders.text.prompts import prompt_tokens
from embed_ops.encoders.text.tokens import (
    TOKENS,
    blank_tokens,
    distinct,
    most_texts,
    prepare_texts,
    token_counts,
)
from embed_ops.spec.encoder import TextEncoderSpec

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

    takes: ClassVar[Mapping[str, Modality]] = {"text": TEXT}
    most_rows = staticmethod(most_texts)
    lengths = staticmethod(token_counts)
    blank = staticmethod(blank_tokens)

    def __init__(self, spec: TextEncoderSpec) -> None:
        self._stand_on(Backbone(spec, pooled_by(spec.named, "mean")))

    def _stand_on(self, at: Backbone) -> None:
        """Take over what the transformer does alike for all families of texts."""
        self._backbone = at
        self.outputs, self.load, self.flops = at.outputs, at.load, at.flops
        self.describe, self.weight_bytes, self.fingerprint = at.describe, at.weight_bytes, at.fingerprint

    def prompted(self, prompt: str) -> TextEncoder:
        """Give the same encoder, weights included, with another prompt.

        It is a text, or the name of one of the model's prompts.
        """
        other = copy.copy(self)
        other._stand_on(self._backbone.prompted(prompt))
        return other

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a column of texts, or of structs of a prompt and a text; each distinct one once.

        Null and non-UTF-8 rows become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>; `prompt_tokens`, int32, where rows have
            prompts of their own, and pooling leaves them out.

        Raises:
            SourceError: the column is not text.
        """
        at = self._backbone
        lengths = partial(at.prompts.lengths, at.tokenizer) if at.leaves_prompts_out else None
        return prepare_texts(column, partial(at.prompts.encode, at.tokenizer), lengths)

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch with the column `tokens`; an input without any token gives NaN.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        import torch

        from embed_ops.encoders.device import on_host

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            states, mask = self._backbone.states(batch.column(TOKENS))
            none = ~mask.bool().any(dim=1, keepdim=True)
            return on_host(
                {
                    name: vectors.masked_fill(none, float("nan"))
                    for name, vectors in self._vectors(states, mask, batch).items()
                }
            )

    def forward(self, batch: pa.Table) -> Mapping[str, FloatArray]:
        """Embed a batch: `launch`, and wait for it."""
        return self.launch(batch)()

    def _vectors(
        self, states: Mapping[int, torch.Tensor], mask: torch.Tensor, batch: pa.Table
    ) -> dict[str, torch.Tensor]:
        """Make all outputs from one forward pass.

        {layer: (B, T, D)} and (B, T) become {output: (B, dim) float32}.
        """
        from embed_ops.encoders.text.pooling import finish, pool

        at, columns = self._backbone, self._backbone.columns
        if at.heads is not None:
            return {columns[0].name: at.heads(states[-1], mask, prompt_tokens(batch, at.prompt_tokens))}
        pooled: dict[tuple[Layers, str], torch.Tensor] = {}
        for column in columns:
            key = at.layers(column), column.pooling
            if key not in pooled:
                pooled[key] = pool(column.pooling, key[0].of(states), mask)
        return {column.name: finish(pooled[at.layers(column), column.pooling], column) for column in columns}

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through sentence-transformers or transformers in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.text.reference import Reference

        at = self._backbone
        at.fetch()
        texts = distinct(column)
        judge = Reference(at.files, at.prompts, at.columns, device)
        name, vectors = judge.embed(texts.texts) if texts.texts else ("none: no text", {})
        return name, texts.to_rows(vectors, dims_of(self.outputs()))
