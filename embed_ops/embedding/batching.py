"""Token batches: from the lengths of a unit's inputs to the rectangles of its forward passes. Pure.

Sorted batches under a token budget are the usual way to waste little on padding (fairseq's
`--max-tokens`, sentence-transformers' sorting by length). The cap on waste is ours: where lengths
spread, as at the short end of a small unit, a batch is closed early.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RULE = "longest-first, waste cap 2 %, least fill 1/16"
"""Name of the rule, kept with a run: another rule forms other batches and so other bytes."""
WASTE_CAP = 0.02
_LEAST_FILL = 16


def token_batches(
    lengths: npt.NDArray[np.int32], budget: int, waste_cap: float = WASTE_CAP
) -> list[npt.NDArray[np.int64]]:
    """Group inputs to batches, longest first; every input is in exactly one.

    A batch of n inputs has n x (its longest) positions. It is closed before the positions exceed
    `budget`, and, once it fills a sixteenth of the budget, before the share of positions without a
    token exceeds `waste_cap`. An input longer than the budget is a batch of its own.

    Args:
        lengths: (inputs,) int32, in tokens.
        budget: positions.
        waste_cap: fraction of positions.

    Returns:
        indexes into `lengths`, a (batch,) int64 array each; they depend on `lengths` and the two
        limits alone.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches: list[npt.NDArray[np.int64]] = []
    start, width, tokens = 0, 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        count = place - start
        positions = width * (count + 1)
        wasteful = (
            count * width * _LEAST_FILL >= budget and positions - tokens - length > waste_cap * positions
        )
        if count and (positions > budget or wasteful):
            batches.append(order[start:place])
            start, count, tokens = place, 0, 0
        if count == 0:
            width = length
        tokens += length
    if start < len(order):
        batches.append(order[start:])
    return batches


def padded_positions(lengths: npt.NDArray[np.int32], batches: list[npt.NDArray[np.int64]]) -> int:
    """Count the positions that the batches put through the model, padding included."""
    return sum(int(lengths[batch].max()) * len(batch) for batch in batches)
