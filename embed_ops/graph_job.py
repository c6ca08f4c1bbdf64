"""What a graph's workers do: one span of nodes or edges, one bucket of ids, one partition. Plain functions, tested without Ray.

    read_nodes   a span of the node table -> features, ids, and the units as they will be written
    build_ids    a bucket of ids out of all spans -> a part of the dictionary
    read_edges   a span of the edge table -> sorted chunks of places
    build        a partition's slices of all chunks -> its CSR and halo
    need         a partition's rows that a later layer needs -> those that the layer before must have
    begin        features -> the states that layer 1 reads
    pack         a partition -> what it sends to others
    aggregate    what others sent -> the partition's states of the next layer
    write_units  states -> the data files of a span

Everything is kept below `work/graph/`; what is kept is not computed again when a command is repeated.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.graph import X
from embed_ops.errors import SourceError
from embed_ops.faults import is_transport, storage_error
from embed_ops.filesystem import Location, publish, read_bytes, walk
from embed_ops.graph import ids as dictionary
from embed_ops.graph import partition
from embed_ops.graph.arrays import read_array, read_batch, write_array, write_batches
from embed_ops.graph.ids import REJECTED, UNKNOWN, Ids
from embed_ops.graph.partition import TILE, Csr, Ints
from embed_ops.job import Job, Work, place_of
from embed_ops.message import message, read_meta, unpack
from embed_ops.message import pack as packed
from embed_ops.plan import Span
from embed_ops.registry import make_source
from embed_ops.schema import CONTENT, INPUT, MESSAGE, REASON, Reason
from embed_ops.sinks.parquet import vector_column
from embed_ops.source_spec import SourceSpec
from embed_ops.sources.base import DECODING_FAULTS, Records
from embed_ops.sources.graph import vectors
from embed_ops.steps import parts_of, peak_memory, prepare_unit, units_of, write_unit

if TYPE_CHECKING:
    from embed_ops.graph.model import GraphModel

WORK = "work/graph"
FINAL = 999
"""Instead of a layer: what the model makes of all layers."""
EDGES_PER_CHUNK = 4_000_000
_PLACE = "_place"
"""Column of a row's number in its unit, while the unit is read."""
_LEAST_NORM = 1e-12
_NAMED = 10
"""Edges to nodes that are not there, of which a message tells."""


