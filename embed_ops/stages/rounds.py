"""What rounds read, cut and added: by the number of rows alone.

And `fit`, the loop of `postprocessing/fold.py` in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from embed_ops.numerics.tiles import BLOCK_ROWS, Ints, Vectors
from embed_ops.stages.base import SHARDS, Block, Collected, FitInput, Round, Stage
from embed_ops.stages.sampling import collect, shard_slices


def fit(stage: Stage, x: Vectors, seed: int = 0) -> Any:
    """Fit a stage in this process over vectors in memory.

    The loop that `postprocessing/fold.py` runs over a cluster, without one.

    Args:
        stage: any.
        x: (rows, dim) float32.
        seed: of everything that draws.

    Returns:
        its model.
    """
    state = stage.start(FitInput(len(x), x.shape[1], seed))
    ids = np.arange(len(x), dtype=np.int64)
    shards: list[tuple[Vectors, Ints]] = []
    while (todo := stage.round(state)) is not None:
        if todo.over == "collect":
            kept, kept_ids, sizes = collect(x, ids, len(x), todo.rows or len(x), seed)
            ends = np.cumsum(sizes)
            shards = [
                (kept[end - size : end], kept_ids[end - size : end])
                for end, size in zip(ends, sizes, strict=True)
            ]
            state = stage.update(state, Collected(sizes))
        elif todo.over == "run":
            state = stage.update(state, _over_run(stage, state, x, ids))
        else:
            state = stage.update(state, _over_sample(stage, state, shards, todo))
    return stage.model(state)


def _over_run(stage: Stage, state: Any, x: Vectors, ids: Ints) -> Any:
    parts = []
    for begin, stop in groups(len(x)):
        blocks = (Block(x[first:end], ids[first:end]) for first, end in pieces(begin, stop))
        parts.append(chained(stage.summarize(block, state) for block in blocks))
    return added(parts)


def _over_sample(stage: Stage, state: Any, shards: Sequence[tuple[Vectors, Ints]], todo: Round) -> Any:
    parts = []
    for numbers in divide(todo.tasks):
        slices = (
            (shards[number][0][begin:stop], shards[number][1][begin:stop])
            for number in numbers
            for begin, stop in shard_slices(todo.begin, todo.rows, len(shards[number][0]))
        )
        summary = chained(stage.summarize(block, state) for block in in_blocks(slices))
        parts += [] if summary is None else [summary]
    return added(parts)


def divide(tasks: int) -> list[range]:
    """Divide the shards into consecutive ranges, one for each task."""
    return [range(SHARDS * task // tasks, SHARDS * (task + 1) // tasks) for task in range(tasks)]


def pieces(begin: int, end: int) -> list[tuple[int, int]]:
    """Cut consecutive rows into blocks."""
    return [(first, min(end, first + BLOCK_ROWS)) for first in range(begin, end, BLOCK_ROWS)]


def in_blocks(slices: Iterable[tuple[Vectors, Ints]]) -> Iterator[Block]:
    """Join slices of shards, and cut what they hold together into blocks.

    A step has few rows of many shards.
    """
    held: list[tuple[Vectors, Ints]] = []
    rows = 0
    for x, ids in slices:
        while rows + len(x) >= BLOCK_ROWS:
            taken = BLOCK_ROWS - rows
            yield _joined([*held, (x[:taken], ids[:taken])])
            held, rows, x, ids = [], 0, x[taken:], ids[taken:]
        if len(x):
            held.append((x, ids))
            rows += len(x)
    if held:
        yield _joined(held)


def _joined(parts: Sequence[tuple[Vectors, Ints]]) -> Block:
    if len(parts) == 1:
        return Block(*parts[0])
    return Block(np.concatenate([x for x, _ in parts]), np.concatenate([ids for _, ids in parts]))


GROUP_BLOCKS = 32
"""Most blocks that one task of a pass over the run takes: a quarter of a million rows."""
GROUPS = 64
"""Groups into which a smaller run is divided."""


def groups(rows: int) -> list[tuple[int, int]]:
    """Divide the rows of a run into consecutive groups of whole blocks, one for each task.

    By their number alone.
    """
    blocks = -(-rows // BLOCK_ROWS)
    height = BLOCK_ROWS * min(GROUP_BLOCKS, max(1, -(-blocks // GROUPS)))
    return [(first, min(rows, first + height)) for first in range(0, rows, height)]


FAN_IN = 8
"""Summaries that one task adds."""


def added(summaries: Sequence[Any]) -> Any:
    """Add summaries in a fixed tree of `FAN_IN` branches, which depends on their number alone."""
    left = list(summaries)
    while len(left) > 1:
        left = [chained(left[first : first + FAN_IN]) for first in range(0, len(left), FAN_IN)]
    return left[0]


def chained(summaries: Iterable[Any]) -> Any:
    """Add summaries one after the other; None where there are none."""
    total = None
    for summary in summaries:
        total = summary if total is None else total + summary
    return total
