"""A graph's edge table to sorted chunks of places: `read_edges`, one span of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.embedding.graph.job import GraphJob
from embed_ops.embedding.graph.notes import EdgesNote
from embed_ops.encoders.graph import ids as dictionary
from embed_ops.encoders.graph import partition
from embed_ops.encoders.graph.arrays import read_batch
from embed_ops.encoders.graph.ids import REJECTED, UNKNOWN, Ids
from embed_ops.encoders.graph.partition import TILE, Ints
from embed_ops.errors import SourceError
from embed_ops.schema import MESSAGE, REASON
from embed_ops.sources.base import DECODING_FAULTS, Records
from embed_ops.sources.graph import vectors
from embed_ops.sources.plan import Span, place_of
from embed_ops.sources.registry import make_source
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.storage.faults import is_transport, storage_error

EDGES_PER_CHUNK = 4_000_000
_NAMED = 10
"""Edges to nodes that are not there, of which a message tells."""


def require_same_ids(source: GraphSourceSpec, nodes: pa.Schema, edges: pa.Schema) -> None:
    """Refuse edges whose ids are of another type than the nodes'.

    Raises:
        SourceError: names both.
    """
    kind = nodes.field(source.id).type
    for name in (source.src, source.dst):
        if edges.field(name).type != kind:
            raise SourceError(
                f"edge column {name!r} is {edges.field(name).type}, but node column {source.id!r} is "
                f"{kind}: ids must be of one type "
                f"(CSV columns are strings unless source.types says otherwise)"
            )


def read_edges(graph: GraphJob, span: Span, ids: Ids, edge_dim: int) -> EdgesNote:
    """Read a span of the edge table to sorted chunks of places.

    A column of vectors has `edge_dim` numbers an edge.
    """
    name = f"edges/{span.index:06d}"
    missing = rejected = chunks = edges = 0
    examples: list[str] = []
    tiles = np.zeros(-(-ids.nodes // TILE), np.int64)
    for table in _edge_tables(graph, span):
        placed = _place_ends(graph, table, ids, edge_dim)
        missing += int(placed.unknown.sum())
        rejected += int(placed.rejected.sum())
        lost = np.flatnonzero(placed.unknown)[: _NAMED - len(examples)].tolist()
        examples += [table.name(row, graph.source) for row in lost]
        fine = ~placed.unknown & ~placed.rejected
        chunk = partition.sort_chunk(
            placed.src[fine],
            placed.dst[fine],
            placed.extra[fine],
            ids.nodes,
            undirected=graph.source.undirected,
        )
        for part in ("dst", "src", "extra", "tiles"):
            graph.keep(f"{name}-{chunks:04d}.{part}", getattr(chunk, part))
        tiles += np.diff(chunk.tiles)
        chunks, edges = chunks + 1, edges + len(chunk.dst)
    graph.keep(f"{name}.tiles", tiles)
    note = EdgesNote(chunks=chunks, edges=edges, missing=missing, rejected=rejected, examples=tuple(examples))
    return graph.note(name, note)


@dataclass(frozen=True)
class _PlacedEdges:
    """Edges whose ends are places.

    Attributes:
        src: (edges,) places that send; below zero where there is none.
        dst: (edges,) places that receive; likewise.
        extra: (edges, columns) weight and features.
        unknown: (edges,) whether an end is no node, or a value is missing.
        rejected: (edges,) whether an end is a rejected node.
    """

    src: Ints
    dst: Ints
    extra: npt.NDArray[np.float32]
    unknown: npt.NDArray[np.bool_]
    rejected: npt.NDArray[np.bool_]


def _place_ends(graph: GraphJob, edges: _EdgeTable, ids: Ids, edge_dim: int) -> _PlacedEdges:
    """Look up the places of both ends."""
    table, bad = edges.table, edges.bad
    ends = table.column(graph.source.src), table.column(graph.source.dst)
    both = pa.chunked_array([*ends[0].chunks, *ends[1].chunks]).combine_chunks()
    places = dictionary.look_up(ids, both, lambda bucket: read_batch(graph.work, f"ids/{bucket:06d}", 0))
    src, dst = places[: len(table)], places[len(table) :]
    extra = np.zeros((len(table), 0), np.float32)
    if names := graph.source.edge_columns[2:]:
        extra, faulty = _extra(table, names, edge_dim)
        bad = bad | faulty
    unknown = bad | (src == UNKNOWN) | (dst == UNKNOWN)
    rejected = ~unknown & ((src == REJECTED) | (dst == REJECTED))
    return _PlacedEdges(src, dst, extra, unknown, rejected)


def _extra(
    table: pa.Table, names: tuple[str, ...], width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Give weight and features of edges, (edges, columns), and which of them lack one.

    A column of vectors has `width` numbers.
    """
    columns, null = [], np.zeros(len(table), np.bool_)
    for name in names:
        part = vectors(table, (name,))
        wanted = width if pa.types.is_list(table.schema.field(name).type) else 1
        fits = pc.fill_null(pc.equal(pc.list_value_length(part), wanted), False).to_numpy(
            zero_copy_only=False
        )
        values = np.zeros((len(part), wanted), np.float32)
        values[fits] = (
            part.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False).reshape(-1, wanted)
        )
        columns.append(values)
        null |= ~fits
    extra = np.concatenate(columns, axis=1)
    return extra, null | ~np.isfinite(extra).all(axis=1)


