"""Texts before texts: one for every row, or one of each row's own. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from embed_ops.encoders.text.tokenizer import TextTokenizer, Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from embed_ops.encoders.text.modules import Pipeline
    from embed_ops.spec.encoder_parts import PromptedSpec

PROMPT, TEXT = "prompt", "text"
"""The fields of what is embedded of a row that has a prompt of its own."""
PROMPTED = pa.struct([(PROMPT, pa.string()), (TEXT, pa.string())])
PROMPT_TOKENS = "prompt_tokens"
"""Column of inputs: the tokens of their prompts, where pooling leaves them out."""


class Prompted(NamedTuple):
    """A text, and the prompt before it: itself a text, or the name of one of the model's."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Prompts:
    """The prompts of a model, and what the spec makes of them.

    Attributes:
        own: the model's, by name.
        every: the text before each row that has no prompt of its own.
    """

    own: Mapping[str, str]
    every: str

    @classmethod
    def of(cls, pipeline: Pipeline | None, asked: str | None) -> Prompts:
        """Settle the text before every row.

        A prompt of the model by name, else the text that is asked for, else the model's default.
        """
        own = pipeline.prompts if pipeline else {}
        if asked is not None:
            return cls(own, own.get(asked, asked))
        default = pipeline.default_prompt if pipeline else None
        return cls(own, "" if default is None else own[default])

    def whole(self, text: str | Prompted) -> str:
        """Put the prompt before a text."""
        if isinstance(text, str):
            return self.every + text
        return self.own.get(text.prompt, text.prompt) + text.text

    def before(self, text: str | Prompted) -> str:
        """Give the prompt of a text."""
        return self.every if isinstance(text, str) else self.own.get(text.prompt, text.prompt)

    def encode(self, tokenizer: TextTokenizer, texts: Sequence[Any]) -> Tokens:
        """Tokenize texts with their prompts, cut to the tokenizer's limit."""
        if texts and isinstance(texts[0], Prompted):
            return tokenizer.encode([self.whole(text) for text in texts])
        return tokenizer.encode(texts, self.every)

    def told(self, spec: PromptedSpec) -> dict[str, Any]:
        """Say for `run.json` what stands before rows."""
        if spec.prompt_column is None:
            return {"prompt": self.every}
        named = {name: self.own.get(prompt, prompt) for name, prompt in spec.prompts.items()}
        return {"prompt_column": spec.prompt_column, "prompts": named}

    def lengths(self, tokenizer: TextTokenizer, texts: Sequence[Any]) -> pa.Array:
        """Count the tokens of the prompts of texts, (texts,) int32."""
        prompts = [self.before(text) for text in texts]
        counted = {prompt: tokenizer.prompt_length(prompt) for prompt in set(prompts)}
        return pa.array(np.array([counted[prompt] for prompt in prompts], np.int32))


def prompt_tokens(batch: pa.Table, every: int) -> int | Tensor:
    """Give the tokens of the prompts of a batch, (B, 1) int64, or of that before every row."""
    if PROMPT_TOKENS not in batch.schema.names:
        return every
    import torch

    return torch.from_numpy(batch.column(PROMPT_TOKENS).to_numpy().astype(np.int64))[:, None]
