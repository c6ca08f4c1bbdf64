"""`dedup` over a run: the rows of a cluster are brought together and compared.

    spread           a stretch of the run -> its rows ordered by bucket of clusters, in `work/`
    compare_bucket   a bucket -> the group of each of its rows, ordered by row, in `work/`
    collect_groups   a stretch of the run -> the groups of its rows, out of all buckets, in `work/`
    mark_unit        a unit -> its data file, out of the groups

These four run in workers.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.engine.base import Engine
from embed_ops.errors import StageError
from embed_ops.postprocessing.dealt import FLOAT, LONG, keep_dealt, read_dealt, read_rows
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.postprocessing.units import UnitCalls, write_columns
from embed_ops.runs.columns import Stretch, VectorColumn, indexes, values
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import DedupSpec
from embed_ops.stages.base import SHARDS
from embed_ops.stages.dedup import DedupModel, near_duplicates
from embed_ops.stages.rounds import groups
from embed_ops.storage.files import walk

_BUCKET_BYTES = 128 * 2**20
_GROUP = np.dtype([("id", np.int64), ("kept", np.int64)])
"""A row, and the row that is kept of its group."""


class DedupRun:
    """Marks near-duplicates within clusters: a `WholeRun`."""

    row_by_row: ClassVar[bool] = False
    no_model: ClassVar[str] = "has no model to apply: duplicates are found among the rows of a run"

    def __init__(self, spec: DedupSpec) -> None:
        self._spec = spec

    def identity(self) -> dict[str, str]:
        """Give nothing: the section says it all."""
        return {}

    def require(self, rows: RunRows, vectors: VectorColumn) -> None:
        """Look for the columns of a kmeans stage.

        Raises:
            StageError: there are none.
        """
        for column in ("cluster", "distance"):
            try:
                rows.holder(column)
            except StageError as error:
                raise StageError(
                    f"{error}; dedup works within clusters: give it the run of a kmeans stage"
                ) from error

    def prepare(self, job: StageJob, rows: RunRows, engine: Engine) -> DedupModel:
        """Bring rows together by cluster and compare them.

        What an earlier command has kept is not done again.
        """
        places = (rows.holder("cluster"), rows.holder("distance"))
        stretches, count = groups(rows.rows), bucket_count(rows.rows, job.vectors.dim)
        kept = {name for name, _ in walk(job.run, WORK)}
        names = {number: f"{number:06d}" for number in range(max(len(stretches), count))}
        engine.all(
            spread,
            [
                (job, rows.stretch(*ends), places, f"spread/{names[number]}")
                for number, ends in enumerate(stretches)
                if f"spread/{names[number]}" not in kept
            ],
        )
        starts = [*(first for first, _ in stretches), rows.rows]
        todo = [bucket for bucket in range(count) if f"groups/{names[bucket]}" not in kept]
        engine.all(compare_bucket, [(job, self._spec, bucket, starts) for bucket in todo])
        todo = [number for number in range(len(stretches)) if f"marks/{names[number]}" not in kept]
        engine.all(collect_groups, [(job, number, stretches[number]) for number in todo])
        duplicates, joined = np.stack(
            [np.frombuffer(job.kept(f"groups/{names[bucket]}") or b"", LONG) for bucket in range(count)]
        ).sum(axis=0)
        return DedupModel(self._spec.threshold, self._spec.keep, rows.rows, int(duplicates), int(joined))

    def unit_calls(
        self, job: StageJob, rows: RunRows, model: DedupModel, done: set[str], engine: Engine
    ) -> UnitCalls:
        """Give the calls that mark the rows of a unit."""
        return UnitCalls(mark_unit, _marking(job, rows, done))


def _marking(job: StageJob, rows: RunRows, done: set[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of `mark_unit` for the units that are not done."""
    stretches = groups(rows.rows)
    ends = [end for _, end in stretches]
    for record, first in zip(rows.records, rows.starts, strict=False):
        if record.unit in done:
            continue
        pieces, at, stop = [], first, first + record.rows
        while at < stop:
            number = bisect.bisect_right(ends, at)
            begin, end = stretches[number]
            pieces.append((number, at - begin, min(stop, end) - begin))
            at = min(stop, end)
        yield job, record, first, pieces


