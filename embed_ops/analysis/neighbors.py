"""The rows of a run that are nearest to texts, images, rows or vectors.

For all rows of a run see the stage `neighbors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.analysis.query_prompt import for_queries
from embed_ops.analysis.tables import counted
from embed_ops.embedding.forward import embed_inputs
from embed_ops.encoders.base import gather
from embed_ops.encoders.optional import modalities
from embed_ops.encoders.registry import encoder_class, make_encoder
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.engine.base import Engine
from embed_ops.engine.choice import Planned
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.errors import ModelError, SpecError
from embed_ops.numerics.ragged import Ragged
from embed_ops.numerics.topk import Ints, Metric, Vectors
from embed_ops.postprocessing.search import Best, make_search, recall, rows_at, search_run
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.models import read_model
from embed_ops.runs.rows import RunRows
from embed_ops.runs.run import require_trust
from embed_ops.spec.spec import Spec
from embed_ops.spec.stage import KINDS
from embed_ops.storage.location import locate

_ALONE_ROWS = 262_144
"""Runs of so many rows are searched in this process: a Ray session takes ten seconds to open."""
_SAMPLE = 200
"""Queries by which the recall of an approximate search is measured."""


@dataclass(frozen=True)
class Neighbors:
    """What was found.

    Attributes:
        ids: (queries, k) row indexes of the run, best first, -1 where there are fewer rows.
        scores: (queries, k) float64, NaN there.
        rows: of the run; `zeros`: rows of zeros among those searched, which have no cosine.
        work: share of all products that was computed; `recall`: measured share of the exact
            neighbours, None where all were compared.
        run: address of the run.
    """

    ids: Ints
    scores: np.ndarray[Any, np.dtype[np.float64]]
    rows: int
    zeros: int
    work: float
    recall: float | None
    run: str

    def table(self, show: Sequence[str] | None = None) -> pa.Table:
        """Read what stands in the rows: a line for each query and row, best first.

        Its columns are `query` (a number), `rank`, `score`, `row`, `_source`, `_row`, what was
        kept, and what was embedded, read again from the source: None where that has changed.

        Args:
            show: columns to give, kept ones or others of the source; by default those above.

        Raises:
            StageError: there is no such column.
        """
        from embed_ops.analysis.shown import lines_of, shown_of

        there = self.ids[self.ids >= 0]
        shown = shown_of(RunRows(locate(self.run)), there, show)
        return lines_of(range(len(self.ids)), self.ids, self.scores, shown.table)


def neighbors(
    run: str,
    queries: Sequence[str | bytes] | Vectors | Ints,
    k: int = 10,
    *,
    metric: Metric = "cosine",
    column: str | None = None,
    probe: int | None = None,
    prompt: str | None = None,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
) -> Neighbors:
    """Find the k nearest rows of a finished run to each query.

    Scores are exact (float64, from the stored vectors), ties go to the row that comes first, and no
    result depends on how work is divided.

    Args:
        run: address of the run, or of one of its stages, whose vectors are then searched.
        queries: texts, or images as bytes, which go through the run's own model and stages;
            vectors, (queries, dim) of floats; or rows of the run by index, (queries,) of integers,
            which are no neighbours of themselves.
        k: rows of each query.
        metric: "cosine" or "dot".
        column: vector column, where there are several.
        probe: search only so many clusters; `run` must be that of a kmeans stage, or of one behind
            it.
        prompt: text before queries that are texts, or its name among `encoder.prompts` or the
            model's own; by default that of the run, or the one named "query" where each row of it
            has its own.
        session: opens the engine for runs of many rows.
        reporter: told what is done.

    Raises:
        RunError, StageError: the run is not finished, has no such vectors or no clusters.
        ModelError: the run's model is not at hand, or embeds no such queries.
        SpecError: a row is not in the run, or there is no such prompt.
    """
    reporter = reporter or Silent()
    rows = RunRows(locate(run))
    vectors = rows.vector(column)
    search = make_search(rows, vectors, k, metric, probe)
    itself = None
    if not isinstance(queries, np.ndarray):
        reporter.say(f"embedding {counted(len(queries), 'query', 'queries')}")
        x = encode(rows, vectors, list(queries), prompt)
    elif queries.dtype.kind in "iu":
        itself = queries.astype(np.int64)
        x = rows_at(rows, vectors, itself)
    else:
        x = np.ascontiguousarray(queries, np.float32)
        if x.ndim != 2 or x.shape[1] != vectors.dim or not np.isfinite(x).all():
            raise SpecError(
                f"queries: expected finite vectors of shape (queries, {vectors.dim}), found {queries.shape}"
            )
    with searching(rows.rows, session) as engine:
        best = search_run(rows, search, x, itself, engine)
        share = None
        if search.clusters is not None:
            some = np.arange(min(len(x), _SAMPLE))
            exact = search_run(
                rows,
                make_search(rows, vectors, k, metric, None),
                x[some],
                None if itself is None else itself[some],
                engine,
            )
            share = recall(Best(best.ids[some], best.scores[some], 0, 0), exact)
    return Neighbors(
        best.ids, best.scores, rows.rows, best.zeros, best.scored / max(1, len(x) * rows.rows), share, run
    )


def searching(rows: int, session: OpenSession) -> AbstractContextManager[Engine | None]:
    """Open what a search of so many rows needs: an engine; nothing where this process will do."""
    return nullcontext() if rows <= _ALONE_ROWS else session(Planned(rows))


def encode(
    rows: RunRows, vectors: VectorColumn, queries: Sequence[str | bytes], prompt: str | None = None
) -> Vectors:
    """Embed texts or images by the run's own model, texts behind their prompt.

    They go through the stages that lie before the vectors.

    Raises:
        ModelError: the model is not at hand or embeds no such queries, or a query has no vector.
        RunError: the model brings code of its own, and nobody has said that it may run.
    """
    root, header = rows.lineage[-1]
    spec = require_trust(Spec.parse(header.spec), root.path)
    texts = bool(queries) and isinstance(queries[0], str)
    _require_taken(encoder_class(spec.encoder).takes, texts, root.path)
    steps = list(reversed(rows.lineage[:-1]))
    through = [
        step
        for step in steps[: _place(steps, vectors) + 1]
        if "output" in KINDS[step[1].spec["kind"]].model_fields
    ]
    column = through[0][1].fingerprint["stage.column"] if through else vectors.column
    encoder = make_encoder(
        for_queries(spec.encoder, prompt, texts=texts).model_copy(
            update={"revision": (header.model or {}).get("commit") or spec.encoder.revision}
        )
    )
    _require_taken(modalities(encoder), texts, root.path)
    encoder.load("cpu", "float32")
    prepared = encoder.prepare(pa.array(queries, pa.string() if texts else pa.binary()))
    if prepared.rejects:
        rejected = prepared.rejects[0]
        raise ModelError(f"query {rejected.row + 1} of {len(queries)} has no vector: {rejected.message}")
    embedded = embed_inputs(
        encoder, prepared.inputs, header.resolved["token_budget"], runtime=runtime_of(spec.encoder)
    )
    of_queries = gather(encoder, prepared.inputs, embedded.vectors, prepared.documents)[column]
    if isinstance(of_queries, Ragged):
        raise ModelError(
            f"{root.path}: column {column!r} has lists of vectors; name a column with one vector a row"
        )
    x = of_queries[prepared.index]
    for at, _ in through:
        x = np.asarray(read_model(at.child("model")).transform(x), np.float32)
    if not np.isfinite(x).all():
        raise ModelError(
            f"query {int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0]) + 1} of {len(queries)} has no "
            "finite vector"
        )
    return x


def _require_taken(taken: Iterable[str], texts: bool, run: str) -> None:
    """Refuse queries that a model does not embed.

    Raises:
        ModelError: says what it embeds.
    """
    takes = [kind for kind in taken if kind in ("image", "text")]
    if ("text" if texts else "image") not in takes:
        what = " and ".join(f"{kind}s" for kind in takes) or "nodes of a graph"
        raise ModelError(
            f"{run}: its model embeds {what}, and the queries are {'texts' if texts else 'images'}"
        )


def _place(steps: Sequence[tuple[Any, Any]], vectors: VectorColumn) -> int:
    """Find the stage that has the vectors, -1 for the embedding itself."""
    return next((number for number, (at, _) in enumerate(steps) if at == vectors.run), -1)
