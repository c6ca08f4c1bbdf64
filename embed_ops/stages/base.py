"""What every stage offers. Protocols: stages share no code by inheritance, and know no Ray and no files.

A fit is a loop of rounds, which `fold.py` runs over a cluster and `fit` below in one process:

    state = stage.start(facts)
    while (todo := stage.round(state)) is not None:
        state = stage.update(state, fold of stage.summarize(block, state) over the blocks of `todo`)
    model = stage.model(state)

What is folded depends on the rows alone and never on files, workers or the order in which they finish: blocks are cut at
multiples of `BLOCK_ROWS` of the global row index, and summaries are added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 8192
"""Rows of a block of a pass over the run."""
SHARDS = 64
"""Logical shards of a sample: a constant, so that nothing depends on the number of workers."""
TILE_ROWS = 1024
"""Rows of a matrix product: always the same, the last tile padded, since the shape of a product decides its last bits."""

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What a fit knows before it reads a row: how many there are, their width, and the seed of everything that draws."""

    rows: int
    dim: int
    seed: int


@dataclass(frozen=True)
class Round:
    """What a fit reads next.

    Attributes:
        name: shown as progress.
        over: "run": every row, in blocks; "collect": every row once, to keep about `rows` of them as the sample (chosen by a
            hash of the row's index, in an order that the hash decides, dealt to `SHARDS` shards); "sample": rows of that sample.
        begin: of "sample": place in each shard where to begin; past its end it goes on at its beginning.
        rows: of "collect": about how many; of "sample": how many of each shard, None for all of them.
        tasks: of "sample": tasks to divide the shards among. It decides the order of addition, so it may not depend on the machine.
    """

    name: str
    over: Literal["run", "collect", "sample"]
    begin: int = 0
    rows: int | None = None
    tasks: int = 1


@dataclass(frozen=True)
class Block:
    """Rows that are summarised together.

    Attributes:
        x: (rows, dim) float32, finite.
        ids: (rows,) int64, global row indexes.
        shard: of the sample, -1 in a pass over the run.
        offset: place of the first row in its shard, or its global row index.
    """

    x: Vectors
    ids: Ints
    shard: int = -1
    offset: int = 0


class Summary(Protocol):
    """A mergeable partial result; a frozen dataclass of numpy arrays and numbers. Added in the order of the rows."""

    def __add__(self, other: Any) -> Any:
        """Merge with the summary of the rows that come next."""
        ...


@dataclass(frozen=True)
class Collected:
    """What a "collect" round gives to `update`: rows of each shard of the sample, (SHARDS,) int64."""

    sizes: Ints


class Model(Protocol):
    """What a stage fitted: a frozen dataclass of numpy arrays and numbers, saved as safetensors and JSON."""

    kind: ClassVar[str]

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Compute the stage's columns for `(rows, dim)` vectors; one that holds vectors is called `name`."""
        ...

    def report(self) -> dict[str, Any]:
        """Say in numbers what was fitted, for `report.json`."""
        ...


class Stage(Protocol):
    """A follow-on step, made from its section of the spec.

    `State` is a frozen dataclass of numpy arrays, numbers, strings and None, which is saved between rounds.
    """

    def start(self, facts: Facts) -> Any:
        """Give the first state.

        Raises:
            StageError: the spec asks for what the data can't give, such as more clusters than rows.
        """
        ...

    def round(self, state: Any) -> Round | None:
        """Say what to read next, None once it is fitted."""
        ...

    def summarize(self, block: Block, state: Any) -> Any:
        """Summarise some rows; runs on workers."""
        ...

    def update(self, state: Any, summary: Any) -> Any:
        """Take in what a round found: the sum of the summaries, or `Collected`."""
        ...

    def model(self, state: Any) -> Any:
        """Give the model of the last state."""
        ...

    def progress(self, state: Any) -> str:
        """Say where the fit stands in a few words, such as the inertia of the latest round; may be empty."""
        ...


