"""Steps of k-means behind the seeding: mini-batches, then full passes.

Sculley 2010; update, reassignment and stopping as in scikit-learn's MiniBatchKMeans, splitting as
in FAISS.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embed_ops.numerics.tiles import Floats
from embed_ops.spec.stage import KMeansSpec
from embed_ops.stages.kmeans.state import Phase, State, there
from embed_ops.stages.kmeans.sums import ClusterSums

_REASSIGN_RATIO, _REASSIGN_EVERY_PER_K = 0.01, 10
_SPLIT = 1 / 1024


def on_sphere(spec: KMeansSpec, centers: Floats) -> Floats:
    """Bring (k, dim) centres to length 1 where clusters are by angle; zeros stay zeros."""
    if not spec.spherical:
        return centers
    norms = np.linalg.norm(centers, axis=1)[:, None]
    unit: Floats = centers / np.where(norms > 0, norms, 1.0)
    return unit


def stepped(spec: KMeansSpec, state: State, sums: ClusterSums) -> State:
    """Move the centres by a mini-batch: c <- (v c + sum x) / (v + m), v <- v + m (Sculley 2010).

    Args:
        spec: of the stage.
        state: before; `centers` (k, dim), `counts` (k,) rows that each has seen.
        sums: of the rows of the batch.
    """
    before, counts = there(state.centers), there(state.counts).copy()
    centers = before.copy()
    total = counts[sums.ids] + sums.counts
    centers[sums.ids] = (centers[sums.ids] * counts[sums.ids, None] + sums.sums) / total[:, None]
    counts[sums.ids] = total
    seen = state.seen + sums.rows
    if state.spares:
        _reassign(centers, counts, sums)
        seen = 0
    centers = on_sphere(spec, centers)
    moved = float(((centers - before) ** 2).sum())
    state = replace(
        state,
        centers=centers,
        counts=counts,
        seen=seen,
        spares=_spares(spec, counts, seen, sums.rows),
        turn=state.turn + 1,
        steps=state.turn + 1,
        inertia=sums.inertia / sums.rows,
    )
    return _judged(spec, state, sums.rows, moved)


def _spares(spec: KMeansSpec, counts: Floats, seen: int, batch: int) -> int:
    """Tell how many rows the next step is to offer to clusters with hardly any row."""
    due = bool((counts == 0).any()) or seen >= _REASSIGN_EVERY_PER_K * spec.k
    return min(int((counts < _REASSIGN_RATIO * counts.max()).sum()), batch // 2) if due else 0


def _judged(spec: KMeansSpec, state: State, batch: int, moved: float) -> State:
    """Stop as scikit-learn does.

    By the movement of the centres, or when the average inertia improves no more.
    """
    last = state.turn >= spec.max_epochs * max(1, state.sampled // batch)
    if state.turn > 1:
        share = min(1.0, 2 * batch / (state.sampled + 1))
        average = (
            state.inertia if state.average is None else state.average * (1 - share) + state.inertia * share
        )
        better = state.least is None or average < state.least
        state = replace(
            state,
            average=average,
            least=average if better else state.least,
            stale=0 if better else state.stale + 1,
        )
        last |= state.stale >= spec.patience or (spec.tol > 0 and moved <= spec.tol * state.scale)
    if not last:
        return state
    return replace(state, phase="polish" if spec.polish else "done", turn=0, spares=0)


def polished(spec: KMeansSpec, state: State, sums: ClusterSums) -> State:
    """Put the centres into the means of their rows (Lloyd).

    An empty cluster takes half of the largest.

    Args:
        spec: of the stage.
        state: before; `centers` (k, dim).
        sums: of all rows of the sample.
    """
    centers, counts = there(state.centers).copy(), np.zeros(spec.k)
    centers[sums.ids] = sums.sums / sums.counts[:, None]
    counts[sums.ids] = sums.counts
    for empty in np.flatnonzero(counts == 0):
        largest = int(counts.argmax())
        signs = np.where(np.arange(state.dim) % 2 == 0, _SPLIT, -_SPLIT)
        centers[empty], centers[largest] = centers[largest] * (1 + signs), centers[largest] * (1 - signs)
        counts[empty] = counts[largest] = counts[largest] / 2
    turn = state.turn + 1
    phase: Phase = "polish" if turn < spec.polish else "done"
    return replace(
        state,
        phase=phase,
        turn=turn,
        centers=on_sphere(spec, centers),
        counts=counts,
        inertia=sums.inertia / sums.rows,
    )


def _reassign(centers: Floats, counts: Floats, sums: ClusterSums) -> None:
    """Move clusters that hardly any row belongs to onto random rows of the batch.

    As scikit-learn does.
    """
    low = np.flatnonzero(counts < _REASSIGN_RATIO * counts.max())
    if len(low) > len(sums.spares):
        low = low[np.argsort(counts[low], kind="stable")[: len(sums.spares)]]
    if len(low) == 0:
        return
    centers[low] = sums.spares[: len(low)]
    others = np.ones(len(counts), bool)
    others[low] = False
    counts[low] = counts[others].min() if others.any() else 1.0
