"""Searching the vectors of a run: all of them, or those of the clusters nearest to each query.

Plain functions, tested without Ray.

    search_stretch   a stretch of the run -> the best of its rows for each query; in workers
    search_run       a run -> the best of its rows for each query
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embed_ops.engine.base import Engine
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.tiles import BLOCK_ROWS, unit_length
from embed_ops.numerics.topk import Floats, Ints, Metric, TopK, Vectors
from embed_ops.runs.columns import Stretch, VectorColumn, blocks, indexes, read_unit, values
from embed_ops.runs.models import read_model
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.stages.kmeans.nearest import nearest_centers

_STRETCH = 16 * BLOCK_ROWS


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        vectors: the column; k: rows of each query; metric: cosine or dot product.
        clusters: column with the cluster of each row, None to search all rows.
        centers: (clusters, dim); `probe`: how many clusters of each query are searched.
    """

    vectors: VectorColumn
    k: int
    metric: Metric
    clusters: VectorColumn | None = None
    centers: Floats | None = None
    probe: int = 0

    def probes(self, queries: Vectors) -> Ints:
        """Find the clusters to search for each query, nearest first.

        (queries, probe), the same on every processor.
        """
        centers = np.empty((0, queries.shape[1])) if self.centers is None else self.centers
        seen = unit_length(queries) if self.metric == "cosine" else queries
        return nearest_centers(seen, centers, min(self.probe, len(centers)))


@dataclass(frozen=True)
class Best:
    """The best rows of each query.

    Attributes:
        ids: (queries, k) global row indexes, best first, -1 where there are fewer.
        scores: (queries, k) float64, NaN there.
        scored: pairs whose score was computed; `zeros`: rows of zeros, which have no cosine.
    """

    ids: Ints
    scores: Floats
    scored: int
    zeros: int


def search_stretch(search: Search, stretch: Stretch, queries: Vectors, itself: Ints | None = None) -> Best:
    """Search one stretch of a run.

    `itself`: (queries,) rows that are no neighbours of their query.
    """
    best = TopK(queries, search.k, search.metric, itself)
    offer(best, search, stretch, queries)
    return Best(*best.result(), best.scored, best.zeros)


def offer(best: TopK, search: Search, stretch: Stretch, queries: Vectors) -> None:
    """Offer the rows of a stretch that a search looks at to the best of some queries.

    Args:
        best: so far; takes the rows in.
        search: all rows, or those of the clusters nearest to each query.
        stretch: of the run.
        queries: (queries, dim), those of `best`.
    """
    if search.clusters is None:
        for first, x in blocks(search.vectors, stretch):
            best.add(x, indexes(first, len(x)))
        return
    clusters = values(search.clusters, stretch).astype(np.int64)
    probed = search.probes(queries)
    # Products with the centres are work too.
    best.scored += len(queries) * len(search.centers if search.centers is not None else ())
    order = np.argsort(probed.ravel(), kind="stable")
    asking, bounds = (
        order // max(1, probed.shape[1]),
        np.searchsorted(probed.ravel()[order], np.arange(int(clusters.max(initial=0)) + 2)),
    )
    for first, x in blocks(search.vectors, stretch):
        mine = clusters[first - stretch.first : first - stretch.first + len(x)]
        by_cluster = np.argsort(mine, kind="stable")
        begins = np.flatnonzero(np.r_[True, np.diff(mine[by_cluster]) != 0])
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(mine)], strict=True):
            rows = np.sort(by_cluster[begin:end])
            cluster = int(mine[rows[0]])
            asked = np.sort(asking[bounds[cluster] : bounds[cluster + 1]])
            if len(asked):
                best.add(x[rows], first + rows, asked)


def joined(parts: Sequence[Best], queries: Vectors, search: Search) -> Best:
    """Merge the best rows of several stretches; the order of the parts changes nothing."""
    best = TopK(queries, search.k, search.metric)
    for part in parts:
        best.merge(part.ids, part.scores)
    return Best(*best.result(), sum(part.scored for part in parts), sum(part.zeros for part in parts))


def make_search(rows: RunRows, vectors: VectorColumn, k: int, metric: Metric, probe: int | None) -> Search:
    """Say what is searched: all rows, or the rows of some clusters.

    These are of the nearest kmeans run among the run and its ancestors.

    Raises:
        StageError: there are no clusters, or they are of other vectors.
    """
    if probe is None:
        return Search(vectors, k, metric)
    try:
        clusters = rows.holder("cluster")
    except StageError as error:
        raise StageError(
            f"{error}; an approximate search goes by clusters: give it the run of a kmeans stage"
        ) from error
    model = read_model(clusters.run.child("model"))
    if model is None or model.kind != "kmeans":
        raise StageError(f"{clusters.run.path}: its clusters are no kmeans stage's; leave probe out")
    of_clusters = RunRows(clusters.run)
    read = of_clusters.vector(of_clusters.lineage[0][1].fingerprint["stage.column"])
    if read != vectors:
        raise StageError(
            f"{clusters.run.path}: its clusters are of {read.run.path}, and {vectors.run.path} is "
            "searched; leave probe out"
        )
    return Search(vectors, k, metric, clusters, model.centers, min(probe, len(model.centers)))


def stretches_of(rows: RunRows) -> list[Stretch]:
    """Divide a run for a search.

    A search that begins anew scores many rows for nothing, so its stretches are long.
    """
    return [rows.stretch(first, min(rows.rows, first + _STRETCH)) for first in range(0, rows.rows, _STRETCH)]


def search_run(
    rows: RunRows, search: Search, queries: Vectors, itself: Ints | None, engine: Engine | None
) -> Best:
    """Search all stretches of a run, by an engine or in this process."""
    stretches = stretches_of(rows)
    if engine is None:
        parts = [search_stretch(search, stretch, queries, itself) for stretch in stretches]
    else:
        shared, own = engine.share(queries), engine.share(itself)
        parts = engine.all(search_stretch, [(search, stretch, shared, own) for stretch in stretches])
    return joined(parts, queries, search)


def rows_at(rows: RunRows, vectors: VectorColumn, ids: Ints) -> Vectors:
    """Read the vectors of rows by index: (ids, dim).

    Raises:
        SpecError: one is not in the run.
    """
    x = np.empty((len(ids), vectors.dim), np.float32)
    for record, places, inside in by_unit(rows, ids):
        x[places] = read_unit(vectors, record.unit, record.rows)[inside]
    return x


def by_unit(rows: RunRows, ids: Ints) -> Iterator[tuple[Record, Ints, Ints]]:
    """Group row indexes by unit: (its record, places among the indexes, rows in the unit)."""
    bad = ids[(ids < 0) | (ids >= rows.rows)]
    if len(bad):
        raise SpecError(f"row {int(bad[0])} is not in the run, which has rows 0 to {rows.rows - 1}")
    units = np.searchsorted(np.asarray(rows.starts), ids, side="right") - 1
    for unit in np.unique(units).tolist():
        places = np.flatnonzero(units == unit)
        yield rows.records[unit], places, ids[places] - rows.starts[unit]


def recall(near: Best, exact: Best) -> float:
    """Tell which share of the exact neighbours an approximate search has given."""
    wanted = exact.ids >= 0
    hits = sum(
        len(np.intersect1d(mine, theirs[theirs >= 0]))
        for mine, theirs in zip(near.ids, exact.ids, strict=True)
    )
    return hits / max(1, int(wanted.sum()))
