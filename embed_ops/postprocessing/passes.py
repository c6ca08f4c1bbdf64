"""What a fit's workers do, on one stretch of rows or one shard of a sample.

Plain functions, tested without Ray.

    read_group        a stretch of the run -> a summary, or the rows that a hash chooses
    make_shards       what all stretches kept -> shards of the sample
    merge             some summaries -> one
    summarize_shards  some shards of the sample -> a summary
    go_on             small rounds over the sample, one after the other -> the state behind them

What they give is kept in `work/`, but for the last two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.numerics.exact import kernel_name
from embed_ops.numerics.tiles import Ints, Vectors
from embed_ops.postprocessing.dealt import FLOAT, LONG, keep_dealt, read_dealt, read_rows
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.runs.columns import Stretch, blocks, indexes
from embed_ops.stages.base import SHARDS, Block, Round
from embed_ops.stages.registry import make_stage
from embed_ops.stages.rounds import chained, in_blocks, pieces
from embed_ops.stages.sampling import collect, shard_order, shard_slices
from embed_ops.storage.files import Location, publish, read_bytes
from embed_ops.storage.packing import pack, unpack
from embed_ops.storage.private import private_folder

_SAMPLE = f"{WORK}/sample"
_DISK = pa.fs.LocalFileSystem()
_GO_ON_S = 2.0
"""So long a task goes on with small rounds: the driver says how far a fit is, saves it, and may be
asked to stop."""


@dataclass(frozen=True)
class Part:
    """One stage's part in a pass over a stretch.

    What it looks for, and where it keeps what the stretch gives.
    """

    job: StageJob
    round: Round
    name: str


@dataclass(frozen=True)
class ShardSummary:
    """What a round over the sample gives for some shards.

    Attributes:
        summary: None where they are empty.
        kernel: of the worker's matrix products.
    """

    summary: Any
    kernel: str


@dataclass(frozen=True)
class SmallRounds:
    """Where a fit stands behind some small rounds.

    Attributes:
        rounds: how many.
        state: of the stage.
        kernel: of the worker's matrix products.
    """

    rounds: int
    state: Any
    kernel: str


def read_group(parts: Sequence[Part], stretch: Stretch, *states: Any) -> str:
    """Read a stretch once for all stages that want it; each keeps what it gives.

    Args:
        parts: of the stages, which read the same vectors.
        stretch: of the input.
        states: of the fits, one for each part.

    Returns:
        kernel of the worker's matrix products.
    """
    stages = [make_stage(part.job.spec) for part in parts]
    summaries: list[Any] = [None] * len(parts)
    chosen: list[list[tuple[Vectors, Ints]]] = [[] for _ in parts]
    for first, x in blocks(parts[0].job.vectors, stretch):
        block = Block(x, indexes(first, len(x)))
        for place, (part, stage) in enumerate(zip(parts, stages, strict=True)):
            if part.round.over == "collect":
                wanted = part.round.rows or part.job.rows
                x_of_sample, ids, _ = collect(x, block.ids, part.job.rows, wanted, part.job.seed)
                chosen[place].append((x_of_sample, ids))
            else:
                summary = stage.summarize(block, states[place])
                summaries[place] = summary if summaries[place] is None else summaries[place] + summary
    for place, part in enumerate(parts):
        if part.round.over == "collect":
            _keep_rows(part, chosen[place])
        else:
            part.job.keep(part.name, pack(summaries[place]))
    return kernel_name()


def _keep_rows(part: Part, chosen: Sequence[tuple[Vectors, Ints]]) -> None:
    """Keep the chosen rows of a stretch, ordered by shard."""
    x, ids = np.concatenate([x for x, _ in chosen]), np.concatenate([ids for _, ids in chosen])
    order, sizes = shard_order(ids, part.job.seed)
    keep_dealt(part.job, part.name, x[order], ids[order], sizes)


def make_shards(job: StageJob, folder: str, groups: int, shards: Sequence[int]) -> list[int]:
    """Gather shards of the sample from what the stretches kept; gives the rows of each."""
    return [_make_shard(job, folder, groups, shard) for shard in shards]


def _make_shard(job: StageJob, folder: str, groups: int, shard: int) -> int:
    x, numbers = read_dealt(job, (f"{folder}/{group:06d}" for group in range(groups)), shard, 1)
    ids = numbers[:, 0]
    order, _ = shard_order(ids, job.seed)
    publish(job.run, f"{_SAMPLE}/{shard:02d}.rows", x[order].tobytes(), job.attempt)
    publish(job.run, f"{_SAMPLE}/{shard:02d}.ids", ids[order].tobytes(), job.attempt)
    return len(x)


def merge(job: StageJob, names: Sequence[str], name: str) -> None:
    """Add summaries that are kept in `work/`, in order, and keep the sum."""
    job.keep(name, pack(chained(unpack(job.kept(one) or b"") for one in names)))


def on_this_node(job: StageJob, name: str) -> Location:
    """Give a file of the sample as one on a disk of this node: rounds read it again and again."""
    place = job.run.child(f"{_SAMPLE}/{name}")
    if place.local:
        return place
    folder = private_folder() / job.attempt
    copy = folder / f"{job.spec.folder}-{name}"
    if not copy.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        here = Location(_DISK, str(folder))
        publish(here, copy.name, read_bytes(place) or b"", job.attempt)
    return Location(_DISK, str(copy))


def summarize_shards(
    job: StageJob, todo: Round, state: Any, shards: Sequence[int], sizes: Sequence[int]
) -> ShardSummary:
    """Summarise what a round reads of some shards.

    Args:
        job: of the stage.
        todo: the round.
        state: of the stage.
        shards: of the sample.
        sizes: rows of each of all shards.
    """
    stage = make_stage(job.spec)

    def slices() -> Iterator[tuple[Vectors, Ints]]:
        for shard in shards:
            rows, ids = on_this_node(job, f"{shard:02d}.rows"), on_this_node(job, f"{shard:02d}.ids")
            for begin, stop in shard_slices(todo.begin, todo.rows, sizes[shard]):
                for first, end in pieces(begin, stop):
                    x: Vectors = read_rows(rows, FLOAT, job.vectors.dim, first, end)
                    yield x, read_rows(ids, LONG, 1, first, end)[:, 0]

    summary = chained(stage.summarize(block, state) for block in in_blocks(slices()))
    return ShardSummary(summary, kernel_name())


def go_on(job: StageJob, state: Any, sizes: Sequence[int]) -> SmallRounds:
    """Go through rounds over the sample, at least one, while each is the work of a single task.

    A task of its own takes Ray 20 ms.
    """
    stage, rounds, began = make_stage(job.spec), 0, time.monotonic()
    todo = stage.round(state)
    while todo is not None and todo.small and (rounds == 0 or time.monotonic() - began < _GO_ON_S):
        state = stage.update(state, summarize_shards(job, todo, state, range(SHARDS), sizes).summary)
        rounds, todo = rounds + 1, stage.round(state)
    return SmallRounds(rounds, state, kernel_name())
