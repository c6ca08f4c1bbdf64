"""How token vectors become one vector per input.

The six modes, with the sentence-transformers definitions.

Shapes: hidden (B, T, D) of any float type, mask (B, T) that is nonzero where a token counts; the
result is (B, D) float32. Values under a zero mask never reach the result, whatever they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from embed_ops.encoders.device import to_device
from embed_ops.numerics.ragged import offsets_of, runs
from embed_ops.spec.encoder import OutputSpec

LEAST = 1e-9
"""Least divisor, so that an input without any token gives zeros and not NaN."""


def _kept(hidden: Tensor, mask: Tensor) -> Tensor:
    """Give float32 hidden states with zeros where the mask is zero."""
    # masked_fill and not a product: in float16 a padded position may be infinite, and 0 * inf is
    # NaN.
    return hidden.float().masked_fill((mask == 0).unsqueeze(-1), 0.0)


def _count(mask: Tensor) -> Tensor:
    return (mask != 0).sum(dim=1, keepdim=True).float().clamp(min=LEAST)


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    """Take one token of each input; position is (B,) int64."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the tokens: (B, T, D), (B, T) -> (B, D) float32."""
    return _kept(hidden, mask).sum(dim=1) / _count(mask)


def mean_sqrt_len(hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum the tokens and divide by the square root of their number.

    (B, T, D), (B, T) -> (B, D) float32.
    """
    return _kept(hidden, mask).sum(dim=1) / _count(mask).sqrt()


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the first token under the mask: (B, T, D), (B, T) -> (B, D) float32."""
    return _at(hidden, (mask != 0).int().argmax(dim=1)).float()


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the last token under the mask, zeros if there is none.

    (B, T, D), (B, T) -> (B, D) float32.
    """
    kept = mask != 0
    final = mask.shape[1] - 1 - kept.int().flip(1).argmax(dim=1)
    return _at(hidden, final).float().masked_fill(~kept.any(dim=1, keepdim=True), 0.0)


def maximum(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each dimension, -inf if no token counts.

    (B, T, D), (B, T) -> (B, D) float32.
    """
    return hidden.float().masked_fill((mask == 0).unsqueeze(-1), float("-inf")).amax(dim=1)


def weighted_mean(hidden: Tensor, mask: Tensor, attended: Tensor | None = None) -> Tensor:
    """Average the tokens with their positions (1, 2, ...) as weights.

    (B, T, D), (B, T) -> (B, D) float32.

    Positions count from the first token of `attended` (B, T), the mask before a prompt was taken
    out of it; default: `mask`.
    """
    start = ((mask if attended is None else attended) != 0).int().argmax(dim=1, keepdim=True)
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device).unsqueeze(0) - start
    weight = position.float() * (mask != 0)
    total = weight.sum(dim=1, keepdim=True).clamp(min=LEAST)
    return (_kept(hidden, mask) * weight.unsqueeze(-1)).sum(dim=1) / total


def pool(mode: str, hidden: Tensor, mask: Tensor, attended: Tensor | None = None) -> Tensor:
    """Pool by the name of a mode of the spec: (B, T, D), (B, T) -> (B, D) float32.

    Raises:
        KeyError: the spec admits no other name, so this is a bug.
    """
    if mode == "weighted_mean":
        return weighted_mean(hidden, mask, attended)
    return {"mean": mean, "cls": cls, "max": maximum, "last": last, "mean_sqrt_len": mean_sqrt_len}[mode](
        hidden, mask
    )


def pool_pieces(
    mode: str,
    hidden: Tensor,
    window: npt.NDArray[np.int64],
    begin: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
) -> Tensor:
    """Pool stretches of tokens: (B, T, D) to (pieces, D) float32.

    Of each piece its window, its first token and the token behind it are given, (pieces,) each.

    Modes are mean, max, first and last; no stretch is empty.
    """
    flat = hidden.reshape(-1, hidden.shape[-1]).float()
    first = window * hidden.shape[1] + begin
    if mode in ("first", "last") or (end - begin == 1).all():
        at = first if mode != "last" else first + (end - begin) - 1
        return flat[to_device(torch.from_numpy(at), flat.device)]
    tokens, offsets = (
        to_device(torch.from_numpy(array), flat.device)
        for array in (runs(first, end - begin), offsets_of(end - begin)[:-1])
    )
    return embedding_bag(tokens, flat, offsets, mode=mode)


def finish(vectors: Tensor, output: OutputSpec) -> Tensor:
    """Shorten and normalise vectors as an output asks: (rows, D) -> (rows, dim)."""
    short = vectors if output.dim is None else vectors[:, : output.dim]
    return normalize(short, dim=-1) if output.normalize else short
