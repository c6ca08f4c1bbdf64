"""A graph from its tables to its vectors, layer by layer: the driver's page.

    nodes      read_nodes, a task for each span of the node table
    ids        join_bucket, a task for each bucket, unless ids are row numbers already
    edges      read_edges, a task for each span of the edge table
    in-edges   sort_in_edges, a task for each partition: its in-edges, sorted, and its halo
    needed     keep_needed, only where `where` chooses nodes: what each layer must have for them,
               from the last layer back
    layers     gather_features, then for each layer send_rows and compute_layer, a task for each
               partition
    writing    write_units, a task for each span

Exact: every node meets all its neighbours, and a layer is computed once for every node (not once
for every node that needs it). Bits do not depend on partitions or workers: edges are summed in the
order of their sources' rows, and dense products run on whole tiles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from embed_ops.embedding.attempt import Attempt
from embed_ops.embedding.graph import run_layers as layers
from embed_ops.embedding.graph import run_tables as tables
from embed_ops.embedding.graph.edge_table import require_same_ids
from embed_ops.embedding.graph.exchange import Halos
from embed_ops.embedding.graph.job import FINAL, GraphJob, Part, model_path
from embed_ops.embedding.graph.notes import CsrNote
from embed_ops.embedding.graph.phase import GraphRun
from embed_ops.embedding.graph.units import write_units
from embed_ops.embedding.message import load_outcome
from embed_ops.embedding.resources import require_room
from embed_ops.embedding.unit import Failure, Outcome, Written
from embed_ops.embedding.waves import stopped
from embed_ops.engine.base import Claim, Engine
from embed_ops.engine.progress import Totals
from embed_ops.errors import EngineError, ModelError, Stopped, StorageError
from embed_ops.sources.corpus import open_edges
from embed_ops.spec.encoder import OutputSpec

_LOOKED_AT = 100
"""First nodes whose features are counted before anything is read whole."""


def run_graph(attempt: Attempt, engine: Engine) -> None:
    """Compute the vectors of a graph's nodes, and write the units that are missing.

    Raises:
        SourceError: edges lead to nodes that are not there, or the tables can't be read.
        ModelError: the weights can't be read, or are for other features.
        RunError: the run's work folder was written by another version.
        StorageError, EngineError, Stopped: the run ended early; what is done is kept.
    """
    try:
        _run(_open(attempt, engine))
    except KeyboardInterrupt:
        raise stopped(attempt, "interrupted") from None
    except Stopped as error:
        raise stopped(attempt, str(error).partition(";")[0]) from error
    except BaseException:
        attempt.stop()
        raise
    finally:
        attempt.measured.memory["worker"] = engine.memory


def _open(attempt: Attempt, engine: Engine) -> GraphRun:
    """Find the edge table and load the model, and refuse what does not fit together."""
    require_room(engine.capacity(), attempt.resolved.gpus_per_replica)
    from embed_ops.encoders.graph.weights import load_graph_model

    source = attempt.spec.graph_source()
    edges = open_edges(source)
    plan = edges.plan()
    graph = GraphJob(attempt.job, edges.spec, plan.columns, tuple(edges.roots))
    require_same_ids(source, attempt.plan.columns, plan.columns)
    model = load_graph_model(model_path(graph), attempt.resolved.dtype)
    _require_width(attempt, model.in_width)
    return GraphRun(attempt, engine, graph, model, edges, Claim(devices=attempt.resolved.gpus_per_replica))


def _run(run: GraphRun) -> None:
    """Go through all phases; what an earlier command has done is not done again."""
    attempt, began = run.attempt, time.time()
    nodes = tables.read_node_table(run)
    edges = tables.read_edge_table(run, nodes.ids)
    parts = layers.divide(run, nodes.ids.nodes, edges)
    in_edges = layers.sort_edges(run, parts, edges.chunks)
    halos = layers.follow_back(run, parts, nodes, in_edges)
    layers.begin_states(run, parts, nodes)
    attempt.measured.startup = time.time() - attempt.began
    done = [layers.run_layer(run, parts, layer, need) for layer, need in enumerate(halos, start=1)]
    _write(run, parts, nodes)
    attempt.measured.graph = {
        "nodes": nodes.ids.nodes,
        "edges_read": edges.read,
        "edges_missing": edges.missing,
        "edges_of_rejects": edges.rejected,
        **_figures(in_edges),
        **_needed(halos),
        "layers": [asdict(figures) for figures in done],
        "seconds": time.time() - began,
    }


def _write(run: GraphRun, parts: Sequence[Part], nodes: tables.NodeTable) -> None:
    """Write the units that are missing."""
    attempt = run.attempt
    done = {record.unit for record in attempt.stock().done}
    final = FINAL if run.model.config.jk is not None else run.model.depth
    outputs = attempt.spec.encoder.outputs or (OutputSpec(),)
    layer_of = {output.name: final if output.layer == -1 else output.layer for output in outputs}
    bounds = parts[0].bounds
    calls, count = [], 0
    for span, note in zip(nodes.spans, nodes.notes, strict=True):
        units = [
            (number, unit.first, unit.rows) for number, unit in enumerate(note.units) if unit.unit not in done
        ]
        count += len(units)
        if units:
            calls.append((run.graph, span.index, span.first, units, bounds, layer_of))
    attempt.measured.spans_read = len(calls)
    totals = Totals(units_expected=count, started=time.time())
    for _, outcomes in run.engine.each(write_units, calls):
        for text in outcomes:
            _take(attempt, load_outcome(text), totals)
    attempt.journal.flush()


def _take(attempt: Attempt, outcome: Outcome, totals: Totals) -> None:
    """Keep the record of a unit that is written, and stop at one that could not be."""
    if isinstance(outcome, Failure):
        kind = StorageError if outcome.kind == StorageError.__name__ else EngineError
        raise kind(outcome.error)
    if isinstance(outcome, Written):
        record = attempt.take(outcome)
        totals.add(record.rows, rejects=record.rejects + record.file_rejects)
        attempt.reporter.update(totals)


def _figures(in_edges: Sequence[CsrNote]) -> dict[str, Any]:
    """Say for the report how the in-edges lie in the partitions."""
    edges = [note.edges for note in in_edges]
    return {
        "edges": sum(edges),
        "in_edges_of_largest_node": max((note.largest for note in in_edges), default=0),
        "partitions": len(in_edges),
        "edges_of_partitions": {"min": min(edges, default=0), "max": max(edges, default=0)},
        "halo_rows": sum(note.halo_rows for note in in_edges),
    }


def _needed(halos: Sequence[Halos]) -> dict[str, list[int]]:
    """Say for the report how many nodes each layer had to have, where `where` leaves some out."""
    if not halos[0].restricted:
        return {}
    return {"nodes_needed": [sum(note.rows for note in need.notes) for need in halos]}


def _require_width(attempt: Attempt, width: int) -> None:
    """Refuse features that are not what the weights are for.

    Raises:
        ModelError: none of the first nodes has as many features as the model takes.
    """
    widths = sorted(
        {len(node["x"]) for node in attempt.corpus.head(attempt.plan, _LOOKED_AT) if node["x"] is not None}
    )
    if widths and width not in widths:
        raise ModelError(
            f"{attempt.spec.encoder.model}: the model takes {width} features (in_channels), the nodes "
            f"have {', '.join(map(str, widths))}: "
            "choose other source.features or another model"
        )