@dataclass(frozen=True)
class _EdgeTable:
    """Some rows of the edge table.

    Attributes:
        table: the rows.
        bad: (rows,) which of them are broken.
        why: (rows,) what is wrong with those.
        origins: where they come from: runs of (file, row in it of each).
    """

    table: pa.Table
    bad: npt.NDArray[np.bool_]
    why: pa.ChunkedArray
    origins: list[tuple[str, Ints]]

    @classmethod
    def joined(cls, held: list[tuple[str, Records]]) -> Self:
        """Put together the records of some files, (file, records) each."""
        return cls(
            pa.concat_tables([records.table for _, records in held]),
            np.concatenate([records.faults.column(REASON).is_valid().to_numpy() for _, records in held]),
            pa.chunked_array([records.faults.column(MESSAGE).combine_chunks() for _, records in held]),
            [(name, records.positions) for name, records in held],
        )

    def name(self, row: int, source: GraphSourceSpec) -> str:
        """Name an edge by its ends, its file, the row in it, and what is wrong with that."""
        why = self.why[row].as_py()
        because = f": {why}" if why else ""
        ends = " -> ".join(str(self.table.column(end)[row].as_py()) for end in (source.src, source.dst))
        for file, positions in self.origins:
            if row < len(positions):
                return f"{ends} ({file}, row {positions[row]}{because})"
            row -= len(positions)
        raise IndexError(row)


def _edge_tables(graph: GraphJob, span: Span) -> Iterator[_EdgeTable]:
    """Stream a span of the edge table in tables of about `EDGES_PER_CHUNK` edges."""
    source = make_source(graph.edges)
    held: list[tuple[str, Records]] = []
    rows = 0
    for piece in span.pieces:
        place = place_of(graph.roots, piece.source)
        try:
            for records in source.read(place, piece, piece.begin, graph.columns):
                held.append((piece.source, records))
                rows += len(records)
                if rows >= EDGES_PER_CHUNK:
                    yield _EdgeTable.joined(held)
                    held, rows = [], 0
        except DECODING_FAULTS as error:
            if is_transport(error):
                raise storage_error("read", place.path, error) from error
            raise SourceError(
                f"{piece.source}: the edge table can't be read on: {type(error).__name__}: {error}; mend "
                "or remove the file"
            ) from error
    if held:
        yield _EdgeTable.joined(held)
