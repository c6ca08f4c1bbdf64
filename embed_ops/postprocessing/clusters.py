"""Rows brought together by cluster.

Near-duplicates within each, and a copy of the run with a folder for each.

spread      a stretch of the run -> its rows ordered by bucket of clusters, in `work/`
compare     a bucket -> the group of each of its rows, ordered by row, in `work/`
gather      a stretch of the run -> the groups of its rows, out of all buckets, in `work/`
mark_unit   a unit -> its data file, out of the groups
fold_out    a stretch of the run -> a file for each cluster in it, in `clusters/`
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.engine.base import Engine
from embed_ops.postprocessing.stage_job import WORK, StageJob, read_rows, write_columns
from embed_ops.runs.columns import Stretch, VectorColumn, blocks, indexes, read_columns, values
from embed_ops.runs.parquet import encode, vector_column
from embed_ops.runs.rows import RunRows
from embed_ops.schema import ROW, SOURCE
from embed_ops.stages.base import SHARDS
from embed_ops.stages.dedup import DedupModel, near_duplicates
from embed_ops.stages.rounds import groups
from embed_ops.storage.files import publish, walk

if TYPE_CHECKING:
    from embed_ops.runs.record import Record

_BUCKET_BYTES = 128 * 2**20
CLUSTERS = "clusters"
_FLOAT, _LONG = np.dtype(np.float32), np.dtype(np.int64)
_FOUND = np.dtype([("id", np.int64), ("kept", np.int64)])


def _vectors(holder: VectorColumn, stretch: Stretch) -> Any:
    return np.concatenate([x for _, x in blocks(holder, stretch)])


def bucket_count(rows: int, dim: int) -> int:
    """Tell among how many buckets clusters are dealt.

    So that what a worker holds does not grow with the run.
    """
    return max(SHARDS, -(-rows * dim * _FLOAT.itemsize // _BUCKET_BYTES))


def spread(job: StageJob, stretch: Stretch, places: tuple[VectorColumn, VectorColumn], name: str) -> None:
    """Keep the rows of a stretch, ordered by bucket, and how many each bucket has."""
    count = bucket_count(job.rows, job.vectors.dim)
    clusters, distances = (values(place, stretch).astype(np.float64) for place in places)
    x = _vectors(job.vectors, stretch)
    buckets = clusters.astype(np.int64) % count
    order = np.argsort(buckets, kind="stable")
    about = np.stack(
        [indexes(stretch.first, len(x)), clusters.astype(np.int64), distances.view(np.int64)], axis=1
    )
    job.keep(f"{name}.rows", x[order].tobytes())
    job.keep(f"{name}.about", about[order].tobytes())
    job.keep(name, np.bincount(buckets, minlength=count).astype(np.int64).tobytes())


def compare(job: StageJob, bucket: int, starts: Sequence[int]) -> None:
    """Find near-duplicates in the clusters of a bucket.

    Keeps how many rows are not kept, and how many groups there are.

    Args:
        job: of the stage.
        bucket: number.
        starts: first row of each stretch, and the number of rows.
    """
    rows, parts = [np.empty((0, job.vectors.dim), _FLOAT)], [np.empty((0, 3), _LONG)]
    for group in range(len(starts) - 1):
        name = f"spread/{group:06d}"
        sizes = np.frombuffer(job.kept(name) or b"", _LONG)
        begin, end = int(sizes[:bucket].sum()), int(sizes[: bucket + 1].sum())
        rows.append(read_rows(job.run.child(f"{WORK}/{name}.rows"), _FLOAT, job.vectors.dim, begin, end))
        parts.append(read_rows(job.run.child(f"{WORK}/{name}.about"), _LONG, 3, begin, end))
    x, about = np.concatenate(rows), np.concatenate(parts)
    found = np.empty(len(x), _FOUND)
    found["id"] = about[:, 0]
    duplicates = joined = 0
    # Stable: within a cluster rows stay in order.
    by_cluster = np.argsort(about[:, 1], kind="stable")
    for mine in np.split(by_cluster, np.flatnonzero(np.diff(about[by_cluster, 1])) + 1) if len(x) else []:
        distance = about[mine, 2].copy().view(np.float64)
        kept, itself = near_duplicates(x[mine], about[mine, 0], distance, job.spec.threshold, job.spec.keep)  # type: ignore[union-attr]
        found["kept"][mine] = kept
        duplicates += int((~itself).sum())
        joined += len(np.unique(kept[~itself]))
    job.keep(
        f"groups/{bucket:06d}.bounds",
        np.searchsorted(found["id"], np.asarray(starts)).astype(np.int64).tobytes(),
    )
    job.keep(f"groups/{bucket:06d}.rows", found.tobytes())
    job.keep(f"groups/{bucket:06d}", np.array([duplicates, joined], np.int64).tobytes())


def find_duplicates(job: StageJob, rows: RunRows, engine: Engine) -> DedupModel:
    """Bring rows together by cluster and compare them.

    What an earlier command has kept is not done again.
    """
    places = (rows.holder("cluster"), rows.holder("distance"))
    stretches = groups(rows.rows)
    kept = {name for name, _ in walk(job.run, WORK)}
    todo = [number for number in range(len(stretches)) if f"spread/{number:06d}" not in kept]
    engine.all(
        spread, [(job, rows.stretch(*stretches[number]), places, f"spread/{number:06d}") for number in todo]
    )
    starts = [*(first for first, _ in stretches), rows.rows]
    count = bucket_count(rows.rows, job.vectors.dim)
    engine.all(
        compare, [(job, bucket, starts) for bucket in range(count) if f"groups/{bucket:06d}" not in kept]
    )
    stretch_numbers = [number for number in range(len(stretches)) if f"marks/{number:06d}" not in kept]
    engine.all(gather, [(job, number, stretches[number]) for number in stretch_numbers])
    counts = np.stack(
        [np.frombuffer(job.kept(f"groups/{bucket:06d}") or b"", _LONG) for bucket in range(count)]
    ).sum(axis=0)
    return DedupModel(job.spec.threshold, job.spec.keep, rows.rows, int(counts[0]), int(counts[1]))  # type: ignore[union-attr]


def gather(job: StageJob, number: int, ends: tuple[int, int]) -> None:
    """Collect from all buckets what was found of a stretch, in the order of its rows."""
    first, end = ends
    kept = np.full(end - first, -1, np.int64)
    for bucket in range(bucket_count(job.rows, job.vectors.dim)):
        bounds = np.frombuffer(job.kept(f"groups/{bucket:06d}.bounds") or b"", _LONG)
        place = job.run.child(f"{WORK}/groups/{bucket:06d}.rows")
        found = read_rows(place, _FOUND, 1, int(bounds[number]), int(bounds[number + 1]))[:, 0]
        kept[found["id"] - first] = found["kept"]
    job.keep(f"marks/{number:06d}", kept.tobytes())


def mark_unit(
    job: StageJob, of_input: Record, first: int, pieces: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """Write a unit's data file: of each row the row that is kept of its group, and whether it is the row itself.

    Args:
        job: of the stage.
        of_input: record of the unit in the input.
        first: global index of its first row.
        pieces: (stretch, begin, end) of its rows in the stretches.
    """
    clock, started = time.perf_counter(), time.time()
    parts = [
        read_rows(job.run.child(f"{WORK}/marks/{number:06d}"), _LONG, 1, begin, end)[:, 0]
        for number, begin, end in pieces
    ]
    kept = np.concatenate([np.empty(0, _LONG), *parts])
    columns = {"group": pa.array(kept), "keep": pa.array(kept == indexes(first, of_input.rows))}
    return write_columns(
        job, of_input, columns, started, {"read": time.perf_counter() - clock, "forward": 0.0}
    )


def marking(job: StageJob, rows: RunRows, done: set[str]) -> Iterator[tuple[Any, ...]]:
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


def fold_out(job: StageJob, stretch: Stretch, name: str) -> None:
    """Write the rows of a stretch into a folder for each cluster, the nearest to its centre first."""
    found = [
        read_columns(job.run, unit, [SOURCE, ROW, "cluster", "distance"]).slice(begin, end - begin)
        for unit, begin, end in stretch.parts
    ]
    x = _vectors(job.vectors, stretch)
    table = pa.concat_tables(found).combine_chunks().unify_dictionaries()
    clusters, distances = table["cluster"].to_numpy(), table["distance"].to_numpy()
    order = np.lexsort((np.arange(len(clusters)), distances, clusters))
    begins = np.flatnonzero(np.r_[True, clusters[order][1:] != clusters[order][:-1]])
    for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
        mine = order[begin:end]
        part = table.take(pa.array(mine)).drop_columns(["cluster"])
        part = part.append_column(job.vectors.column, vector_column(x[mine], "float32"))
        content = encode(part, {"unit": name, "fingerprint": job.fingerprint})
        publish(job.run, f"{CLUSTERS}/cluster={clusters[mine[0]]:06d}/{name}.parquet", content, job.attempt)
    job.keep(f"{CLUSTERS}/{name}", b"done")


def write_by_cluster(job: StageJob, rows: RunRows, engine: Engine) -> None:
    """Write a copy of the run with a folder for each cluster.

    Stretches that are done are left alone.
    """
    kept = {name for name, _ in walk(job.run, f"{WORK}/{CLUSTERS}")}
    calls = [
        (job, rows.stretch(first, end), f"{number:06d}")
        for number, (first, end) in enumerate(groups(rows.rows))
    ]
    engine.all(fold_out, [call for call in calls if call[2] not in kept])
