"""`kmeans`: mini-batch k-means over a sample of the run, then every row to its nearest centre.

collect   rows of the sample, chosen by a hash of their index, in an order that the hash
          decides: sorted files do not matter
reserve   a few random rows: the first candidate, and centres where others are lacking
seed      k-means|| (`seeding.py`); for many clusters coarse centres first, then candidates in
          their cells
step      mini-batches in turn (`steps.py`), until they improve no more
polish    full Lloyd passes over the sample; an empty cluster takes half of the largest
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from embed_ops.errors import StageError
from embed_ops.numerics.hashing import splitmix64, uniform
from embed_ops.numerics.tiles import Floats, Ints, Vectors, unit_length
from embed_ops.spec.stage import KMeansSpec
from embed_ops.stages.base import SHARDS, Block, Collected, FitInput, Round
from embed_ops.stages.kmeans.model import KMeansModel
from embed_ops.stages.kmeans.nearest import nearest, squared_distances
from embed_ops.stages.kmeans.seeding import (
    LEAST_DRAWN,
    OVERSAMPLING,
    OVERSAMPLING_IN_CELLS,
    ROUNDS,
    Drawn,
    DrawnRows,
    clustered,
    merged_down,
    nearest_in_cells,
    shared_out,
)
from embed_ops.stages.kmeans.state import State, there
from embed_ops.stages.kmeans.steps import on_sphere, polished, stepped
from embed_ops.stages.kmeans.sums import ClusterCounts, ClusterSums

_FLAT_K = 4096
"""Up to so many clusters k-means|| is quick on one machine."""
_SAMPLE_PER_K, _SAMPLE_LEAST = 256, 1_000_000
_SEED_PER_K, _SEED_LEAST = 16, 16_384
_BATCH_PER_K, _BATCH_LEAST = 4, 2048
_RESERVE_LEAST = 1024
_SURPLUS = 0.15
"""Clusters that a cell gets beyond its share, before those that are least needed anywhere go."""
_FLOP_PER_TASK = 4e9
"""A task of a round is about this much work: less would be overhead, more would leave nodes
idle."""
_DOING = {
    "collect": "reading a sample of the rows",
    "reserve": "drawing the first candidates",
    "seed": "drawing centres",
    "weigh": "weighing centres",
    "cell-seed": "drawing centres in cells",
    "cell-weigh": "weighing centres in cells",
    "step": "mini-batch",
    "polish": "pass over the sample",
    "done": "fitted",
}
"""What a person is told of each phase."""
_SEED_TAG, _CELL_TAG, _SPARE_TAG = 100, 200, 5000


class KMeansStage:
    """Fits `KMeansModel`."""

    def __init__(self, spec: KMeansSpec) -> None:
        self._spec = spec
        two_level = spec.init == "two-level" or (spec.init == "auto" and spec.k > _FLAT_K)
        self._seeds = math.isqrt(spec.k - 1) + 1 if two_level else spec.k
        self._two_level = two_level and self._seeds < spec.k

    def start(self, given: FitInput) -> State:
        """Check what is asked for against the data.

        Raises:
            StageError: more clusters than rows, or than rows of the sample.
        """
        k = self._spec.k
        if k > given.rows:
            raise StageError(
                f"kmeans: k = {k:,}, but the run has {given.rows:,} rows; give k = {max(1, given.rows)} "
                "or less"
            )
        if self._spec.sample_rows != "auto" and self._spec.sample_rows < k:
            raise StageError(f"kmeans: sample_rows = {self._spec.sample_rows:,} is less than k = {k:,}")
        return State("collect", given.rows, given.dim, given.seed)

    def _batch(self, state: State) -> int:
        """Rows of each shard in a mini-batch."""
        asked = self._spec.batch_rows
        rows = max(_BATCH_LEAST, _BATCH_PER_K * self._spec.k) if asked == "auto" else asked
        return -(-min(rows, state.sampled) // SHARDS)

    def _seeding(self, state: State) -> int | None:
        """Rows of each shard that seeding reads, None for all of them."""
        rows = max(_SEED_LEAST, _SEED_PER_K * self._spec.k)
        return None if rows >= state.sampled else -(-rows // SHARDS)

    def _tasks(self, state: State, rows: int | None, centers: int) -> int:
        total = state.sampled if rows is None else rows * SHARDS
        return min(SHARDS, max(1, math.ceil(2.0 * total * centers * state.dim / _FLOP_PER_TASK)))

    def round(self, state: State) -> Round | None:
        """Say what the phase reads."""
        phase = state.phase
        if phase == "done":
            return None
        if phase == "collect":
            asked = self._spec.sample_rows
            rows = max(_SAMPLE_PER_K * self._spec.k, _SAMPLE_LEAST) if asked == "auto" else asked
            return Round("sample", "collect", rows=min(rows, state.rows))
        if phase == "reserve":
            return Round(phase, "sample", rows=state.of_each_shard(max(self._spec.k, _RESERVE_LEAST)))
        if phase == "step":
            batch = self._batch(state)
            return Round(phase, "sample", state.turn * batch, batch, self._tasks(state, batch, self._spec.k))
        if phase == "polish":
            return Round(phase, "sample", tasks=self._tasks(state, None, self._spec.k))
        read, across = (
            self._seeding(state),
            self._seeds if state.candidates is None else len(state.candidates),
        )
        return Round(phase, "sample", rows=read, tasks=self._tasks(state, read, across))

    def summarize(self, block: Block, state: State) -> Any:
        """Summarise some rows of the sample as the phase asks."""
        x, ids, seed = unit_length(block.x) if self._spec.spherical else block.x, block.ids, state.seed
        if state.phase == "reserve":
            return DrawnRows(x, ids)
        if state.phase in ("step", "polish"):
            drawn = splitmix64(seed, _SPARE_TAG + state.turn, ids) if state.spares else None
            return ClusterSums.of(x, there(state.centers), drawn, state.spares)
        candidates = there(state.candidates)
        if state.coarse is None:
            labels, wanted = nearest(x, candidates), max(LEAST_DRAWN, OVERSAMPLING * self._seeds)
        else:
            labels = nearest_in_cells(x, state.coarse, candidates, there(state.cells))
            wanted = OVERSAMPLING_IN_CELLS * self._spec.k
        if state.phase in ("weigh", "cell-weigh"):
            return ClusterCounts(np.bincount(labels, minlength=len(candidates)))
        u = uniform(seed, (_SEED_TAG if state.coarse is None else _CELL_TAG) + state.turn, ids)
        return Drawn.of(x, ids, squared_distances(x, candidates, labels), u, math.ceil(wanted))

    def update(self, state: State, summary: Any) -> State:
        """Go on to the next turn, or the next phase."""
        if state.phase == "collect":
            return self._collected(state, summary)
        if state.phase == "reserve":
            return self._reserved(state, summary)
        if state.phase in ("seed", "cell-seed"):
            return self._seeded(state, summary)
        if state.phase == "weigh":
            return self._weighed(state, summary)
        if state.phase == "cell-weigh":
            return self._weighed_in_cells(state, summary)
        move = stepped if state.phase == "step" else polished
        return move(self._spec, state, summary)

    def _collected(self, state: State, collected: Collected) -> State:
        rows = int(collected.sizes.sum())
        if rows < self._spec.k:
            raise StageError(
                f"kmeans: the sample has {rows:,} rows, fewer than k = {self._spec.k:,}; give a larger "
                "sample_rows"
            )
        return replace(state, phase="reserve", sizes=collected.sizes)

    def _reserved(self, state: State, reserve: DrawnRows) -> State:
        scale = float(reserve.x.astype(np.float64).var(axis=0).mean())
        state = replace(state, reserve=reserve, scale=scale)
        if self._spec.init == "random":
            return self._begin(state, reserve.x[: self._spec.k].astype(np.float64), np.zeros(self._spec.k))
        return replace(state, phase="seed", candidates=reserve.x[:1], ids=reserve.ids[:1])

    def _seeded(self, state: State, drawn: Drawn) -> State:
        state = self._with_candidates(state, drawn.x, drawn.ids)
        if state.turn + 1 < ROUNDS:
            return replace(state, turn=state.turn + 1)
        short = (self._seeds if state.coarse is None else self._spec.k) - len(there(state.candidates))
        if short > 0:
            reserve = there(state.reserve)
            spare = np.flatnonzero(~np.isin(reserve.ids, there(state.ids)))[:short]
            state = self._with_candidates(state, reserve.x[spare], reserve.ids[spare])
        return replace(state, phase="weigh" if state.coarse is None else "cell-weigh", turn=0)

    @staticmethod
    def _with_candidates(state: State, x: Vectors, ids: Ints) -> State:
        x, ids = np.concatenate([there(state.candidates), x]), np.concatenate([there(state.ids), ids])
        if state.coarse is None:
            return replace(state, candidates=x, ids=ids)
        cells = nearest(x, state.coarse)
        order = np.argsort(cells, kind="stable")
        return replace(state, candidates=x[order], ids=ids[order], cells=cells[order])

    def _weighed(self, state: State, counts: ClusterCounts) -> State:
        centers, weights = clustered(there(state.candidates), counts.rows, self._seeds, state.seed)
        if not self._two_level:
            return self._begin(state, centers, weights)
        coarse = centers.astype(np.float32)
        none = replace(
            state, phase="cell-seed", coarse=coarse, candidates=coarse[:0], ids=np.empty(0, np.int64)
        )
        # The centres themselves are the first candidates, so that no cell is without one; they are
        # no rows.
        return self._with_candidates(none, coarse, np.full(len(coarse), -1))

    def _weighed_in_cells(self, state: State, counts: ClusterCounts) -> State:
        cells, candidates, number = there(state.cells), there(state.candidates), len(there(state.coarse))
        rows = np.bincount(cells, counts.rows, number).astype(np.int64)
        most = np.bincount(cells, minlength=number)
        given = shared_out(self._spec.k, rows, most)
        given = np.minimum(most, given + np.ceil(_SURPLUS * given).astype(np.int64) + 1)
        bounds = np.searchsorted(cells, np.arange(number + 1))
        by_cell = [
            clustered(candidates[first:end], counts.rows[first:end], int(share), state.seed)
            for first, end, share in zip(bounds[:-1], bounds[1:], given, strict=True)
        ]
        return self._begin(state, *merged_down(by_cell, self._spec.k))

    def _begin(self, state: State, centers: Floats, counts: Floats) -> State:
        """Begin the steps with the rows that each centre stands for already.

        What seeding needed is forgotten.
        """
        fresh = State(
            "step", state.rows, state.dim, state.seed, sizes=state.sizes, scale=state.scale, counts=counts
        )
        return replace(fresh, centers=on_sphere(self._spec, centers))

    def model(self, state: State) -> KMeansModel:
        """Give the model."""
        return KMeansModel(
            there(state.centers), self._spec.spherical, state.sampled, state.steps, state.inertia
        )

    def progress(self, state: State) -> str:
        """Say what it is at, and from the first step on how far rows are from their centres."""
        doing = _DOING[state.phase]
        if state.phase not in ("step", "polish"):
            return doing
        if math.isnan(state.inertia):
            return f"{doing} {state.turn + 1}"
        return f"{doing} {state.turn + 1}, mean squared distance to the centre {state.inertia:.4g}"
