"""Graphs and models for the tests of graph layers, and a small single-process engine that drives GraphModel tile by tile."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from embed_ops.graph.config import parse_config
from embed_ops.graph.layers import CHUNK, TILE, Edges
from embed_ops.graph.model import GraphModel
from embed_ops.graph.weights import canonical

EDGE_DIM = 3
LAYER_NORM = {"norm": "LayerNorm", "norm_kwargs": {"mode": "node"}}
BASE = {"in_channels": 12, "hidden_channels": 16, "num_layers": 3, "out_channels": 8}


@dataclass(frozen=True)
class Graph:
    """Features (nodes, width) float64, edges (2, E) with rows source and destination, their weights (E,) and features (E, EDGE_DIM)."""

    x: Tensor
    edges: Tensor
    weight: Tensor
    attr: Tensor


def _graph(x: np.ndarray[Any, Any], src: np.ndarray[Any, Any], dst: np.ndarray[Any, Any]) -> Graph:
    rng = np.random.default_rng(1)
    weight, attr = rng.uniform(0.2, 2, len(src)), rng.standard_normal((len(src), EDGE_DIM))
    return Graph(*(torch.from_numpy(values) for values in (x, np.stack([src, dst]).astype(np.int64), weight, attr)))


@functools.cache
def nasty() -> Graph:
    """3,000 nodes with degrees of a power law, a hub with over 2,000 in-edges, duplicates, loops, and nodes without edges."""
    rng = np.random.default_rng(0)
    nodes, edges = 3000, 12_000
    src, dst = ((nodes * 0.9 * rng.power(power, edges)).astype(np.int64) for power in (0.4, 0.5))
    dst[:2100] = 1500
    loops = np.concatenate([rng.integers(0, nodes, 80), [1500, 1500, 7, 7]])
    src, dst = np.concatenate([src, src[:400], loops]), np.concatenate([dst, dst[:400], loops])
    order = rng.permutation(len(src))
    return _graph(rng.standard_normal((nodes, 12)), src[order], dst[order])


@functools.cache
def karate() -> Graph:
    """Zachary's karate club, in both directions."""
    import networkx

    found = np.array(networkx.karate_club_graph().edges).T
    return _graph(
        np.random.default_rng(0).standard_normal((34, 12)), np.concatenate([found[0], found[1]]), np.concatenate([found[1], found[0]])
    )


@functools.cache
def digits() -> Graph:
    """Eight nearest neighbours among the digits of scikit-learn; features are 12 of their pixels."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    pixels = load_digits().data / 16
    found = kneighbors_graph(pixels, 8).tocoo()
    return _graph(np.ascontiguousarray(pixels[:, 20:32]), found.col, found.row)


GRAPHS = {"nasty": nasty, "karate": karate, "digits": digits}


def settings(kind: str, **options: Any) -> dict[str, Any]:
    """Give a whole config.json."""
    return {"type": kind, **BASE, **options}


def reference(config: Mapping[str, Any]) -> Any:
    """Build PyTorch Geometric's model in float64, with seeded weights, also where it begins with zeros and ones."""
    from torch_geometric import nn

    torch.manual_seed(0)
    model = getattr(nn, config["type"])(**{name: value for name, value in config.items() if name != "type"})
    for name, values in model.state_dict().items():
        if name.startswith("norms.") or name.endswith("bias"):
            values.copy_(torch.rand(values.shape) + (0.5 if "var" in name or "weight" in name else -0.5))
    return model.double().eval()


def full_batch(model: Any, graph: Graph, dtype: torch.dtype, *, weighted: bool = False, attr: bool = False) -> Tensor:
    """Put the whole graph through PyTorch Geometric."""
    extra = {"edge_weight": graph.weight.to(dtype)} if weighted else {"edge_attr": graph.attr.to(dtype)} if attr else {}
    with torch.inference_mode():
        found: Tensor = model.to(dtype)(graph.x.to(dtype), graph.edges, **extra)
    return found


