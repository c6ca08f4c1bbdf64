"""The floating-point operations of a transformer: read off its layers, counted for a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embed_ops.encoders.base import IntArray
from embed_ops.encoders.text.transformer import HIDDEN_KEYS, LAYER_KEYS, weightless_model


@dataclass(frozen=True)
class Cost:
    """What a forward pass costs.

    Weights of linear layers used per token, and each layer's attention (width, keys seen or None:
    all).
    """

    linear: int
    attention: tuple[tuple[int, int | None], ...]

    def flops(self, lengths: IntArray) -> float:
        """Count 2 * weights per token, and per layer 4 * width * T * min(T, keys).

        Two products of queries with keys and values.

        A causal layer is counted whole, as is usual; norms, softmax, embeddings and the modules
        after the transformer are left out.
        """
        tokens = lengths.astype(np.float64)
        total = 2.0 * self.linear * tokens.sum()
        for width, keys in self.attention:
            total += (
                4.0 * width * float((tokens * (tokens if keys is None else np.minimum(tokens, keys))).sum())
            )
        return float(total)


def cost(model: Any) -> Cost:
    """Read the cost off a loaded (or weightless) model.

    Its nn.Linear layers but poolers and language-model heads.
    """
    config = model.config
    linear = sum(
        int(module.weight.numel())
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and not {"pooler", "lm_head"} & set(name.split("."))
    )
    heads = _first(config, ("num_attention_heads", "num_heads", "n_heads", "n_head"))
    head = _first(config, ("head_dim", "d_kv")) or _first(config, HIDDEN_KEYS) // max(1, heads)
    layers = _first(config, LAYER_KEYS)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None)
    return Cost(
        linear, tuple((heads * head, window if kind == "sliding_attention" else None) for kind in kinds)
    )


def weightless_cost(folder: Path, changes: Mapping[str, Any], trust_remote_code: bool) -> Cost:
    """Give the cost without loading weights: the model is built on torch's meta device."""
    return cost(weightless_model(folder, changes, trust_remote_code))


def _first(config: Any, names: Iterable[str]) -> int:
    return next((int(value) for name in names if isinstance(value := getattr(config, name, None), int)), 0)
