"""What a stage's workers do, on one stretch of rows, one shard of a sample or one unit.

Plain functions, tested without Ray.

    read_group        a stretch of the run -> a summary, or the rows that a hash chooses, kept in `work/`
    make_shards       what all stretches kept -> shards of the sample
    merge             some summaries in `work/` -> one
    summarize_shards  some shards of the sample -> a summary
    go_on             rounds over the sample that are small, one after the other -> the state behind them
    apply_unit        a unit -> its data file, by the fitted model

What is kept in `work/` is not computed again when a command is repeated.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops import __version__
from embed_ops.numerics.exact import kernel_name
from embed_ops.numerics.tiles import Ints, Vectors
from embed_ops.runs.columns import (
    Label,
    Stretch,
    VectorColumn,
    blocks,
    indexes,
    labels_of,
    positions,
    read_columns,
    read_unit,
)
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.record import Record
from embed_ops.runs.statistics import dump, statistics_of
from embed_ops.schema import ROW, SOURCE
from embed_ops.spec.stage import StageSpec
from embed_ops.stages.base import SHARDS, Block, Round
from embed_ops.stages.registry import make_stage
from embed_ops.stages.rounds import chained, in_blocks, pieces
from embed_ops.stages.sampling import collect, shard_order, shard_slices
from embed_ops.storage.files import Location, open_file, publish, read_bytes
from embed_ops.storage.packing import pack, unpack

WORK = "work"
SAMPLE = f"{WORK}/sample"


@dataclass(frozen=True)
class StageJob:
    """Everything that a worker needs to fit and to apply a stage.

    Attributes:
        spec: the stage's section.
        run: its run directory.
        input: the run whose units it has.
        vectors: where the column is that it reads.
        rows: of the input.
        seed: of everything that draws.
        output: name of its vector column.
        fingerprint: of the footers.
        attempt: the command at work.
        work: folder of its unfinished fit.
    """

    spec: StageSpec
    run: Location
    input: Location
    vectors: VectorColumn
    rows: int
    seed: int
    output: str
    fingerprint: str
    attempt: str

    def keep(self, name: str, content: bytes) -> None:
        """Write a file below `work/`."""
        publish(self.run, f"{WORK}/{name}", content, self.attempt)

    def kept(self, name: str) -> bytes | None:
        """Read a file below `work/`."""
        return read_bytes(self.run.child(f"{WORK}/{name}"))


@dataclass(frozen=True)
class Task:
    """One stage's part in a pass over a stretch.

    What it looks for, in which state, and where it keeps what it finds.
    """

    job: StageJob
    round: Round
    state: Any
    name: str


@dataclass(frozen=True)
class Kept:
    """Rows of a stretch that belong to the sample, in its order, and how many of them go to each shard."""

    x: Vectors
    ids: Ints
    sizes: Ints


def read_group(tasks: Sequence[Task], stretch: Stretch) -> dict[str, Any]:
    """Read a stretch once for all stages that want it; each keeps what it found."""
    clock = time.perf_counter()
    stages = [make_stage(task.job.spec) for task in tasks]
    found: list[Any] = [None] * len(tasks)
    chosen: list[list[Kept]] = [[] for _ in tasks]
    for first, x in blocks(tasks[0].job.vectors, stretch):
        block = Block(x, indexes(first, len(x)))
        for place, (task, stage) in enumerate(zip(tasks, stages, strict=True)):
            if task.round.over == "collect":
                wanted = task.round.rows or task.job.rows
                chosen[place].append(Kept(*collect(x, block.ids, task.job.rows, wanted, task.job.seed)))
            else:
                summary = stage.summarize(block, task.state)
                found[place] = summary if found[place] is None else found[place] + summary
    for place, task in enumerate(tasks):
        if task.round.over == "collect":
            _keep_rows(task, chosen[place])
        else:
            task.job.keep(task.name, pack(found[place]))
    return {"seconds": time.perf_counter() - clock, "kernel": kernel_name()}


def _keep_rows(task: Task, parts: Sequence[Kept]) -> None:
    """Keep the chosen rows of a stretch, ordered by shard.

    Raw, since shards are read as slices of it.
    """
    x, ids = np.concatenate([part.x for part in parts]), np.concatenate([part.ids for part in parts])
    order, sizes = shard_order(ids, task.job.seed)
    task.job.keep(f"{task.name}.rows", x[order].tobytes())
    task.job.keep(f"{task.name}.ids", ids[order].tobytes())
    task.job.keep(task.name, sizes.tobytes())


def make_shards(job: StageJob, folder: str, groups: int, shards: Sequence[int]) -> list[int]:
    """Gather shards of the sample from what the stretches kept; gives the rows of each."""
    return [_make_shard(job, folder, groups, shard) for shard in shards]


def _make_shard(job: StageJob, folder: str, groups: int, shard: int) -> int:
    rows, ids = [np.empty((0, job.vectors.dim), np.float32)], [np.empty(0, np.int64)]
    for group in range(groups):
        name = f"{folder}/{group:06d}"
        sizes = np.frombuffer(job.kept(name) or b"", np.int64)
        begin, end = int(sizes[:shard].sum()), int(sizes[: shard + 1].sum())
        rows.append(
            read_rows(job.run.child(f"{WORK}/{name}.rows"), np.dtype(np.float32), job.vectors.dim, begin, end)
        )
        ids.append(read_rows(job.run.child(f"{WORK}/{name}.ids"), np.dtype(np.int64), 1, begin, end)[:, 0])
    x, numbers = np.concatenate(rows), np.concatenate(ids)
    order, _ = shard_order(numbers, job.seed)
    publish(job.run, f"{SAMPLE}/{shard:02d}.rows", x[order].tobytes(), job.attempt)
    publish(job.run, f"{SAMPLE}/{shard:02d}.ids", numbers[order].tobytes(), job.attempt)
    return len(x)


def read_rows(place: Location, kind: np.dtype[Any], dim: int, begin: int, end: int) -> Any:
    """Read rows of a raw file as (end - begin, dim)."""
    width = dim * kind.itemsize
    if end == begin:
        return np.empty((0, dim), kind)
    if place.local:
        return np.fromfile(place.path, kind, (end - begin) * dim, offset=begin * width).reshape(-1, dim)
    with open_file(place) as file:
        file.seek(begin * width)
        return np.frombuffer(file.read((end - begin) * width), kind).reshape(-1, dim)


def merge(job: StageJob, names: Sequence[str], name: str) -> None:
    """Add summaries that are kept in `work/`, in order, and keep the sum."""
    job.keep(name, pack(chained(unpack(job.kept(one) or b"") for one in names)))


def on_this_node(job: StageJob, name: str) -> Location:
    """Give a file of the sample as one on a disk of this node: rounds read it again and again."""
    place = job.run.child(f"{SAMPLE}/{name}")
    if place.local:
        return place
    folder = Path(tempfile.gettempdir()) / f"embed-ops-{job.attempt}"
    copy = folder / f"{job.spec.folder}-{name}"
    if not copy.exists():
        folder.mkdir(exist_ok=True)
        here = Location(_DISK, str(folder))
        publish(here, copy.name, read_bytes(place) or b"", job.attempt)
    return Location(_DISK, str(copy))


_DISK = pa.fs.LocalFileSystem()


def summarize_shards(
    job: StageJob, todo: Round, state: Any, shards: Sequence[int], sizes: Sequence[int]
) -> Any:
    """Summarise what a round reads of some shards; None where they are empty."""
    stage = make_stage(job.spec)

    def slices() -> Iterator[tuple[Vectors, Ints]]:
        for shard in shards:
            rows, ids = on_this_node(job, f"{shard:02d}.rows"), on_this_node(job, f"{shard:02d}.ids")
            for begin, stop in shard_slices(todo.begin, todo.rows, sizes[shard]):
                for first, end in pieces(begin, stop):
                    x: Vectors = read_rows(rows, np.dtype(np.float32), job.vectors.dim, first, end)
                    yield x, read_rows(ids, np.dtype(np.int64), 1, first, end)[:, 0]

    return chained(stage.summarize(block, state) for block in in_blocks(slices()))


_GO_ON_S = 2.0
"""So long a task goes on with small rounds: the driver says how far a fit is, saves it, and may be
asked to stop."""


def go_on(job: StageJob, state: Any, sizes: Sequence[int]) -> dict[str, Any]:
    """Go through rounds over the sample, at least one, while each is the work of a single task.

    A task of its own takes Ray 20 ms.
    """
    stage, rounds, began = make_stage(job.spec), 0, time.monotonic()
    todo = stage.round(state)
    while todo is not None and todo.small and (rounds == 0 or time.monotonic() - began < _GO_ON_S):
        state = stage.update(state, summarize_shards(job, todo, state, range(SHARDS), sizes))
        rounds, todo = rounds + 1, stage.round(state)
    return {"rounds": rounds, "state": state, "kernel": kernel_name()}


def apply_unit(job: StageJob, model: Any, of_input: Record) -> dict[str, Any]:
    """Compute a unit's new columns and write its data file; gives its record."""
    clock, started = time.perf_counter(), time.time()
    x = read_unit(job.vectors, of_input.unit, of_input.rows)
    read = time.perf_counter() - clock
    columns = {
        name: vector_column(values, values.dtype.name) if values.ndim == 2 else pa.array(values)
        for name, values in model.columns(x, job.output).items()
    }
    seconds = {"read": read, "forward": time.perf_counter() - clock - read}
    return write_columns(job, of_input, columns, started, seconds)


