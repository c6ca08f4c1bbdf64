"""Laws of token batches, under the rule of each device and without padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_ops.embedding.batching import LAUNCH, RULES, token_batches

LENGTHS = st.lists(st.integers(0, 600), max_size=300).map(lambda values: np.array(values, np.int32))
BUDGETS = st.integers(1, 4096)


RULE_NAMES = st.sampled_from(sorted(RULES))


@given(LENGTHS, BUDGETS, RULE_NAMES)
def test_every_input_is_in_exactly_one_batch(lengths: npt.NDArray[np.int32], budget: int, name: str) -> None:
    """The batches partition the inputs, and none is empty."""
    batches = token_batches(lengths, budget, RULES[name])
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, BUDGETS, RULE_NAMES)
def test_no_batch_exceeds_the_budget(lengths: npt.NDArray[np.int32], budget: int, name: str) -> None:
    """Positions keep the budget.

    Only an input that is longer by itself exceeds it, alone.
    """
    rule = RULES[name]
    for batch in token_batches(lengths, budget, rule):
        assert len(batch) == 1 or rule.positions(lengths[batch]) <= budget


@given(LENGTHS, BUDGETS, RULE_NAMES)
def test_batches_go_from_long_to_short(lengths: npt.NDArray[np.int32], budget: int, name: str) -> None:
    """Longest first over all batches, and equal lengths in the order given."""
    batches = token_batches(lengths, budget, RULES[name])
    flat = [(-int(lengths[index]), index) for batch in batches for index in batch.tolist()]
    assert flat == sorted(flat)


@given(LENGTHS, BUDGETS, RULE_NAMES)
def test_batches_depend_on_the_lengths_alone(lengths: npt.NDArray[np.int32], budget: int, name: str) -> None:
    """The same lengths give the same batches, in whatever array they come."""
    given = token_batches(lengths, budget, RULES[name])
    again = token_batches(np.repeat(lengths, 2)[::2], budget, RULES[name])
    assert [batch.tolist() for batch in given] == [batch.tolist() for batch in again]


@given(LENGTHS, BUDGETS, RULE_NAMES)
def test_positions(lengths: npt.NDArray[np.int32], budget: int, name: str) -> None:
    """From the tokens to the longest input for everyone; without padding the tokens."""
    rule = RULES[name]
    positions = sum(rule.positions(lengths[batch]) for batch in token_batches(lengths, budget, rule))
    assert int(lengths.sum()) <= positions <= len(lengths) * int(lengths.max(initial=0))
    assert rule.padded or positions == int(lengths.sum())


def docstring_like(rows: int) -> npt.NDArray[np.int32]:
    """Draw lognormal lengths."""
    return np.clip(np.random.default_rng(0).lognormal(3.8, 0.8, rows), 3, 512).astype(np.int32)


@pytest.mark.parametrize("budget", [4096, 65536])
def test_little_is_wasted_on_a_full_unit(budget: int) -> None:
    """For 8,000 lognormal lengths padding on a CPU is at most 3 %."""
    lengths = docstring_like(8000)
    positions = sum(RULES["cpu"].positions(lengths[batch]) for batch in token_batches(lengths, budget))
    assert 1 - int(lengths.sum()) / positions <= 0.03


def cost(lengths: npt.NDArray[np.int32], batches: list[npt.NDArray[np.int64]]) -> int:
    """Add up what a GPU pays, in positions."""
    return sum(RULES["cuda"].positions(lengths[batch]) + LAUNCH for batch in batches)


def test_a_gpu_gets_few_large_batches() -> None:
    """They cost less than those of a CPU's rule, and than as many as fit into the budget."""
    lengths, budget = docstring_like(16_384), 65_536
    batches = token_batches(lengths, budget, RULES["cuda"])
    capped = token_batches(lengths, budget, RULES["cpu"])
    order = np.argsort(-lengths, kind="stable")
    filled, start = [], 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        filled.append(order[start : start + size])
        start += size
    assert cost(lengths, batches) < min(cost(lengths, capped), cost(lengths, filled))
    assert len(batches) < len(capped) / 3


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9).map(lambda values: np.array(values, np.int32)))
def test_no_batches_cost_less(lengths: npt.NDArray[np.int32]) -> None:
    """Of all ways to cut the sorted inputs between different lengths, none costs less."""
    budget = 24
    order = np.argsort(-lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(lengths[order])) + 1
    costs = []
    for chosen in range(2 ** len(cuts)):
        ends = [int(cut) for place, cut in enumerate(cuts) if chosen >> place & 1]
        parts = np.split(order, ends)
        several = [len(set(lengths[part].tolist())) > 1 for part in parts]
        sizes = [len(part) * int(lengths[part].max()) for part in parts]
        if any(many and size > budget for many, size in zip(several, sizes, strict=True)):
            continue
        launches = [-(-len(part) // max(1, budget // int(lengths[part].max()))) for part in parts]
        costs.append(sum(sizes) + LAUNCH * sum(launches))
    assert cost(lengths, token_batches(lengths, budget, RULES["cuda"])) == min(costs)


def test_images_are_dealt_out_evenly() -> None:
    """512 images of 197 positions are two batches of 256, and not one of 332 and one of 180."""
    lengths = np.full(512, 197, np.int32)
    assert [len(batch) for batch in token_batches(lengths, 65_536, RULES["cuda"])] == [256, 256]


@pytest.mark.parametrize("name", sorted(RULES))
def test_no_inputs_no_batches(name: str) -> None:
    """A unit without inputs has no forward pass."""
    assert token_batches(np.array([], np.int32), 4096, RULES[name]) == []
