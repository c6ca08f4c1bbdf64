"""Pooling modes on values that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_ops.encoders.text.pooling import pool

MODES = ("mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len")
HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
ROOT2, ROOT3 = math.sqrt(2), math.sqrt(3)
EXPECTED = {
    "mean": [[2.0, -1.0], [7.0, 5.0]],
    "cls": [[1.0, 2.0], [5.0, 6.0]],
    "max": [[3.0, 2.0], [9.0, 8.0]],
    "last": [[3.0, -4.0], [9.0, 1.0]],
    "weighted_mean": [[7 / 3, -2.0], [46 / 6, 25 / 6]],
    "mean_sqrt_len": [[4 / ROOT2, -2 / ROOT2], [21 / ROOT3, 15 / ROOT3]],
}


@pytest.mark.parametrize("mode", MODES)
def test_hand_computed(mode: str) -> None:
    """Each mode gives the values computed by hand."""
    torch.testing.assert_close(pool(mode, HIDDEN, MASK), torch.tensor(EXPECTED[mode]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_float32(mode: str, dtype: torch.dtype) -> None:
    """Any float type comes out as float32, summed in float32.

    These values overflow or round in half precision.
    """
    hidden = torch.full((1, 3000, 2), 60.0, dtype=dtype)
    pooled = pool(mode, hidden, torch.ones(1, 3000))
    expected = 60 * math.sqrt(3000) if mode == "mean_sqrt_len" else 60.0
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 2), expected))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 9), padding=st.integers(0, 7), seed=st.integers(0, 1000))
def test_padding_does_not_matter(mode: str, length: int, padding: int, seed: int) -> None:
    """Padding on the right or on the left changes nothing, even if it holds NaN."""
    hidden = torch.randn(1, length, 4, generator=torch.Generator().manual_seed(seed))
    alone = pool(mode, hidden, torch.ones(1, length, dtype=torch.int64))
    filler, nothing = torch.full((1, padding, 4), float("nan")), torch.zeros(1, padding, dtype=torch.int64)
    for order in (1, -1):
        padded = torch.cat([hidden, filler][::order], dim=1)
        mask = torch.cat([torch.ones(1, length, dtype=torch.int64), nothing][::order], dim=1)
        torch.testing.assert_close(pool(mode, padded, mask), alone)


def test_weights_count_from_the_attended_start() -> None:
    """Tokens after an excluded prompt keep the positions that they had with it."""
    hidden, attended = torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[1, 1, 1]])
    pooled = pool("weighted_mean", hidden, torch.tensor([[0, 1, 1]]), attended)
    torch.testing.assert_close(pooled, torch.tensor([[16 / 5]]))


@pytest.mark.parametrize("mode", ["mean", "last", "weighted_mean", "mean_sqrt_len"])
def test_no_token_gives_zeros(mode: str) -> None:
    """An empty mask gives zeros, as in sentence-transformers, and not NaN."""
    assert torch.equal(pool(mode, HIDDEN, torch.zeros_like(MASK)), torch.zeros(2, 2))
