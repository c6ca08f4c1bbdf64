"""A graph's tables to arrays: one span of nodes or edges, one bucket of ids.

read_nodes   a span of the node table -> features, ids, and the units as they will be written
build_ids    a bucket of ids out of all spans -> a part of the dictionary
read_edges   a span of the edge table -> sorted chunks of places
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.embedding.graph.job import WORK, GraphJob
from embed_ops.embedding.message import to_block
from embed_ops.embedding.parts import parts_of
from embed_ops.embedding.steps import prepare_unit, units_of
from embed_ops.embedding.unit import PreparedUnit
from embed_ops.encoders.graph import ids as dictionary
from embed_ops.encoders.graph import partition
from embed_ops.encoders.graph.arrays import read_batch, write_batches
from embed_ops.encoders.graph.encoder import X
from embed_ops.encoders.graph.ids import REJECTED, UNKNOWN, Ids
from embed_ops.encoders.graph.partition import TILE, Ints
from embed_ops.errors import SourceError
from embed_ops.runs.work import Work
from embed_ops.schema import CONTENT, INPUT, REASON
from embed_ops.sources.base import DECODING_FAULTS, Records
from embed_ops.sources.graph import vectors
from embed_ops.sources.plan import Span, place_of
from embed_ops.sources.registry import make_source
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.storage.faults import is_transport, storage_error

EDGES_PER_CHUNK = 4_000_000
_PLACE = "_place"
"""Column of a row's number in its unit, while the unit is read."""
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


def read_nodes(graph: GraphJob, span: Span, buckets: int) -> dict[str, Any]:
    """Read a span of the node table.

    Features, ids by bucket, and each unit as it will be written, without its vectors.
    """
    blocks: list[pa.RecordBatch] = []
    features: list[npt.NDArray[np.float32]] = []
    ids: list[pa.Array] = []
    places: list[Ints] = []
    chosen: list[npt.NDArray[np.bool_]] = []
    units: list[dict[str, Any]] = []
    rows = 0
    encoder, work = parts_of(graph.job).encoder, Work(span)
    for unit in units_of(graph.job, work):
        content = unit.table.column(CONTENT).combine_chunks()
        count = len(content)
        numbered = replace(unit, table=unit.table.append_column(_PLACE, pa.array(np.arange(count))))
        prepared = prepare_unit(numbered, encoder)
        asked = pc.fill_null(content.field("chosen"), True).to_numpy(zero_copy_only=False)
        kept, fine, filtered = _placed(prepared, asked)
        found = _features(prepared)
        held = np.zeros((count, found.shape[1]), np.float32)
        held[fine] = found
        local = -1 - (rows + np.arange(count))
        local[fine] = rows + fine
        features.append(held)
        ids.append(content.field("id"))
        places.append(local)
        chosen.append(asked)
        blocks.append(to_block(kept).combine_chunks().to_batches()[0])
        units.append({"unit": unit.name, "first": rows, "rows": count, "filtered": filtered})
        rows += count
    name = f"nodes/{span.index:06d}"
    whole = pa.concat_arrays(ids)
    write_batches(graph.job.run, f"{WORK}/{name}.units", blocks, graph.job.attempt)
    write_batches(
        graph.job.run,
        f"{WORK}/{name}.ids",
        dictionary.split(whole, np.concatenate(places), buckets),
        graph.job.attempt,
    )
    graph.keep(f"{name}.x", np.concatenate(features))
    graph.keep(f"{name}.chosen", np.concatenate(chosen))
    first = _first_of_consecutive(whole, np.concatenate(places))
    return graph.note(
        name, {"rows": rows, "units": units, "consecutive": first, "all": bool(np.concatenate(chosen).all())}
    )


def _first_of_consecutive(ids: pa.Array, places: Ints) -> int | None:
    """Give the first id if they are integers that count up by one and no row is a reject, else None."""
    if not pa.types.is_int64(ids.type) or ids.null_count or (places < 0).any() or not len(ids):
        return None
    values = ids.to_numpy()
    return int(values[0]) if (np.diff(values) == 1).all() else None


def _features(prepared: PreparedUnit) -> npt.NDArray[np.float32]:
    """Give the features of the rows that are fine, (rows, width)."""
    column = prepared.inputs.column(X).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values: npt.NDArray[np.float32] = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    )
    return values