def bucket_count(rows: int, dim: int) -> int:
    """Tell among how many buckets clusters are dealt.

    So that what a worker holds does not grow with the run.
    """
    return max(SHARDS, -(-rows * dim * FLOAT.itemsize // _BUCKET_BYTES))


def spread(job: StageJob, stretch: Stretch, places: tuple[VectorColumn, VectorColumn], name: str) -> None:
    """Keep the rows of a stretch, ordered by bucket, and how many each bucket has.

    Args:
        job: of the stage.
        stretch: of the input.
        places: where the columns `cluster` and `distance` are.
        name: of the files below `work/`.
    """
    count = bucket_count(job.rows, job.vectors.dim)
    clusters, distances = (values(place, stretch).astype(np.float64) for place in places)
    x = job.read(stretch)
    buckets = clusters.astype(np.int64) % count
    order = np.argsort(buckets, kind="stable")
    # (rows, 3): row, cluster, and the bits of the distance.
    about = np.stack(
        [indexes(stretch.first, len(x)), clusters.astype(np.int64), distances.view(np.int64)], axis=1
    )
    sizes = np.bincount(buckets, minlength=count).astype(np.int64)
    keep_dealt(job, name, x[order], about[order], sizes)


def compare_bucket(job: StageJob, spec: DedupSpec, bucket: int, starts: Sequence[int]) -> None:
    """Find near-duplicates in the clusters of a bucket.

    Keeps how many rows are not kept, and how many groups there are.

    Args:
        job: of the stage.
        spec: its section.
        bucket: number.
        starts: first row of each stretch, and the number of rows.
    """
    # (rows, dim) and (rows, 3), ordered by row.
    x, about = read_dealt(job, (f"spread/{number:06d}" for number in range(len(starts) - 1)), bucket, 3)
    marks = np.empty(len(x), _GROUP)
    marks["id"] = about[:, 0]
    duplicates = joined = 0
    # Stable: within a cluster rows stay in order.
    by_cluster = np.argsort(about[:, 1], kind="stable")
    for mine in np.split(by_cluster, np.flatnonzero(np.diff(about[by_cluster, 1])) + 1) if len(x) else []:
        distance = about[mine, 2].copy().view(np.float64)
        kept, itself = near_duplicates(x[mine], about[mine, 0], distance, spec.threshold, spec.keep)
        marks["kept"][mine] = kept
        duplicates += int((~itself).sum())
        joined += len(np.unique(kept[~itself]))
    bounds = np.searchsorted(marks["id"], np.asarray(starts)).astype(np.int64)
    job.keep(f"groups/{bucket:06d}.bounds", bounds.tobytes())
    job.keep(f"groups/{bucket:06d}.rows", marks.tobytes())
    job.keep(f"groups/{bucket:06d}", np.array([duplicates, joined], np.int64).tobytes())


def collect_groups(job: StageJob, number: int, ends: tuple[int, int]) -> None:
    """Collect from all buckets the groups of the rows of a stretch, in the order of its rows."""
    first, end = ends
    kept = np.full(end - first, -1, np.int64)
    for bucket in range(bucket_count(job.rows, job.vectors.dim)):
        bounds = np.frombuffer(job.kept(f"groups/{bucket:06d}.bounds") or b"", LONG)
        place = job.run.child(f"{WORK}/groups/{bucket:06d}.rows")
        marks = read_rows(place, _GROUP, 1, int(bounds[number]), int(bounds[number + 1]))[:, 0]
        kept[marks["id"] - first] = marks["kept"]
    job.keep(f"marks/{number:06d}", kept.tobytes())


def mark_unit(
    job: StageJob, of_input: Record, first: int, pieces: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """Write a unit's data file: of each row the row that is kept of its group.

    Its columns are `group`, that row (int64), and `keep`, whether it is the row itself.

    Args:
        job: of the stage.
        of_input: record of the unit in the input.
        first: global index of its first row.
        pieces: (stretch, begin, end) of its rows in the stretches.
    """
    clock, started = time.perf_counter(), time.time()
    parts = [
        read_rows(job.run.child(f"{WORK}/marks/{number:06d}"), LONG, 1, begin, end)[:, 0]
        for number, begin, end in pieces
    ]
    kept = np.concatenate([np.empty(0, LONG), *parts])
    columns = {"group": pa.array(kept), "keep": pa.array(kept == indexes(first, of_input.rows))}
    return write_columns(
        job, of_input, columns, started, {"read": time.perf_counter() - clock, "forward": 0.0}
    )
