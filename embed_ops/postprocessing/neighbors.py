"""`neighbors` over a run: the nearest other rows of the whole run to each row of a unit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.engine.base import Engine
from embed_ops.numerics.ragged import offsets_of
from embed_ops.numerics.topk import TopK
from embed_ops.postprocessing.search import (
    Search,
    make_search,
    offer,
    recall,
    rows_at,
    search_run,
    stretches_of,
)
from embed_ops.postprocessing.stage_job import StageJob
from embed_ops.postprocessing.units import UnitCalls, write_columns
from embed_ops.runs.columns import Stretch, VectorColumn, indexes, read_unit
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import NeighborsSpec
from embed_ops.stages.neighbors import NeighborsModel

_JUDGED = 200
"""Rows by which an approximate search is judged."""


class NeighborsRun:
    """Gives each row its nearest other rows: a `WholeRun`."""

    row_by_row: ClassVar[bool] = False
    no_model: ClassVar[str] = "has no model to apply: neighbours are found among the rows of a run"

    def __init__(self, spec: NeighborsSpec) -> None:
        self._spec = spec

    def _search(self, rows: RunRows, vectors: VectorColumn, probe: int | None) -> Search:
        return make_search(rows, vectors, self._spec.k, self._spec.metric, probe)

    def identity(self) -> dict[str, str]:
        """Give nothing: the section says it all."""
        return {}

    def require(self, rows: RunRows, vectors: VectorColumn) -> None:
        """Look for the clusters of an approximate search.

        Raises:
            StageError: there are none, or they are of other vectors.
        """
        self._search(rows, vectors, self._spec.probe)

    def prepare(self, job: StageJob, rows: RunRows, engine: Engine) -> NeighborsModel:
        """Measure, by a sample of rows, what a search of some clusters finds.

        Which share of the exact neighbours, at which share of the work.
        """
        spec = self._spec
        if spec.probe is None:
            return NeighborsModel(spec.k, spec.metric, 0, 1.0, 1.0)
        sample = np.random.default_rng(job.seed).permutation(rows.rows)[:_JUDGED]
        x = rows_at(rows, job.vectors, sample)
        some, all_of_them = (self._search(rows, job.vectors, probe) for probe in (spec.probe, None))
        near, exact = (search_run(rows, search, x, sample, engine) for search in (some, all_of_them))
        work = near.scored / max(1, exact.scored)
        return NeighborsModel(spec.k, spec.metric, some.probe, recall(near, exact), work)

    def unit_calls(
        self, job: StageJob, rows: RunRows, model: NeighborsModel, done: set[str], engine: Engine
    ) -> UnitCalls:
        """Give the calls that search the whole run for the rows of a unit."""
        search = engine.share(self._search(rows, job.vectors, self._spec.probe))
        stretches = engine.share(stretches_of(rows))
        units = zip(rows.records, rows.starts, strict=False)
        return UnitCalls(
            neighbors_of_unit,
            ((job, unit, first, search, stretches) for unit, first in units if unit.unit not in done),
        )


def neighbors_of_unit(
    job: StageJob, of_input: Record, first: int, search: Search, stretches: Sequence[Stretch]
) -> dict[str, Any]:
    """Write a unit's data file: of each row the nearest other rows of the whole run.

    Its columns are the lists `neighbors` (int64 row indexes, nearest first) and `scores` (float32).

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
        offer(best, search, stretch, x)
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