def in_tiles(function: Callable[[Vectors], npt.NDArray[Any]], x: Vectors, rows: int = TILE_ROWS) -> npt.NDArray[Any]:
    """Compute row by row results in tiles of a fixed height, so that a row's bits do not depend on how many rows there are.

    Args:
        function: of `(rows, dim)`, gives an array of `rows` rows.
        x: (any, dim).
        rows: height of a tile; the last one is padded with zeros.
    """
    parts = []
    for first in range(0, max(1, len(x)), rows):
        tile = x[first : first + rows]
        if len(tile) < rows:
            padded = np.zeros((rows, x.shape[1]), x.dtype)
            padded[: len(tile)] = tile
            parts.append(function(padded)[: len(tile)])
        else:
            parts.append(function(tile))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def splitmix64(seed: int, tag: int, ids: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Draw a 64-bit number for each row, from seed, purpose and row index alone (SplitMix64, Steele et al. 2014).

    Args:
        seed: of the run.
        tag: of the purpose: equal tags draw equal numbers.
        ids: (rows,) integers.
    """
    gamma, first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

    def mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        start = mix(np.array([seed], np.uint64) * gamma + np.uint64(tag) + gamma)
        return mix(mix(ids.astype(np.uint64) * gamma + start) + gamma)


def uniform(seed: int, tag: int, ids: npt.NDArray[Any]) -> Floats:
    """Draw a number in [0, 1) for each row, from seed, purpose and row index alone."""
    drawn: Floats = (splitmix64(seed, tag, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def collect(x: Vectors, ids: Ints, total: int, rows: int, seed: int) -> tuple[Vectors, Ints, Ints]:
    """Choose the rows of a sample, and put them into the order that it has.

    Args:
        x: (rows, dim) vectors.
        ids: (rows,) their global row indexes.
        total: rows of the run.
        rows: about how many rows of the run the sample is to have.
        seed: of the run.

    Returns:
        chosen vectors and ids, ordered by shard and by hash in it, and the rows of each shard (SHARDS,).
    """
    chosen = np.flatnonzero(uniform(seed, SAMPLE_TAG, ids) < rows / total)
    order, sizes = shard_order(ids[chosen], seed)
    return x[chosen[order]], ids[chosen[order]], sizes


def shard_order(ids: Ints, seed: int) -> tuple[Ints, Ints]:
    """Order rows of a sample by hash, and so by shard: the order as indexes (rows,), and the rows of each shard (SHARDS,)."""
    drawn = splitmix64(seed, ORDER_TAG, ids)
    shards = (drawn >> np.uint64(64 - SHARDS.bit_length() + 1)).astype(np.int64)
    return np.argsort(drawn, kind="stable"), np.bincount(shards, minlength=SHARDS).astype(np.int64)


SAMPLE_TAG, ORDER_TAG = 1, 2


def shard_slices(begin: int, rows: int | None, size: int) -> list[tuple[int, int]]:
    """List the stretches of a shard that a round reads: from `begin` on, around its end."""
    if size == 0:
        return []
    if rows is None or rows >= size:
        return [(0, size)]
    begin %= size
    end = begin + rows
    return [(begin, end)] if end <= size else [(begin, size), (0, end - size)]


def fit(stage: Stage, x: Vectors, seed: int = 0) -> Any:
    """Fit a stage in this process over vectors in memory: the loop that `fold.py` runs over a cluster, without one.

    Args:
        stage: any.
        x: (rows, dim) float32.
        seed: of everything that draws.

    Returns:
        its model.
    """
    state = stage.start(Facts(len(x), x.shape[1], seed))
    ids = np.arange(len(x), dtype=np.int64)
    shards: list[tuple[Vectors, Ints]] = []
    while (todo := stage.round(state)) is not None:
        if todo.over == "collect":
            kept, kept_ids, sizes = collect(x, ids, len(x), todo.rows or len(x), seed)
            ends = np.cumsum(sizes)
            shards = [(kept[end - size : end], kept_ids[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
            state = stage.update(state, Collected(sizes))
        elif todo.over == "run":
            state = stage.update(state, _over_run(stage, state, x, ids))
        else:
            state = stage.update(state, _over_sample(stage, state, shards, todo))
    return stage.model(state)


def _over_run(stage: Stage, state: Any, x: Vectors, ids: Ints) -> Any:
    parts = []
    for begin, stop in groups(len(x)):
        blocks = (Block(x[first:end], ids[first:end], offset=first) for first, end in pieces(begin, stop))
        parts.append(chained(stage.summarize(block, state) for block in blocks))
    return added(parts)


def _over_sample(stage: Stage, state: Any, shards: Sequence[tuple[Vectors, Ints]], todo: Round) -> Any:
    parts = []
    for numbers in divide(todo.tasks):
        found = chained(
            stage.summarize(Block(shards[number][0][first:end], shards[number][1][first:end], number, first), state)
            for number in numbers
            for begin, stop in shard_slices(todo.begin, todo.rows, len(shards[number][0]))
            for first, end in pieces(begin, stop)
        )
        parts += [] if found is None else [found]
    return added(parts)


def divide(tasks: int) -> list[range]:
    """Divide the shards into consecutive ranges, one for each task."""
    return [range(SHARDS * task // tasks, SHARDS * (task + 1) // tasks) for task in range(tasks)]


def pieces(begin: int, end: int) -> list[tuple[int, int]]:
    """Cut a stretch of a shard into blocks."""
    return [(first, min(end, first + BLOCK_ROWS)) for first in range(begin, end, BLOCK_ROWS)]


GROUP_BLOCKS = 32
"""Most blocks that one task of a pass over the run takes: a quarter of a million rows."""
GROUPS = 64
"""Groups into which a smaller run is divided."""


def groups(rows: int) -> list[tuple[int, int]]:
    """Divide the rows of a run into consecutive groups of whole blocks, one for each task: by their number alone."""
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