@dataclass(frozen=True)
class GraphJob:
    """Everything that a worker needs.

    Attributes:
        job: the run, as for every family.
        edges: the section of the edge table.
        columns: its columns.
        roots: of the edge table.
    """

    job: Job
    edges: SourceSpec
    columns: pa.Schema
    roots: tuple[Location, ...]

    @property
    def source(self) -> SourceSpec:
        """The section of the node table."""
        return self.job.spec.source

    @property
    def work(self) -> Location:
        """Where everything is kept until the run is finished."""
        return self.job.run.child(WORK)

    def keep(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write an array."""
        write_array(self.job.run, f"{WORK}/{name}", array, self.job.attempt)

    def kept(self, name: str, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """Read rows of an array."""
        return read_array(self.work, name, first, last)

    def note(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Write what a task has found, when all else that it writes is there; gives it back."""
        publish(self.job.run, f"{WORK}/{name}.json", json.dumps(values).encode(), self.job.attempt)
        return values | {"memory": private_memory()}

    def noted(self, name: str) -> dict[str, Any] | None:
        """Read a note, None where the task has not ended yet."""
        content = read_bytes(self.work.child(f"{name}.json"))
        return None if content is None else json.loads(content)


def private_memory() -> int:
    """Measure the most bytes this process has held, without those that it shares with the object store now."""
    shared = 0
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        shared = next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem:")), 0)
    return max(0, peak_memory() - shared)


def read_nodes(graph: GraphJob, span: Span, buckets: int) -> dict[str, Any]:
    """Read a span of the node table: features, ids by bucket, and a message for each unit, without its vectors."""
    messages: list[pa.RecordBatch] = []
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
        prepared = prepare_unit(numbered, encoder, work)
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
        messages.append(kept.combine_chunks().to_batches()[0])
        units.append({"unit": unit.name, "first": rows, "rows": count, "filtered": filtered})
        rows += count
    name = f"nodes/{span.index:06d}"
    whole = pa.concat_arrays(ids)
    write_batches(graph.job.run, f"{WORK}/{name}.units", messages, graph.job.attempt)
    write_batches(graph.job.run, f"{WORK}/{name}.ids", dictionary.split(whole, np.concatenate(places), buckets), graph.job.attempt)
    graph.keep(f"{name}.x", np.concatenate(features))
    graph.keep(f"{name}.chosen", np.concatenate(chosen))
    first = _first_of_consecutive(whole, np.concatenate(places))
    return graph.note(name, {"rows": rows, "units": units, "consecutive": first, "all": bool(np.concatenate(chosen).all())})


def _first_of_consecutive(ids: pa.Array, places: Ints) -> int | None:
    """Give the first id if they are integers that count up by one and no row is a reject, else None."""
    if not pa.types.is_int64(ids.type) or ids.null_count or (places < 0).any() or not len(ids):
        return None
    values = ids.to_numpy()
    return int(values[0]) if (np.diff(values) == 1).all() else None


def _features(prepared: pa.Table) -> npt.NDArray[np.float32]:
    """Give the features of the rows that are fine, (rows, width)."""
    column = unpack(prepared, "inputs").column(X).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values: npt.NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return values


def _placed(prepared: pa.Table, asked: npt.NDArray[np.bool_]) -> tuple[pa.Table, Ints, int]:
    """Keep the rows that get a vector; gives the unit's message, the places in the unit that are fine, and how many are left out."""
    meta, rows, rejects = read_meta(prepared), unpack(prepared, "rows"), unpack(prepared, "rejects")
    places = rows.column(_PLACE).to_numpy()
    wanted = asked[places]
    rows = rows.drop_columns([_PLACE, INPUT]).append_column(INPUT, rows.column(_PLACE).cast(pa.int32()))
    # A broken record is a reject whatever `where` says: nobody can tell.
    refused = asked[rejects.column(_PLACE).to_numpy()]
    filtered = int((~wanted).sum() + (~refused).sum())
    meta["filtered"] += filtered
    rejects = rejects.filter(pa.array(refused)).drop_columns([_PLACE])
    kept = message(meta, rows=packed(rows.filter(pa.array(wanted))), rejects=packed(rejects))
    return kept, places, filtered


def build_ids(graph: GraphJob, bucket: int, spans: Sequence[int], offsets: Sequence[int]) -> dict[str, Any]:
    """Make one bucket of the dictionary."""
    batches = [read_batch(graph.work, f"nodes/{span:06d}.ids", bucket) for span in spans]
    table, again = dictionary.join(batches, list(offsets))
    write_batches(graph.job.run, f"{WORK}/ids/{bucket:06d}", [table], graph.job.attempt)
    graph.keep(f"ids/{bucket:06d}.again", again)
    return graph.note(f"ids/{bucket:06d}", {"again": len(again)})


def read_edges(graph: GraphJob, span: Span, ids: Ids, edge_dim: int) -> dict[str, Any]:
    """Read a span of the edge table to sorted chunks of places; a column of vectors has `edge_dim` numbers an edge."""
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
        chunk = partition.sort_chunk(src[fine], dst[fine], extra[fine], ids.nodes, undirected=graph.source.undirected)
        for part in ("dst", "src", "extra", "tiles"):
            graph.keep(f"{name}-{chunks:04d}.{part}", getattr(chunk, part))
        tiles += np.diff(chunk.tiles)
        chunks, edges = chunks + 1, edges + len(chunk.dst)
    graph.keep(f"{name}.tiles", tiles)
    return graph.note(name, {"chunks": chunks, "edges": edges, "examples": examples, **missing})


def _extra(table: pa.Table, names: tuple[str, ...], width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Give weight and features of edges, (edges, columns), and which of them lack one; a column of vectors has `width` numbers."""
    columns, null = [], np.zeros(len(table), np.bool_)
    for name in names:
        part = vectors(table, (name,))
        wanted = width if pa.types.is_list(table.schema.field(name).type) else 1
        fits = pc.fill_null(pc.equal(pc.list_value_length(part), wanted), False).to_numpy(zero_copy_only=False)
        values = np.zeros((len(part), wanted), np.float32)
        values[fits] = part.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False).reshape(-1, wanted)
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
                f"{piece.source}: the edge table can't be read on: {type(error).__name__}: {error}; mend or remove the file"
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


@dataclass(frozen=True)
class Part:
    """One partition: its number, its places `first` to `last`, and the boundaries of all."""

    number: int
    bounds: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first place."""
        return self.bounds[self.number]

    @property
    def last(self) -> int:
        """The place behind the last one."""
        return self.bounds[self.number + 1]

    @property
    def rows(self) -> int:
        """How many places."""
        return self.last - self.first


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
    csr = partition.build(slices, part.first, part.last, drop_loops=drop_loops, fanout=graph.source.fanout, seed=seed)
    name = f"csr/{part.number:06d}"
    _keep_csr(graph, name, csr)
    degrees = np.diff(csr.indptr)
    found = {"edges": len(csr.col), "largest": int(degrees.max(initial=0)), "sends": _sends(csr.halo, part.bounds)}
    return graph.note(name, found)


def _sends(halo: Ints, bounds: Sequence[int]) -> list[int]:
    """Find where each partition's places begin in a halo, (partitions + 1,)."""
    found: list[int] = np.searchsorted(halo, np.array(bounds)).tolist()
    return found


_CSR = tuple(field.name for field in fields(Csr))


def _keep_csr(graph: GraphJob, name: str, csr: Csr) -> None:
    for field in _CSR:
        graph.keep(f"{name}.{field}", getattr(csr, field))


def _csr(graph: GraphJob, name: str) -> Csr:
    return Csr(*(graph.kept(f"{name}.{field}") for field in _CSR))


def need(graph: GraphJob, part: Part, layer: int, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Keep the in-edges of those rows of a partition whose states of a layer are needed."""
    csr = partition.restrict(_csr(graph, f"csr/{part.number:06d}"), rows)
    name = f"need-{layer:03d}/{part.number:06d}"
    _keep_csr(graph, name, csr)
    graph.keep(f"{name}.rows", rows)
    return graph.note(name, {"edges": len(csr.col), "sends": _sends(csr.halo, part.bounds), "rows": int(rows.sum())})


_MODELS: dict[str, GraphModel] = {}


def model_path(graph: GraphJob) -> Path:
    """Give the model's folder on this machine, its weights fetched."""
    encoder: Any = parts_of(graph.job).encoder
    path: Path = encoder.fetched()
    return path


def model_of(graph: GraphJob) -> GraphModel:
    """Load the model once per process."""
    if graph.job.attempt not in _MODELS:
        from embed_ops.encoders.device import use_threads
        from embed_ops.graph.weights import load_graph_model

        use_threads(1)
        _MODELS.clear()
        _MODELS[graph.job.attempt] = load_graph_model(model_path(graph), graph.job.resolved.dtype)
    return _MODELS[graph.job.attempt]


def states_name(layer: int, number: int) -> str:
    """Name the states of a partition; layer 0: the features; `FINAL`: what the model gives."""
    return f"layer-{layer:03d}/{number:06d}"


def begin(graph: GraphJob, part: Part, spans: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Gather the features of a partition's nodes out of spans: (index, places before it, rows) each."""
    pieces = [
        graph.kept(f"nodes/{index:06d}.x", max(0, part.first - offset), min(rows, part.last - offset))
        for index, offset, rows in spans
        if offset < part.last and part.first < offset + rows
    ]
    none = np.zeros((0, model_of(graph).in_width), np.float32)
    return _keep_states(graph, part, 0, np.concatenate([none, *pieces]).astype(graph.job.resolved.dtype), {})


def _keep_states(graph: GraphJob, part: Part, layer: int, states: npt.NDArray[Any], found: dict[str, Any]) -> dict[str, Any]:
    """Keep a layer's states, and what they send in the next one where that is something else."""
    from embed_ops.graph.tiles import messages

    model, name = model_of(graph), states_name(layer, part.number)
    if layer < model.depth and not model.sends_input(layer + 1):
        degree = _degree(graph, part) if model.needs_degree else None
        graph.keep(f"{name}.message", messages(model, layer + 1, states, degree))
    graph.keep(f"{name}.states", states)
    return graph.note(name, found)


def _degree(graph: GraphJob, part: Part) -> npt.NDArray[Any]:
    """Add up the weights of each node's in-edges, the loop that the model adds included: (rows,)."""
    csr = _csr(graph, f"csr/{part.number:06d}")
    weights = csr.extra[:, 0].astype(np.float64) if graph.source.weight else np.ones(len(csr.col))
    degree: npt.NDArray[Any] = np.bincount(np.repeat(np.arange(part.rows), np.diff(csr.indptr)), weights, minlength=part.rows)
    if model_of(graph).drops_loops:
        loops = np.nan_to_num(csr.loop[:, 0], nan=model_of(graph).loop_weight) if graph.source.weight else np.ones(part.rows)
        degree = degree + loops
    return degree.astype(graph.job.resolved.dtype)


def pack(graph: GraphJob, sender: Part, name: str, receivers: Sequence[tuple[str, int, int]]) -> list[npt.NDArray[Any]] | npt.NDArray[Any]:
    """Give what a partition sends to others: rows of `name`, chosen by the rows `first` to `last` of each receiver's halo."""
    sent = graph.kept(name)
    found = [sent[graph.kept(f"{halo}.halo", first, last) - sender.first] for halo, first, last in receivers]
    return found[0] if len(found) == 1 else found


def aggregate(graph: GraphJob, part: Part, layer: int, csr_name: str, *received: npt.NDArray[Any]) -> dict[str, Any]:
    """Compute a partition's states of a layer from what all partitions sent, in their order."""
    from embed_ops.graph import tiles

    started = time.perf_counter()
    model, before = model_of(graph), states_name(layer - 1, part.number)
    csr = _csr(graph, csr_name)
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
    return _keep_states(graph, part, layer, found, {"received": size, "edges": len(csr.col), "seconds": time.perf_counter() - started})


def write_units(
    graph: GraphJob, span: int, offset: int, units: Sequence[tuple[int, int, int]], bounds: tuple[int, ...], layers: dict[str, int]
) -> list[str]:
    """Write units of a span: (number in the span, first row in it, rows) each; gives their records, as JSON.

    Args:
        graph: the job.
        span: its index.
        offset: places before it.
        units: what to write.
        bounds: of the partitions.
        layers: the layer of each output, `FINAL` for what the model gives.
    """
    again = _again(graph)
    return [
        write_unit(_unit_message(graph, span, number, (offset + first, offset + first + rows), bounds, layers, again), graph.job)
        .column("record")[0]
        .as_py()
        for number, first, rows in units
    ]


def _again(graph: GraphJob) -> Ints:
    """Read the places of rows whose id an earlier row has."""
    names = sorted(name for name, _ in walk(graph.work, "ids") if name.endswith(".again.npy"))
    found = [graph.kept(f"ids/{name.removesuffix('.npy')}") for name in names]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _unit_message(
    graph: GraphJob, span: int, number: int, places: tuple[int, int], bounds: tuple[int, ...], layers: dict[str, int], again: Ints
) -> pa.Table:
    """Make the message of a unit as a replica would have sent it."""
    started = time.time()
    held = pa.Table.from_batches([read_batch(graph.work, f"nodes/{span:06d}.units", number)])
    meta, rows = read_meta(held), unpack(held, "rows")
    local = rows.column(INPUT).to_numpy()
    twice = np.isin(local + places[0], again)
    kept = rows.filter(pa.array(~twice))
    kept = kept.set_column(kept.schema.get_field_index(INPUT), INPUT, pa.array(np.arange(len(kept), dtype=np.int32)))
    encoder: Any = parts_of(graph.job).encoder
    columns = {}
    for column in encoder.outputs():
        found = _states_of(graph, layers[column], places, bounds, encoder.dim(column))[local[~twice]]
        if encoder.column(column).normalize:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _LEAST_NORM)
        columns[column] = vector_column(found.astype(np.float32), "float32")
    refused = rows.filter(pa.array(twice)).drop_columns([INPUT])
    values = {REASON: Reason.DUPLICATE, MESSAGE: "an earlier row has the same node id"}
    rejects = unpack(held, "rejects")
    for name, value in values.items():
        refused = refused.append_column(name, pa.array([str(value)] * len(refused), pa.string()))
    rejects = pa.concat_tables([rejects, refused.select(rejects.schema.names).cast(rejects.schema)])
    zero = dict.fromkeys(("idle_input", "idle_output", "forward", "tokens", "positions", "flops", "gemm"), 0)
    meta |= zero | {"flags": [], "refused": {}, "replica": "", "inputs": len(kept), "replica_memory": private_memory(), "started": started}
    return message(meta, rows=packed(kept), vectors=packed(pa.table(columns)), rejects=packed(rejects))


def _states_of(graph: GraphJob, layer: int, places: tuple[int, int], bounds: tuple[int, ...], dim: int) -> npt.NDArray[Any]:
    """Read the states of places `first` to `last` out of the partitions that have them."""
    first, last = places
    found = [np.zeros((0, dim), graph.job.resolved.dtype)]
    for number in range(len(bounds) - 1):
        low, high = max(first, bounds[number]), min(last, bounds[number + 1])
        if low < high:
            found.append(graph.kept(f"{states_name(layer, number)}.states", low - bounds[number], high - bounds[number]))
    return np.concatenate(found)
