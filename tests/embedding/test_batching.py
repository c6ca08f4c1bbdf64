"""Laws of token batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from embed_ops.embedding.batching import padded_positions, token_batches

LENGTHS = st.lists(st.integers(0, 600), max_size=300).map(lambda values: np.array(values, np.int32))
BUDGETS = st.integers(1, 4096)


@given(LENGTHS, BUDGETS)
def test_every_input_is_in_exactly_one_batch(lengths: npt.NDArray[np.int32], budget: int) -> None:
    """The batches partition the inputs, and none is empty."""
    batches = token_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, BUDGETS)
def test_no_batch_exceeds_the_budget(lengths: npt.NDArray[np.int32], budget: int) -> None:
    """Padded positions keep the budget.

    Only an input that is longer by itself exceeds it, alone.
    """
    for batch in token_batches(lengths, budget):
        assert len(batch) == 1 or int(lengths[batch].max()) * len(batch) <= budget


@given(LENGTHS, BUDGETS)
def test_batches_go_from_long_to_short(lengths: npt.NDArray[np.int32], budget: int) -> None:
    """Longest first over all batches, and equal lengths in the order given."""
    flat = [
        (-int(lengths[index]), index) for batch in token_batches(lengths, budget) for index in batch.tolist()
    ]
    assert flat == sorted(flat)


@given(LENGTHS, BUDGETS)
def test_batches_depend_on_the_lengths_alone(lengths: npt.NDArray[np.int32], budget: int) -> None:
    """The same lengths give the same batches, in whatever array they come."""
    strided = np.repeat(lengths, 2)[::2]
    again = token_batches(strided, budget)
    assert [batch.tolist() for batch in token_batches(lengths, budget)] == [batch.tolist() for batch in again]


@given(LENGTHS, BUDGETS)
def test_padded_positions_are_the_rectangles(lengths: npt.NDArray[np.int32], budget: int) -> None:
    """Positions are at least the tokens, and at most the longest input for everyone."""
    positions = padded_positions(lengths, token_batches(lengths, budget))
    assert int(lengths.sum()) <= positions <= len(lengths) * int(lengths.max(initial=0))


def test_little_is_wasted_on_a_full_unit() -> None:
    """For 8,000 lognormal lengths padding is at most 3 %, for the budgets of a CPU and of a GPU."""
    lengths = np.clip(np.random.default_rng(0).lognormal(3.8, 0.8, 8000), 3, 512).astype(np.int32)
    for budget in (4096, 65536):
        positions = padded_positions(lengths, token_batches(lengths, budget))
        assert 1 - int(lengths.sum()) / positions <= 0.03


def test_no_inputs_no_batches() -> None:
    """A unit without inputs has no forward pass."""
    assert token_batches(np.array([], np.int32), 4096) == []
