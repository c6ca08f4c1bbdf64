"""A copy of a run with a folder for each cluster, beside the units of a kmeans stage."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from embed_ops.engine.base import Engine
from embed_ops.errors import RunError
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.runs.columns import Stretch, read_columns
from embed_ops.runs.digests import CLUSTERS, digest_of
from embed_ops.runs.parquet import encode, vector_column
from embed_ops.runs.rows import RunRows
from embed_ops.schema import ROW, SOURCE
from embed_ops.stages.rounds import groups
from embed_ops.storage.files import publish, walk

_KEPT = "cluster-digests"
"""Below `work/`: a file for each stretch that is done, with the checksums of what it gave."""


def write_by_cluster(job: StageJob, rows: RunRows, engine: Engine) -> dict[str, str]:
    """Write a copy of the run with a folder for each cluster; gives the sha256 of its files.

    Stretches that are done are left alone.
    """
    kept = {name for name, _ in walk(job.run, f"{WORK}/{_KEPT}")}
    calls = [
        (job, rows.stretch(first, end), f"{number:06d}")
        for number, (first, end) in enumerate(groups(rows.rows))
    ]
    engine.all(fold_out, [call for call in calls if call[2] not in kept])
    digests: dict[str, str] = {}
    for _, _, name in calls:
        digests |= json.loads(job.kept(f"{_KEPT}/{name}") or b"{}")
    return digests


def fold_out(job: StageJob, stretch: Stretch, name: str) -> None:
    """Write the rows of a stretch into a folder for each cluster, nearest to its centre first."""
    names = [SOURCE, ROW, *(holder.column for holder in job.copied), "cluster", "distance"]
    parts = [
        read_columns(job.run, part.unit, names, part.rows).slice(part.begin, part.end - part.begin)
        for part in stretch.parts
    ]
    x = job.read(stretch)
    table = pa.concat_tables(parts).combine_chunks().unify_dictionaries()
    if not pa.types.is_integer(table["cluster"].type):
        raise RunError(
            f"{job.run.path}: column 'cluster' holds {table['cluster'].type}, and folders are named by "
            "its whole numbers; run the stage again with --refit"
        )
    clusters, distances = table["cluster"].to_numpy(), table["distance"].to_numpy()
    order = np.lexsort((np.arange(len(clusters)), distances, clusters))
    digests: dict[str, str] = {}
    begins = np.flatnonzero(np.r_[True, clusters[order][1:] != clusters[order][:-1]])
    for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
        mine = order[begin:end]
        part = table.take(pa.array(mine)).drop_columns(["cluster"])
        part = part.append_column(job.vectors.column, vector_column(x[mine], "float32"))
        content = encode(part, {"unit": name, "fingerprint": job.fingerprint})
        file = f"{CLUSTERS}/cluster={clusters[mine[0]]:06d}/{name}.parquet"
        publish(job.run, file, content, job.attempt)
        digests[file] = digest_of(content)
    job.keep(f"{_KEPT}/{name}", json.dumps(digests).encode())