def ours(config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> GraphModel:
    """Build GraphModel from a state dict, without a folder."""
    parsed = parse_config(config, "config.json")
    return GraphModel(parsed, {name: values.to(dtype) for name, values in canonical(state, parsed, "weights").items()})


def save(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """Write a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    # Cloned, since safetensors refuses tensors that share memory.
    save_file({name: values.clone().contiguous() for name, values in state.items()}, folder / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Prepared:
    """A graph as the engine holds it: edges sorted by (destination, source), loops taken out if the model says so."""

    ends: Tensor
    src: Tensor
    weight: Tensor | None
    attr: Tensor | None
    loop: Tensor | None
    degree: Tensor | None


def prepare(model: GraphModel, graph: Graph, dtype: torch.dtype, rows: int, *, weighted: bool, attr: bool) -> Prepared:
    """Sort edges, and take out and add up what the model wants; `rows` are whole tiles."""
    src, dst = graph.edges
    weight = graph.weight.to(dtype) if weighted else torch.ones(len(src), dtype=dtype)
    values = graph.attr.to(dtype)
    loop = torch.zeros(rows, dtype=dtype)
    if model.drops_loops:
        loops = src == dst
        loop += model.loop_weight if weighted else 1.0
        if weighted:
            loop[dst[loops]] = weight[loops]
        src, dst, weight, values = src[~loops], dst[~loops], weight[~loops], values[~loops]
    order = torch.from_numpy(np.lexsort((src.numpy(), dst.numpy())))
    src, dst, weight, values = src[order], dst[order], weight[order], values[order]
    degree = loop.index_add(0, dst, weight) if model.needs_degree else None
    ends = torch.searchsorted(dst, torch.arange(rows + 1))
    return Prepared(
        ends, src, weight if weighted else None, values if attr else None, loop if weighted and model.drops_loops else None, degree
    )


def tile_edges(graph: Prepared, first: int, kept: Tensor | None = None) -> tuple[Edges, Tensor]:
    """Cut a tile's in-edges, and give their sources, (E,) rows of all nodes; `kept`: (TILE,) destinations whose edges are left."""
    ends = graph.ends[first : first + TILE + 1]
    low, high = int(ends[0]), int(ends[-1])
    counts = ends.diff()
    chosen = torch.arange(low, high)
    if kept is not None:
        chosen = chosen[kept.repeat_interleave(counts)]
        counts = counts * kept
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    cut = [None if values is None else values[chosen] for values in (graph.weight, graph.attr)]
    sources = graph.src[chosen]
    return Edges(indptr, sources, cut[0], cut[1], None if graph.loop is None else graph.loop[first : first + TILE]), sources


def embed(
    model: GraphModel,
    graph: Graph,
    *,
    chunk: int = CHUNK,
    weighted: bool = False,
    attr: bool = False,
    alone: bool = False,
    index: torch.dtype = torch.int64,
) -> Tensor:
    """Run the model over a graph, tile by tile; `alone`: each tile sees a halo of its own sources only, re-indexed."""
    dtype = next(iter(model.weights.values())).dtype
    nodes = len(graph.x)
    rows = -(-nodes // TILE) * TILE
    held = prepare(model, graph, dtype, rows, weighted=weighted, attr=attr)
    states = [torch.cat([graph.x.to(dtype), torch.zeros((rows - nodes, graph.x.shape[1]), dtype=dtype)])]
    with torch.inference_mode():
        for layer in range(1, model.depth + 1):
            states.append(_layer(model, layer, held, states[-1], chunk, alone, index))
        kept = states[1:] if model.keeps_states else states[-1:]
        found = [model.output([values[first : first + TILE] for values in kept]) for first in range(0, rows, TILE)]
    return torch.cat(found)[:nodes]


def _layer(model: GraphModel, layer: int, held: Prepared, x: Tensor, chunk: int, alone: bool, index: torch.dtype) -> Tensor:
    firsts = range(0, len(x), TILE)
    degrees = {first: None if held.degree is None else held.degree[first : first + TILE] for first in firsts}
    sent = torch.cat([model.messages(layer, x[first : first + TILE], degrees[first]) for first in firsts])
    assert sent.shape[1] == model.message_width(layer)
    found = []
    for first in firsts:
        edges, sources = tile_edges(held, first)
        halo = sent
        if alone:
            used, sources = sources.unique(return_inverse=True)
            halo = sent[used]
        edges = Edges(edges.indptr, sources.to(index), edges.weight, edges.attr, edges.loop)
        own = sent[first : first + TILE] if model.uses_own(layer) else None
        found.append(model.layer(layer, halo, edges, x[first : first + TILE], own, degrees[first], chunk))
    result = torch.cat(found)
    assert result.shape[1] == model.width(layer)
    return result
