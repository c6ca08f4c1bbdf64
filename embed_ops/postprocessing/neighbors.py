"""A unit of the stage `neighbors`: the nearest other rows of the run to each of its rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.numerics.ragged import offsets_of
from embed_ops.numerics.topk import TopK
from embed_ops.postprocessing.search import Search, _show
from embed_ops.postprocessing.stage_job import StageJob, write_columns
from embed_ops.runs.columns import Stretch, indexes, read_unit
from embed_ops.runs.record import Record


def neighbors_of_unit(
    job: StageJob, of_input: Record, first: int, search: Search, stretches: Sequence[Stretch]
) -> dict[str, Any]:
    """Write a unit's data file: of each row the nearest other rows of the whole run, lists `neighbors` and `scores`.

    Args:
        job: of the stage.
        of_input: record of the unit in the input.
        first: global index of its first row.
        search: what is searched.
        stretches: of the whole run.
    """
    clock, started = time.perf_counter(), time.time()
    x = read_unit(job.vectors, of_input.unit, of_input.rows)
    best = TopK(x, search.k, search.metric, indexes(first, len(x)))
    read = time.perf_counter() - clock
    for stretch in stretches:
        _show(best, search, stretch, x)
    ids, scores = best.result()
    there = ids >= 0
    offsets = pa.array(offsets_of(there.sum(axis=1)), pa.int32())
    columns = {
        "neighbors": pa.ListArray.from_arrays(offsets, pa.array(ids[there])),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[there].astype(np.float32))),
    }
    return write_columns(
        job, of_input, columns, started, {"read": read, "forward": time.perf_counter() - clock - read}
    )
