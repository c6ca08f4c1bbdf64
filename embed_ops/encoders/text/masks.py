"""How a model is told which positions of a batch are padding.

transformers makes of a mask (B, T) what its attention takes, and looks into it to see whether
anything is padded at all. On a GPU that look waits for all that was given to it before: the host
can't run ahead. What the look would tell is known on the host, where the mask was made. So a batch
without padding gets no mask, and others get one that is ready, where that has been proven to
change nothing for the model at hand.

Legend: B inputs, T tokens of the longest input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from embed_ops.encoders.base import FloatArray

Attention = Callable[[Tensor, bool], Any]
"""Gives the `attention_mask` of a batch: of its mask (B, T) and whether any of it is padding."""

_LIMITS = ("sliding_window", "local_attention", "attention_chunk_size")
_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)
"""What a model may answer to a mask that it does not know."""


def plain(mask: Tensor, padded: bool) -> Tensor | None:
    """Give the mask itself: right for every model, and looked into."""
    return mask


def ready(mask: Tensor, padded: bool) -> Tensor | None:
    """Give what scaled dot-product attention takes, (B, 1, T, T), or nothing."""
    return mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1) if padded else None


def absent_by_kind(mask: Tensor, padded: bool) -> Any:
    """Give nothing in the form of masks that are ready, which nobody looks into."""
    return {"full_attention": None}


def absent(mask: Tensor, padded: bool) -> Tensor | None:
    """Give nothing: a causal model's tokens never see the padding to their right."""
    return None


def limited_attention(config: Any) -> str | None:
    """Name the setting that limits what a token sees; None: it sees all of its text.

    A batch as small as those that prove something would not show it.
    """
    names = [name for name in _LIMITS if getattr(config, name, None)]
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        names.append("layer_types")
    return names[0] if names else None


def ids_of_words(model: Any, shape: tuple[int, int]) -> Tensor:
    """Make ids of a small batch, of the vocabulary's end: special ones are no words."""
    words, pad = model.get_input_embeddings(), getattr(model.config, "pad_token_id", None)
    count = int(words.num_embeddings)
    known = [number for number in range(max(0, count - 64), count) if number != pad]
    return torch.tensor(known)[torch.arange(shape[0] * shape[1]) % len(known)].reshape(shape)


def attention_for(model: Any) -> Attention:
    """Choose how a model is told on a GPU, by what it does with a small padded batch.

    `ready` where its hidden states keep all their bits; `absent` where what stands in the padding
    never reaches a token; else `plain`.

    Args:
        model: loaded, on the CPU still: on a GPU a wrong shape may end the process.
    """
    try:
        with torch.inference_mode():
            return _proven(model)
    except _ERRORS:
        return plain


def _proven(model: Any) -> Attention:
    """Try a batch of two texts, of six tokens and of three."""
    ids = ids_of_words(model, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    other = torch.where(mask.bool(), ids, ids.flip(1))

    def states(ids: Tensor, given: Any) -> Tensor:
        hidden: Tensor = model(input_ids=ids, attention_mask=given).last_hidden_state
        return hidden

    def tokens(ids: Tensor, given: Any) -> Tensor:
        return states(ids, given)[mask.bool()]

    expected = tokens(ids, mask)
    if limited_attention(model.config) is None and _ready_is_right(states, ids, mask, expected):
        return ready
    causal = tokens(ids, None)
    if torch.equal(causal, tokens(other, None)):
        # Not to the bit: another kernel computes what no mask excludes.
        if not torch.allclose(causal, expected, atol=1e-2):
            return plain
        return absent_by_kind if _takes_kinds(tokens, ids, causal) else absent
    return plain


def _ready_is_right(
    states: Callable[[Tensor, Tensor | None], Tensor], ids: Tensor, mask: Tensor, expected: Tensor
) -> bool:
    """Tell whether the model takes no mask for a whole one, and a ready one for itself."""
    try:
        whole = torch.equal(states(ids, torch.ones_like(mask)), states(ids, None))
        return whole and torch.equal(states(ids, ready(mask, padded=True))[mask.bool()], expected)
    except _ERRORS:
        return False


def _takes_kinds(tokens: Callable[[Tensor, Any], Tensor], ids: Tensor, expected: Tensor) -> bool:
    """Tell whether a causal model takes no mask in the form of masks by kind of layer."""
    try:
        return torch.equal(tokens(ids, absent_by_kind(ids, padded=True)), expected)
    except _ERRORS:
        return False


def tried(model: Any) -> dict[str, FloatArray]:
    """Run a model on a few words: {name: hidden states}; {} where it takes no such text."""
    try:
        ids = ids_of_words(model, (1, 4)).to(model.device)
        with torch.inference_mode():
            given = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception:  # what a model can't take at all, the first rows tell
        return {}
    return {"of the last layer": given.last_hidden_state[0].float().cpu().numpy()}