def write_columns(
    job: StageJob, of_input: Record, columns: dict[str, pa.Array], started: float, seconds: dict[str, float]
) -> dict[str, Any]:
    """Write a unit's data file: its new columns, and where its rows come from; gives its record."""
    clock = time.perf_counter()
    where = positions(job.input, of_input.unit)
    data = pa.table({SOURCE: where.column(SOURCE), ROW: where.column(ROW), **columns})
    written = RunDir(job.run).write_unit(
        stage_record(job, of_input), data, data.slice(0, 0), job.fingerprint, __version__
    )
    seconds = seconds | {"write": time.perf_counter() - clock, "started": started, "finished": time.time()}
    return {
        "record": asdict(replace(written, seconds=seconds)),
        "statistics": dump(statistics_of(data)),
    }


def measure_units(job: StageJob, model: Any, units: Sequence[Record], label: Label | None) -> Any:
    """Read a stage's new columns of some units back, and summarise how good they are.

    None where they have no rows.
    """
    return chained(
        model.measure(
            read_columns(job.run, record.unit, model.measured),
            None if label is None else labels_of(label, record.unit),
        )
        for record in units
        if record.rows
    )


def stage_record(job: StageJob, of_input: Record) -> Record:
    """Make the record of a stage's unit.

    That of its input, whose records without a vector count as filtered.
    """
    records = sum(part["records"] for part in of_input.ranges)
    return Record(
        unit=of_input.unit,
        attempt=job.attempt,
        ranges=of_input.ranges,
        next_source=None,
        next_position=None,
        rows=of_input.rows,
        rejects=0,
        file_rejects=0,
        filtered=records - of_input.rows,
        bytes=0,
        sha256="",
    )
