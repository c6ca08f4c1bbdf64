"""Token batches: from the lengths of a unit's inputs to the rectangles of its forward passes. Pure.

Sorted batches under a token budget are the usual way to waste little on padding (fairseq's
`--max-tokens`, sentence-transformers' sorting by length). What closes a batch early differs:

- A CPU pays for positions alone, so there a cap on their waste closes it (ours): where lengths
  spread, as at the short end of a small unit, batches are small.
- A GPU pays for each launch as well: the host names some hundred kernels one by one, whatever their
  size. There the batches are those of the least cost, positions and launches together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Batches = list[npt.NDArray[np.int64]]

WASTE_CAP = 0.02
_LEAST_FILL = 16
LAUNCH = 8_192
"""What a launch costs a GPU, in positions: from 4,096 (a large BERT) to 60,000 (MiniLM) by the
kernels' number and size. Batches change little in between (`bench/batches.py`)."""


_SPREAD = 4
"""Budgets that inputs of a packed batch may fill where each is as wide as the longest."""


@dataclass(frozen=True)
class BatchRule:
    """How batches are formed.

    Attributes:
        name: kept with a run: another rule forms other batches and so other bytes.
        cut: gives where batches begin, of (inputs,) int64 lengths, longest first, and the budget.
        padded: whether inputs are padded to the longest of their batch.
    """

    name: str
    cut: Callable[[npt.NDArray[np.int64], int], list[int]]
    padded: bool = True

    def positions(self, lengths: npt.NDArray[np.int32]) -> int:
        """Count the positions that a batch puts through the model, padding included."""
        return len(lengths) * int(lengths.max()) if self.padded else int(lengths.sum())


def _capped_waste(lengths: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Close a batch once it fills a sixteenth of the budget and its waste exceeds the cap."""
    starts = [0]
    start, width, tokens = 0, 0, 0
    for place, length in enumerate(lengths.tolist()):
        count = place - start
        positions = width * (count + 1)
        wasteful = (
            count * width * _LEAST_FILL >= budget and positions - tokens - length > WASTE_CAP * positions
        )
        if count and (positions > budget or wasteful):
            starts.append(place)
            start, count, tokens = place, 0, 0
        if count == 0:
            width = length
        tokens += length
    return starts


def _least_cost(lengths: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Choose batches whose positions and launches cost least together.

    Inputs of one length stay together, and where they alone exceed the budget they are dealt out
    evenly. Shortest paths over the distinct lengths: `least[j]` is the cost of all inputs in front
    of the j-th one, the last batch of which begins at the `i`-th.
    """
    width, first = np.unique(-lengths, return_index=True)
    width, bounds = -width, np.r_[first, len(lengths)].astype(np.int64)
    least, begins = np.zeros(len(bounds)), np.zeros(len(bounds), np.int64)
    lowest = 0
    for j in range(1, len(bounds)):
        while lowest < j - 1 and (bounds[j] - bounds[lowest]) * width[lowest] > budget:
            lowest += 1
        places = np.arange(lowest, j)
        counts = bounds[j] - bounds[places]  # (places,)
        launches = -(-counts // np.maximum(1, budget // np.maximum(1, width[places])))
        costs = least[places] + counts * width[places] + LAUNCH * launches
        begins[j] = places[costs.argmin()]
        least[j] = costs.min()
    starts: list[int] = []
    j = len(bounds) - 1
    while j:
        i = int(begins[j])
        starts += _dealt_out(int(bounds[i]), int(bounds[j]), int(width[i]), budget)[::-1]
        j = i
    return starts[::-1]


def _dealt_out(begin: int, end: int, width: int, budget: int) -> list[int]:
    """Give where the fewest batches of inputs of this width begin, all of nearly one size."""
    batches = -(-(end - begin) // max(1, budget // max(1, width)))
    return [begin + (end - begin) * number // batches for number in range(batches)]


def _even_tokens(lengths: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Fill the fewest batches of so many tokens, all of nearly one size.

    Pooling puts each input into the width of the longest: a few long ones among many short ones
    are batches of their own.
    """
    behind = np.cumsum(lengths)
    batches = max(1, -(-int(behind[-1]) // budget))
    share = -(-int(behind[-1]) // batches)
    starts, start = [0], 0
    while True:
        before = int(behind[start - 1]) if start else 0
        # An input that is larger than a share is a batch of its own, or begins one.
        widest = start + _SPREAD * budget // max(1, int(lengths[start]))
        end = int(np.searchsorted(behind, before + share, side="right"))
        start = max(start + 1, min(end, widest))
        if start >= len(lengths):
            return starts
        starts.append(start)


RULES = {
    "cpu": BatchRule("longest-first, waste cap 2 %, least fill 1/16", _capped_waste),
    "cuda": BatchRule("longest-first, least cost, a launch as 8192 positions", _least_cost),
    "packed": BatchRule("longest-first, even tokens, no padding, spread 4", _even_tokens, padded=False),
}
"""By device, and for batches without padding."""


def token_batches(lengths: npt.NDArray[np.int32], budget: int, rule: BatchRule = RULES["cpu"]) -> Batches:
    """Group inputs to batches, longest first; every input is in exactly one.

    A batch of n inputs has n x (its longest) positions, `budget` at most. An input longer than the
    budget is a batch of its own.

    Args:
        lengths: (inputs,) int32, in tokens.
        budget: positions.
        rule: that of the device.

    Returns:
        indexes into `lengths`, a (batch,) int64 array each; they depend on the arguments alone.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    if not len(order):
        return []
    return np.split(order, rule.cut(lengths[order].astype(np.int64), budget)[1:])
