"""The driver's middle phases: nodes are divided, and each layer is computed for all partitions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embed_ops.embedding.graph.exchange import Exchange, Halos, waves
from embed_ops.embedding.graph.job import Part, csr_name, states_name
from embed_ops.embedding.graph.notes import CsrNote, PartitionsNote, StatesNote
from embed_ops.embedding.graph.partitions import (
    compute_layer,
    gather_features,
    keep_needed,
    sort_in_edges,
)
from embed_ops.embedding.graph.phase import GraphRun
from embed_ops.embedding.graph.run_tables import EdgeTable, NodeTable
from embed_ops.encoders.graph.partition import boundaries, partition_count
from embed_ops.spec.encoder import AUTO

_STORE_SHARE = 0.3
"""Share of the object store that one wave of sent rows may fill."""


@dataclass(frozen=True)
class LayerFigures:
    """What computing a layer took, without the partitions that an earlier command computed.

    Attributes:
        layer: its number.
        edges: in-edges that were summed.
        seconds: from the first rows sent to the last states kept.
        bytes_exchanged: bytes that partitions received.
        bytes_predicted: what they should have received, by the halos.
    """

    layer: int
    edges: int
    seconds: float
    bytes_exchanged: int
    bytes_predicted: int


def divide(run: GraphRun, nodes: int, edges: EdgeTable) -> list[Part]:
    """Divide the nodes; what an earlier command decided stands."""
    note = run.graph.noted("partitions", PartitionsNote)
    if note is None:
        asked, model = run.attempt.spec.resources.partitions, run.model
        layers = range(1, model.depth + 1)
        message = max(model.message_width(layer) for layer in layers)
        states = max(model.width(layer - 1) + model.width(layer) for layer in layers)
        count = (
            partition_count(nodes, int(edges.in_edges.sum()), (message, states), run.engine.capacity().cores)
            if asked == AUTO
            else asked
        )
        bounds = tuple(boundaries(edges.in_edges, nodes, count))
        note = run.graph.note("partitions", PartitionsNote(bounds=bounds))
    return [Part(number, note.bounds) for number in range(len(note.bounds) - 1)]


def sort_edges(run: GraphRun, parts: Sequence[Part], chunks: Sequence[str]) -> list[CsrNote]:
    """Sort the in-edges of each partition."""
    drops = run.model.drops_loops
    calls = [(csr_name(part.number), (run.graph, part, chunks, drops)) for part in parts]
    return run.each("sorting edges by destination", sort_in_edges, CsrNote, calls)


def follow_back(
    run: GraphRun, parts: Sequence[Part], nodes: NodeTable, whole: Sequence[CsrNote]
) -> list[Halos]:
    """Find what each partition must receive for each layer, 1 to the model's depth.

    Everything, or, where `where` chooses nodes, what leads to them: from the last layer back.

    Args:
        run: the command.
        parts: all partitions.
        nodes: the node table.
        whole: what is known of all in-edges of each partition.
    """
    depth = run.model.depth
    if all(note.all_chosen for note in nodes.notes):
        return [Halos(whole)] * depth
    wanted = np.zeros(nodes.ids.nodes, np.bool_)
    for span in nodes.spans:
        wanted[span.first : span.last] = run.graph.kept(f"nodes/{span.index:06d}.chosen")
    halos = []
    for layer in range(depth, 0, -1):
        names = [csr_name(part.number, layer) for part in parts]
        calls = [
            (name, (run.graph, part, layer, wanted[part.first : part.last]))
            for name, part in zip(names, parts, strict=True)
        ]
        notes = run.each(f"following edges back to layer {layer - 1}", keep_needed, CsrNote, calls)
        halos.append(Halos(notes, restricted=True))
        wanted = wanted.copy()
        for name in names:
            wanted[run.graph.kept(f"{name}.halo")] = True
    return halos[::-1]


def begin_states(run: GraphRun, parts: Sequence[Part], nodes: NodeTable) -> None:
    """Give each partition the features of its nodes."""
    calls = []
    for part in parts:
        spans = [span for span in nodes.spans if span.first < part.last and part.first < span.last]
        calls.append((states_name(0, part.number), (run.graph, part, spans)))
    run.each("gathering features", gather_features, StatesNote, calls, run.of_model)


def run_layer(run: GraphRun, parts: Sequence[Part], layer: int, halos: Halos) -> LayerFigures:
    """Compute one layer, in waves of partitions whose received rows fit the object store."""
    began = time.time()
    kept = [run.graph.noted(states_name(layer, part.number), StatesNote) for part in parts]
    left = [part for part in parts if kept[part.number] is None]
    row_bytes = run.model.message_width(layer) * np.dtype(run.attempt.resolved.dtype).itemsize
    sizes = [note.halo_rows * row_bytes for note in halos.notes]
    exchange = Exchange(run.graph, run.engine, parts, layer, halos)
    received, edges, count, doing = 0, 0, 0, f"layer {layer} of {run.model.depth}"
    run.attempt.reporter.doing(doing)
    for wave in waves(left, sizes, _STORE_SHARE * run.engine.capacity().store):
        calls = exchange.calls(wave, "states" if run.model.sends_input(layer) else "message")
        for _, note in run.engine.each(compute_layer, calls, claim=run.of_model):
            received, edges, count = received + note.received, edges + note.edges, count + 1
            run.attempt.measured.devices.add(note.device)
            run.attempt.reporter.doing(doing, f"{count:,} of {len(left):,} partitions")
        # Nothing may hold what a wave has received while the rows of the next one are sent.
        del calls
    seconds = time.time() - began
    run.attempt.reporter.say(f"{doing}: {edges:,} edges in {seconds:.1f} s")
    return LayerFigures(layer, edges, seconds, received, sum(sizes[part.number] for part in left))
