"""The driver's first phases: the tables of a graph are read, and ids become places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embed_ops.embedding.graph.edge_table import read_edges
from embed_ops.embedding.graph.job import SpanPlaces
from embed_ops.embedding.graph.node_table import join_bucket, read_nodes
from embed_ops.embedding.graph.notes import BucketNote, EdgesNote, NodesNote
from embed_ops.embedding.graph.phase import GraphRun
from embed_ops.encoders.graph.ids import Ids, bucket_count
from embed_ops.encoders.graph.partition import TILE
from embed_ops.errors import SourceError

_ROW_BYTES = 16
"""Bytes of a node's row, where only reading would tell how many there are."""


@dataclass(frozen=True)
class NodeTable:
    """The node table, read.

    Attributes:
        notes: what is known of each span.
        spans: the places of each span.
        ids: how ids become places.
    """

    notes: Sequence[NodesNote]
    spans: Sequence[SpanPlaces]
    ids: Ids


@dataclass(frozen=True)
class EdgeTable:
    """The edge table, read.

    Attributes:
        chunks: names of all chunks of sorted edges, in order.
        in_edges: (tiles,) int64, edges that end in each tile.
        read: edges in the chunks.
        missing: edges left out, with no node at one end or without a value.
        rejected: edges left out, of rejected nodes.
    """

    chunks: Sequence[str]
    in_edges: npt.NDArray[np.int64]
    read: int
    missing: int
    rejected: int


def read_node_table(run: GraphRun) -> NodeTable:
    """Read the node table, and make the dictionary unless ids are row numbers already."""
    plan = run.attempt.plan
    count = plan.rows if plan.rows is not None else plan.bytes // _ROW_BYTES
    buckets = bucket_count(count)
    calls = [(f"nodes/{span.index:06d}", (run.graph, span, buckets)) for span in plan.spans]
    notes = run.each("reading nodes", read_nodes, NodesNote, calls)
    spans, rows = [], 0
    for span, note in zip(plan.spans, notes, strict=True):
        spans.append(SpanPlaces(span.index, rows, note.rows))
        rows += note.rows
    if all(note.first_id == places.first for note, places in zip(notes, spans, strict=True) if note.rows):
        buckets = 0
    _make_dictionary(run, spans, buckets)
    id_type = str(plan.columns.field(run.graph.source.id).type)
    return NodeTable(notes, spans, Ids(rows, id_type, buckets))


def _make_dictionary(run: GraphRun, spans: Sequence[SpanPlaces], buckets: int) -> None:
    """Join each bucket of ids, and say how many rows have an id that an earlier one has."""
    indexes, offsets = [span.index for span in spans], [span.first for span in spans]
    calls = [(f"ids/{bucket:06d}", (run.graph, bucket, indexes, offsets)) for bucket in range(buckets)]
    notes = run.each("making the dictionary of ids", join_bucket, BucketNote, calls)
    if again := sum(note.again for note in notes):
        run.attempt.reporter.say(f"{again} nodes have an id that an earlier one has: they become rejects")


def read_edge_table(run: GraphRun, ids: Ids) -> EdgeTable:
    """Read the edge table to chunks of sorted edges.

    Raises:
        SourceError: edges have no node at one end, and may not be left out.
    """
    spans = run.edges.plan().spans
    edge_dim = run.model.edge_dim or 1
    calls = [(f"edges/{span.index:06d}", (run.graph, span, ids, edge_dim)) for span in spans]
    notes = run.each("reading edges", read_edges, EdgesNote, calls)
    _require_nodes(run, notes)
    in_edges = np.zeros(-(-ids.nodes // TILE), np.int64)
    chunks: list[str] = []
    for span, note in zip(spans, notes, strict=True):
        in_edges += run.graph.kept(f"edges/{span.index:06d}.tiles")
        chunks += [f"edges/{span.index:06d}-{number:04d}" for number in range(note.chunks)]
    return EdgeTable(
        chunks,
        in_edges,
        read=sum(note.edges for note in notes),
        missing=sum(note.missing for note in notes),
        rejected=sum(note.rejected for note in notes),
    )


def _require_nodes(run: GraphRun, notes: Sequence[EdgesNote]) -> None:
    """Stop on edges that lead nowhere, unless they may be left out.

    Raises:
        SourceError: names the first ten.
    """
    source = run.graph.source
    missing, rejected = sum(note.missing for note in notes), sum(note.rejected for note in notes)
    examples = [text for note in notes for text in note.examples][:10]
    if missing and source.on_missing == "error":
        # What a reader says of whole numbers that int64 does not hold.
        large = any("not in range" in text for text in examples)
        advice = (
            f'Ids above 2^63 - 1 can be read as texts: source.types = {{{source.id} = "string", '
            f'{source.src} = "string", {source.dst} = "string"}}'
            if large
            else "Add the nodes, or leave such edges out (source.on_missing=drop)"
        )
        raise SourceError(
            f"{missing} edges have no node at one end, or lack a value ({source.src} -> {source.dst}). "
            f"{advice}. The first: {'; '.join(examples)}{'; ...' if missing > len(examples) else ''}"
        )
    if missing or rejected:
        run.attempt.reporter.say(
            f"{missing} edges without a node at one end and {rejected} edges of rejected nodes are left out"
        )
