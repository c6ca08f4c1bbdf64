"""`fit-graph`: trains a GraphSAGE on a graph, or on a part of it that fits in memory.

What it saves is a model folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.graph.partition import Ints, mix
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import SourceError, SpecError
from embed_ops.schema import CONTENT, REASON
from embed_ops.sources.corpus import Corpus, open_edges
from embed_ops.sources.plan import place_of
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor
from embed_ops.spec.fit import FitSpec
from embed_ops.spec.source import GraphSourceSpec, SourceSpec

_MOST_EDGES = 200_000_000
"""Edges that training holds in memory."""
_SEEDS = 64
"""Nodes from which a part of the graph grows."""


def fit_graph(
    source: SourceSpec, fit: FitSpec, output: Path, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train on a graph and save the model: `config.json`, `model.safetensors` and `fit.json`.

    Gives what `fit.json` says.

    Raises:
        SpecError: the source is no graph, or `output` has a model already.
        SourceError: the graph has too few edges.
    """
    from safetensors.torch import save_file

    from embed_ops.encoders.graph.config_file import parse_config
    from embed_ops.training import graph_loop as training

    reporter = reporter or Silent()
    if not isinstance(source, GraphSourceSpec):
        raise SpecError(f"source.kind is {source.kind!r}: weights are fitted to a graph, nodes and edges")
    if (output / "config.json").exists():
        raise SpecError(f"--output {output}: there is a model already; choose another folder")
    x, src, dst = read_graph(source, fit.max_nodes, fit.seed, reporter)
    shape = {"type": "GraphSAGE", "in_channels": x.shape[1], "hidden_channels": fit.hidden_channels}
    shape |= {"num_layers": fit.num_layers, "out_channels": fit.out_channels, "aggr": fit.aggr}
    held = training.hold_out(src, dst, fit.holdout, fit.seed)
    if not held.any() or held.all():
        raise SourceError(
            f"{len(src)} edges between nodes with features: too few to hold {fit.holdout:.0%} of them "
            "out and train on the rest"
        )
    fitted = training.fit(parse_config(shape, "fit"), x, src, dst, fit, reporter.say)
    told = {
        "nodes": len(x),
        "edges": len(src),
        "auc": fitted.auc,
        "better": fitted.auc["trained"] > fitted.auc["random"],
        "fit": fit.model_dump(),
    }
    output.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: values.contiguous() for name, values in fitted.weights.items()}, output / "model.safetensors"
    )
    (output / "fit.json").write_text(json.dumps(told, indent=2) + "\n")
    (output / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    return told


def read_graph(
    source: GraphSourceSpec, most: int, seed: int, reporter: Reporter
) -> tuple[npt.NDArray[np.float32], Ints, Ints]:
    """Read a graph, or a part with `most` nodes.

    Features (nodes, width), and the rows that edges join.

    Raises:
        SourceError: it has no usable node, or too many edges for one machine.
    """
    corpus = Corpus.open(source)
    ids = pa.chunked_array([content.field("id") for content in _nodes(corpus)]).combine_chunks()
    if not len(ids):
        raise SourceError("no node has an id and features")
    src, dst = _edges(source, ids)
    reporter.say(f"{len(ids):,} nodes and {len(src):,} edges")
    chosen = np.ones(len(ids), np.bool_) if len(ids) <= most else _grown(src, dst, len(ids), most, seed)
    place = np.cumsum(chosen) - 1
    inside = chosen[src] & chosen[dst]
    rows, parts = 0, []
    for content in _nodes(corpus):
        mine = chosen[rows : rows + len(content)]
        rows += len(content)
        parts.append(
            np.stack(content.field("x").filter(pa.array(mine)).to_numpy(zero_copy_only=False))
            if mine.any()
            else None
        )
    x = np.concatenate([part for part in parts if part is not None]).astype(np.float32)
    return x, place[src[inside]], place[dst[inside]]


def _nodes(corpus: Corpus) -> Iterator[pa.StructArray]:
    """Stream the nodes that have an id and features, of the width that the first one has."""
    plan, width = corpus.plan(), None
    places = {file.name: corpus.place(file) for file in plan.files}
    for span in plan.spans:
        cursor = Cursor(corpus.source, Rows(corpus.spec, plan.columns, whole=True), places, span)
        while not cursor.exhausted:
            chunk = cursor.peek()
            if chunk is None:
                cursor.next_piece()
                continue
            table = cursor.take(len(chunk)).table
            content = table.filter(pc.is_null(table.column(REASON))).column(CONTENT).combine_chunks()
            content = content.filter(pc.and_(content.field("id").is_valid(), content.field("x").is_valid()))
            if len(content):
                lengths = pc.list_value_length(content.field("x"))
                width = lengths[0].as_py() if width is None else width
                content = content.filter(pc.equal(lengths, width))
                finite = np.isfinite(
                    content.field("x").flatten().to_numpy(zero_copy_only=False).reshape(len(content), width)
                ).all(axis=1)
                yield content.filter(pa.array(finite))


def _edges(source: GraphSourceSpec, ids: pa.Array) -> tuple[Ints, Ints]:
    """Read the edges between these nodes, as rows; an id's first row stands for it."""
    corpus = open_edges(source)
    plan, reader = corpus.plan(), make_source(corpus.spec)
    ends: list[list[Ints]] = [[], []]
    total = 0
    for piece in (piece for span in plan.spans for piece in span.pieces):
        for records in reader.read(place_of(corpus.roots, piece.source), piece, piece.begin, plan.columns):
            rows = [
                pc.fill_null(pc.index_in(records.table.column(name), value_set=ids), -1)
                for name in (source.src, source.dst)
            ]
            pair = [column.to_numpy().astype(np.int64) for column in rows]
            there = (pair[0] >= 0) & (pair[1] >= 0)
            total += int(there.sum())
            if total > _MOST_EDGES:
                raise SourceError(
                    f"more than {_MOST_EDGES:,} edges: fit on a part of the graph, with a smaller edge table"
                )
            for held, values in zip(ends, pair, strict=True):
                held.append(values[there])
    src, dst = (np.concatenate([np.zeros(0, np.int64), *held]) for held in ends)
    if source.undirected:
        back = src != dst
        src, dst = np.append(src, dst[back]), np.append(dst, src[back])
    return src, dst


def _grown(src: Ints, dst: Ints, nodes: int, most: int, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a part of the graph.

    Some nodes by hash, then their neighbours, and theirs, until there are `most`.
    """
    order = np.argsort(mix(np.arange(nodes, dtype=np.uint64) + np.uint64(seed)), kind="stable")
    rank = np.empty(nodes, np.int64)
    rank[order] = np.arange(nodes)
    chosen = rank < _SEEDS
    while (count := int(chosen.sum())) < most:
        near = np.zeros(nodes, np.bool_)
        near[dst[chosen[src]]] = near[src[chosen[dst]]] = True
        near &= ~chosen
        new = np.flatnonzero(near) if near.any() else np.flatnonzero(~chosen)[:1]
        chosen[new[np.argsort(rank[new])][: most - count]] = True
    return chosen
