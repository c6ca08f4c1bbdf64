"""One partition of a graph, layer by layer.

sort_in_edges     a partition's slices of all chunks -> its in-edges and halo
keep_needed       the rows that a layer needs -> their in-edges, and what the layer before must have
gather_features   features -> the states that layer 1 reads
send_rows         a partition -> what it sends to others
compute_layer     what others sent -> the partition's states of the next layer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.embedding.graph.job import (
    FINAL,
    GraphJob,
    Part,
    SpanPlaces,
    csr_name,
    model_of,
    states_name,
)
from embed_ops.embedding.graph.notes import CsrNote, StatesNote
from embed_ops.encoders.graph import partition
from embed_ops.encoders.graph.partition import TILE, Csr
from embed_ops.errors import DeviceError


def sort_in_edges(graph: GraphJob, part: Part, chunks: Sequence[str], drop_loops: bool) -> CsrNote:
    """Keep a partition's in-edges, sorted, out of its slices of all chunks."""
    slices: list[Any] = []
    first_tile, last_tile = part.first // TILE, -(-part.last // TILE)
    for chunk in chunks:
        tiles = graph.kept(f"{chunk}.tiles", first_tile, last_tile + 1)
        first, last = int(tiles[0]), int(tiles[-1])
        slices.append(tuple(graph.kept(f"{chunk}.{name}", first, last) for name in ("dst", "src", "extra")))
    columns = max((piece[2].shape[1] for piece in slices), default=0)
    slices = slices or [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, columns), np.float32))]
    seed = graph.job.spec.seed
    csr = partition.build_csr(
        slices, part.first, part.last, drop_loops=drop_loops, fanout=graph.source.fanout, seed=seed
    )
    return _keep_csr(graph, part, csr_name(part.number), csr, part.rows)


def keep_needed(graph: GraphJob, part: Part, layer: int, rows: npt.NDArray[np.bool_]) -> CsrNote:
    """Keep the in-edges of those rows of a partition whose states of a layer are needed."""
    name = csr_name(part.number, layer)
    graph.keep(f"{name}.rows", rows)
    csr = partition.restrict(graph.csr(csr_name(part.number)), rows)
    return _keep_csr(graph, part, name, csr, int(rows.sum()))


def _keep_csr(graph: GraphJob, part: Part, name: str, csr: Csr, rows: int) -> CsrNote:
    graph.keep_csr(name, csr)
    largest = int(np.diff(csr.indptr).max(initial=0))
    sends = tuple(np.searchsorted(csr.halo, np.array(part.bounds)).tolist())
    return graph.note(name, CsrNote(edges=len(csr.col), largest=largest, rows=rows, sends=sends))


def gather_features(graph: GraphJob, part: Part, spans: Sequence[SpanPlaces]) -> StatesNote:
    """Gather the features of a partition's nodes out of the spans that have some."""
    pieces = [
        graph.kept(
            f"nodes/{span.index:06d}.x",
            max(0, part.first - span.first),
            min(span.rows, part.last - span.first),
        )
        for span in spans
    ]
    none = np.zeros((0, model_of(graph).in_width), np.float32)
    features = np.concatenate([none, *pieces]).astype(graph.job.resolved.dtype)
    return _keep_states(graph, part, 0, features, StatesNote())


def _keep_states(
    graph: GraphJob, part: Part, layer: int, states: npt.NDArray[Any], note: StatesNote
) -> StatesNote:
    """Keep a layer's states, and what they send in the next one where that is something else."""
    from embed_ops.encoders.graph.tiles import messages

    model, name = model_of(graph), states_name(layer, part.number)
    if layer < model.depth and not model.sends_input(layer + 1):
        degree = _degree(graph, part) if model.needs_degree else None
        graph.keep(f"{name}.message", messages(model, layer + 1, states, degree))
    graph.keep(f"{name}.states", states)
    return graph.note(name, note)


def _degree(graph: GraphJob, part: Part) -> npt.NDArray[Any]:
    """Add up the weights of each node's in-edges and of the loop that the model adds, (rows,)."""
    csr = graph.csr(csr_name(part.number))
    weights = csr.extra[:, 0].astype(np.float64) if graph.source.weight else np.ones(len(csr.col))
    degree: npt.NDArray[Any] = np.bincount(
        np.repeat(np.arange(part.rows), np.diff(csr.indptr)), weights, minlength=part.rows
    )
    if model_of(graph).drops_loops:
        loops = (
            np.nan_to_num(csr.loop[:, 0], nan=model_of(graph).loop_weight)
            if graph.source.weight
            else np.ones(part.rows)
        )
        degree = degree + loops
    return degree.astype(graph.job.resolved.dtype)


def send_rows(
    graph: GraphJob, sender: Part, name: str, receivers: Sequence[tuple[str, int, int]]
) -> list[npt.NDArray[Any]]:
    """Give what a partition sends to others, an array (rows, width) for each.

    Args:
        graph: the job.
        sender: the partition.
        name: the array whose rows are sent.
        receivers: (name of the in-edges, first row, last row) of each: the part of its halo that
            lies in the sender.
    """
    sent = graph.kept(name)
    return [sent[graph.kept(f"{csr}.halo", first, last) - sender.first] for csr, first, last in receivers]


def compute_layer(
    graph: GraphJob, part: Part, layer: int, restricted: bool, *received: npt.NDArray[Any]
) -> StatesNote:
    """Compute a partition's states of a layer.

    Args:
        graph: the job.
        part: the partition.
        layer: 1 to the model's depth.
        restricted: whether only the rows that the layer needs are asked for.
        received: (rows, message width), what all partitions sent, in their order.
    """
    from embed_ops.encoders.device import device_name, ran_out_of_memory
    from embed_ops.encoders.graph import tiles

    model, before = model_of(graph), states_name(layer - 1, part.number)
    name = csr_name(part.number, layer if restricted else None)
    csr = graph.csr(name)
    rows = graph.kept(f"{name}.rows") if restricted else np.ones(part.rows, np.bool_)
    states = graph.kept(f"{before}.states")
    own = None
    if model.uses_own(layer):
        own = states if model.sends_input(layer) else graph.kept(f"{before}.message")
    degree = _degree(graph, part) if model.needs_degree else None
    halo = np.concatenate([np.zeros((0, model.message_width(layer)), states.dtype), *received])
    weighted = graph.source.weight is not None
    try:
        after = tiles.aggregate(model, layer, halo, csr, states, own, degree, rows, weighted=weighted)
    except RuntimeError as error:
        if graph.job.resolved.device == "cpu" or not ran_out_of_memory(error):
            raise
        raise DeviceError(
            f"layer {layer}: a partition of {part.rows:,} nodes receives {halo.nbytes / 1e9:.1f} GB, which "
            f"a replica's share of a GPU has no room for: set resources.partitions to more than "
            f"{len(part.bounds) - 1} in a new run"
        ) from error
    if layer == model.depth and model.config.jk is not None:
        earlier = [graph.kept(f"{states_name(number, part.number)}.states") for number in range(1, layer)]
        graph.keep(f"{states_name(FINAL, part.number)}.states", tiles.outputs(model, [*earlier, after]))
    note = StatesNote(
        received=sum(piece.nbytes for piece in received),
        edges=len(csr.col),
        device=device_name(graph.job.resolved.device),
    )
    return _keep_states(graph, part, layer, after, note)
