"""One partition of a graph, layer by layer.

build        a partition's slices of all chunks -> its CSR and halo
need         a partition's rows that a later layer needs -> those that the layer before must have
begin        features -> the states that layer 1 reads
pack         a partition -> what it sends to others
aggregate    what others sent -> the partition's states of the next layer
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.embedding.graph.job import FINAL, GraphJob, Part, model_of, states_name
from embed_ops.encoders.graph import partition
from embed_ops.encoders.graph.partition import TILE, Ints


def build(graph: GraphJob, part: Part, chunks: Sequence[str], drop_loops: bool) -> dict[str, Any]:
    """Make a partition's CSR."""
    slices: list[Any] = []
    first_tile, last_tile = part.first // TILE, -(-part.last // TILE)
    for chunk in chunks:
        tiles = graph.kept(f"{chunk}.tiles", first_tile, last_tile + 1)
        first, last = int(tiles[0]), int(tiles[-1])
        slices.append(tuple(graph.kept(f"{chunk}.{name}", first, last) for name in ("dst", "src", "extra")))
    columns = max((piece[2].shape[1] for piece in slices), default=0)
    slices = slices or [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, columns), np.float32))]
    seed = graph.job.spec.seed
    csr = partition.build(
        slices, part.first, part.last, drop_loops=drop_loops, fanout=graph.source.fanout, seed=seed
    )
    name = f"csr/{part.number:06d}"
    graph.keep_csr(name, csr)
    degrees = np.diff(csr.indptr)
    found = {
        "edges": len(csr.col),
        "largest": int(degrees.max(initial=0)),
        "sends": _sends(csr.halo, part.bounds),
    }
    return graph.note(name, found)


def _sends(halo: Ints, bounds: Sequence[int]) -> list[int]:
    """Find where each partition's places begin in a halo, (partitions + 1,)."""
    found: list[int] = np.searchsorted(halo, np.array(bounds)).tolist()
    return found


def need(graph: GraphJob, part: Part, layer: int, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Keep the in-edges of those rows of a partition whose states of a layer are needed."""
    csr = partition.restrict(graph.csr(f"csr/{part.number:06d}"), rows)
    name = f"need-{layer:03d}/{part.number:06d}"
    graph.keep_csr(name, csr)
    graph.keep(f"{name}.rows", rows)
    return graph.note(
        name, {"edges": len(csr.col), "sends": _sends(csr.halo, part.bounds), "rows": int(rows.sum())}
    )


def begin(graph: GraphJob, part: Part, spans: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Gather the features of a partition's nodes out of spans.

    (index, places before it, rows) each.
    """
    pieces = [
        graph.kept(f"nodes/{index:06d}.x", max(0, part.first - offset), min(rows, part.last - offset))
        for index, offset, rows in spans
        if offset < part.last and part.first < offset + rows
    ]
    none = np.zeros((0, model_of(graph).in_width), np.float32)
    return _keep_states(graph, part, 0, np.concatenate([none, *pieces]).astype(graph.job.resolved.dtype), {})


def _keep_states(
    graph: GraphJob, part: Part, layer: int, states: npt.NDArray[Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Keep a layer's states, and what they send in the next one where that is something else."""
    from embed_ops.encoders.graph.tiles import messages

    model, name = model_of(graph), states_name(layer, part.number)
    if layer < model.depth and not model.sends_input(layer + 1):
        degree = _degree(graph, part) if model.needs_degree else None
        graph.keep(f"{name}.message", messages(model, layer + 1, states, degree))
    graph.keep(f"{name}.states", states)
    return graph.note(name, found)


def _degree(graph: GraphJob, part: Part) -> npt.NDArray[Any]:
    """Add up the weights of each node's in-edges, the loop that the model adds included.

    (rows,).
    """
    csr = graph.csr(f"csr/{part.number:06d}")
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


def pack(
    graph: GraphJob, sender: Part, name: str, receivers: Sequence[tuple[str, int, int]]
) -> list[npt.NDArray[Any]]:
    """Give what a partition sends to others.

    Rows of `name`, chosen by the rows `first` to `last` of each receiver's halo.
    """
    sent = graph.kept(name)
    return [sent[graph.kept(f"{halo}.halo", first, last) - sender.first] for halo, first, last in receivers]


def aggregate(
    graph: GraphJob, part: Part, layer: int, csr_name: str, *received: npt.NDArray[Any]
) -> dict[str, Any]:
    """Compute a partition's states of a layer from what all partitions sent, in their order."""
    from embed_ops.encoders.graph import tiles

    started = time.perf_counter()
    model, before = model_of(graph), states_name(layer - 1, part.number)
    csr = graph.csr(csr_name)
    rows = graph.kept(f"{csr_name}.rows") if csr_name.startswith("need") else np.ones(part.rows, np.bool_)
    states = graph.kept(f"{before}.states")
    own = None
    if model.uses_own(layer):
        own = states if model.sends_input(layer) else graph.kept(f"{before}.message")
    degree = _degree(graph, part) if model.needs_degree else None
    halo = np.concatenate([np.zeros((0, model.message_width(layer)), states.dtype), *received])
    weighted = graph.source.weight is not None
    found = tiles.aggregate(model, layer, halo, csr, states, own, degree, rows, weighted=weighted)
    if layer == model.depth and model.config.jk is not None:
        earlier = [graph.kept(f"{states_name(number, part.number)}.states") for number in range(1, layer)]
        graph.keep(f"{states_name(FINAL, part.number)}.states", tiles.outputs(model, [*earlier, found]))
    size = sum(piece.nbytes for piece in received)
    return _keep_states(
        graph,
        part,
        layer,
        found,
        {"received": size, "edges": len(csr.col), "seconds": time.perf_counter() - started},
    )