def _placed(prepared: PreparedUnit, asked: npt.NDArray[np.bool_]) -> tuple[PreparedUnit, Ints, int]:
    """Keep the rows that get a vector.

    Gives the unit without its inputs, the places in it that are fine, and how many are left out.
    """
    rows, rejects = prepared.rows, prepared.rejects
    places = rows.column(_PLACE).to_numpy()
    wanted = asked[places]
    rows = rows.drop_columns([_PLACE, INPUT]).append_column(INPUT, rows.column(_PLACE).cast(pa.int32()))
    # A broken record is a reject whatever `where` says: nobody can tell.
    refused = asked[rejects.column(_PLACE).to_numpy()]
    filtered = int((~wanted).sum() + (~refused).sum())
    unit = replace(
        prepared,
        head=replace(prepared.head, filtered=prepared.head.filtered + filtered),
        rows=rows.filter(pa.array(wanted)),
        inputs=prepared.inputs.slice(0, 0),
        rejects=rejects.filter(pa.array(refused)).drop_columns([_PLACE]),
    )
    return unit, places, filtered


def build_ids(graph: GraphJob, bucket: int, spans: Sequence[int], offsets: Sequence[int]) -> dict[str, Any]:
    """Make one bucket of the dictionary."""
    batches = [read_batch(graph.work, f"nodes/{span:06d}.ids", bucket) for span in spans]
    table, again = dictionary.join(batches, list(offsets))
    write_batches(graph.job.run, f"{WORK}/ids/{bucket:06d}", [table], graph.job.attempt)
    graph.keep(f"ids/{bucket:06d}.again", again)
    return graph.note(f"ids/{bucket:06d}", {"again": len(again)})


def read_edges(graph: GraphJob, span: Span, ids: Ids, edge_dim: int) -> dict[str, Any]:
    """Read a span of the edge table to sorted chunks of places.

    A column of vectors has `edge_dim` numbers an edge.
    """
    name = f"edges/{span.index:06d}"
    missing: Counter[str] = Counter()
    examples: list[str] = []
    chunks, edges = 0, 0
    tiles = np.zeros(-(-ids.nodes // TILE), np.int64)
    for origins, table, bad in _edge_tables(graph, span):
        ends = table.column(graph.source.src), table.column(graph.source.dst)
        both = pa.chunked_array([*ends[0].chunks, *ends[1].chunks]).combine_chunks()
        found = dictionary.look_up(ids, both, lambda bucket: read_batch(graph.work, f"ids/{bucket:06d}", 0))
        src, dst = found[: len(table)], found[len(table) :]
        extra = np.zeros((len(table), 0), np.float32)
        if names := graph.source.edge_columns[2:]:
            extra, faulty = _extra(table, names, edge_dim)
            bad = bad | faulty
        unknown = bad | (src == UNKNOWN) | (dst == UNKNOWN)
        rejected = ~unknown & ((src == REJECTED) | (dst == REJECTED))
        missing["missing"] += int(unknown.sum())
        missing["rejected"] += int(rejected.sum())
        for row in np.flatnonzero(unknown)[: _NAMED - len(examples)].tolist():
            ends_of = " -> ".join(str(column[row].as_py()) for column in ends)
            examples.append(f"{ends_of} ({origins.name(row)})")
        fine = ~unknown & ~rejected
        chunk = partition.sort_chunk(
            src[fine], dst[fine], extra[fine], ids.nodes, undirected=graph.source.undirected
        )
        for part in ("dst", "src", "extra", "tiles"):
            graph.keep(f"{name}-{chunks:04d}.{part}", getattr(chunk, part))
        tiles += np.diff(chunk.tiles)
        chunks, edges = chunks + 1, edges + len(chunk.dst)
    graph.keep(f"{name}.tiles", tiles)
    return graph.note(name, {"chunks": chunks, "edges": edges, "examples": examples, **missing})


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


def _edge_tables(graph: GraphJob, span: Span) -> Iterator[tuple[_Origins, pa.Table, npt.NDArray[np.bool_]]]:
    """Stream a span of the edge table in tables of about `EDGES_PER_CHUNK`, with the file and row of each edge, and which are broken."""
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
                    yield _joined(held)
                    held, rows = [], 0
        except DECODING_FAULTS as error:
            if is_transport(error):
                raise storage_error("read", place.path, error) from error
            raise SourceError(
                f"{piece.source}: the edge table can't be read on: {type(error).__name__}: {error}; mend "
                "or remove the file"
            ) from error
    if held:
        yield _joined(held)


@dataclass(frozen=True)
class _Origins:
    """Where the rows of a table come from: runs of (file, row in it of each)."""

    runs: list[tuple[str, Ints]]

    def name(self, row: int) -> str:
        """Name the file and the row in it."""
        for source, positions in self.runs:
            if row < len(positions):
                return f"{source}, row {positions[row]}"
            row -= len(positions)
        raise IndexError(row)


def _joined(held: list[tuple[str, Records]]) -> tuple[_Origins, pa.Table, npt.NDArray[np.bool_]]:
    table = pa.concat_tables([records.table for _, records in held])
    bad = np.concatenate([records.faults.column(REASON).is_valid().to_numpy() for _, records in held])
    return _Origins([(name, records.positions) for name, records in held]), table, bad
