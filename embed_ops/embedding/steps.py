"""The three steps of the job, each on one unit: read and prepare, embed, write.

Plain functions, tested without Ray.

A unit travels between them as a message (`message.py`), and so does an error.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embed_ops import __version__
from embed_ops.embedding.forward import Batch, Embedded, Room, embed_inputs
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import failure, message, pack, read_meta, unpack
from embed_ops.embedding.retry import in_source_order, merge, merged_before
from embed_ops.embedding.storing import chosen_words, store, stored_type
from embed_ops.encoders.base import Encoder, gather
from embed_ops.encoders.registry import make_encoder
from embed_ops.encoders.windows.parts import DOCUMENT
from embed_ops.engine.memory import peak_memory
from embed_ops.errors import StorageError
from embed_ops.numerics.kinds import Vectors, kind_in_memory
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import read_vectors
from embed_ops.runs.record import HALVED, REJECTS, Record
from embed_ops.runs.recovery import recover
from embed_ops.runs.statistics import dump, statistics_of
from embed_ops.runs.work import Again, Work
from embed_ops.schema import CONTENT, FILE_LEVEL, GRAPH, INPUT, MESSAGE, REASON, ROW, SOURCE, Reason
from embed_ops.sources.base import Source
from embed_ops.sources.plan import Limits, unit_limits
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, Unit, read_units
from embed_ops.storage.files import remove

_UNBOUNDED = Limits(1 << 62, 1 << 62)
_WHY = {
    Reason.TOO_LARGE: "the forward pass runs out of memory on this row alone; a smaller encoder.max_tokens would cut it",
    Reason.NON_FINITE: "the model's vector holds NaN or infinity",
    Reason.CRASHED: "the process that embeds this row dies, each time",
    Reason.HUNG: "embedding this row does not end; with a slow device a larger resources.hang_seconds may help",
}
"""Why a row that was prepared has no vector, in a sentence."""


def never() -> bool:
    """Stand for a job that nobody asked to stop."""
    return False


@dataclass(frozen=True)
class _Parts:
    source: Source
    rows: Rows
    encoder: Encoder


_PARTS: dict[str, _Parts] = {}


def parts_of(job: Job) -> _Parts:
    """Build source, rows and encoder once per process: tokenizers are slow to load."""
    if job.attempt not in _PARTS:
        # Readers share the machine with replicas: a tokenizer on every core would take theirs.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _PARTS.clear()
        spec = job.spec
        _PARTS[job.attempt] = _Parts(
            make_source(spec.source),
            Rows(spec.source, job.columns, whole=spec.source.kind == GRAPH),
            make_encoder(job.encoder),
        )
    return _PARTS[job.attempt]


def read_and_prepare(
    received: pa.Table, job: Job, stopping: Callable[[], bool] = never
) -> Iterator[pa.Table]:
    """Turn one `Work` into its missing units, one at a time, prepared for the replica.

    Begins none once it is `stopping`.
    """
    unit_name: str | None = None
    try:
        work = Work.load(received.column("work")[0].as_py())
        unit_name = work.span.first_unit
        units = units_of(job, work)
        while not (job.late() or stopping()) and (unit := next(units, None)) is not None:
            unit_name = unit.name
            yield prepare_unit(unit, parts_of(job).encoder, work)
    except Exception as error:
        yield message(failure(error, unit_name))


def units_of(job: Job, work: Work) -> Iterator[Unit]:
    """Read the units that a work lacks; on retry the rows that are asked for."""
    parts = parts_of(job)
    places = {piece.source: job.place(piece.source) for piece in work.span.pieces}
    cursor = Cursor(parts.source, parts.rows, places, work.span)
    limits = unit_limits(job.spec)
    limits = replace(limits, rows=parts.encoder.most_rows(job.spec.source.modality, limits.rows))
    for unit in read_units(cursor, work.done, limits if work.retry is None else _UNBOUNDED):
        yield unit if work.retry is None else replace(unit, table=_only(unit.table, work.retry))


def prepare_unit(unit: Unit, encoder: Encoder, work: Work) -> pa.Table:
    """Tokenize a unit: the message for a replica."""
    started, table = time.perf_counter(), unit.table
    fine = table.filter(pc.is_null(table.column(REASON)))
    prepared = encoder.prepare(fine.column(CONTENT).combine_chunks())
    used = prepared.index >= 0
    reasons: list[str | None] = [None] * len(fine)
    messages: list[str | None] = [None] * len(fine)
    for rejected in prepared.rejects:
        reasons[rejected.row], messages[rejected.row] = rejected.reason, rejected.message
    refused = fine.set_column(fine.schema.get_field_index(REASON), REASON, pa.array(reasons, pa.string()))
    refused = refused.set_column(
        fine.schema.get_field_index(MESSAGE), MESSAGE, pa.array(messages, pa.string())
    )
    rejects = pa.concat_tables(
        [table.filter(pc.is_valid(table.column(REASON))), refused.filter(pa.array(~used))]
    )
    rows = fine.drop_columns([CONTENT, REASON, MESSAGE]).filter(pa.array(used))
    rows = rows.append_column(INPUT, pa.array(prepared.index[used]))
    if prepared.beside is not None:
        for name, column in zip(
            prepared.beside.column_names,
            prepared.beside.take(pa.array(prepared.index[used])).columns,
            strict=True,
        ):
            rows = rows.append_column(name, column)
    meta = {
        "documents": prepared.documents,
        "unit": unit.name,
        "ranges": [asdict(part) for part in unit.ranges],
        "next_source": unit.end.source,
        "next_position": unit.end.position,
        "filtered": unit.filtered,
        "truncated": int(prepared.truncated[prepared.index[used]].sum()),
        "unknown": 0 if prepared.unknown is None else int(prepared.unknown[prepared.index[used]].sum()),
        "retry": work.retry is not None,
        "replaces": work.replaces,
        "read": unit.read_seconds,
        "prepare": time.perf_counter() - started,
        "prepared_at": time.time(),
        "reader_memory": peak_memory(),
    }
    return message(
        meta, rows=pack(rows), inputs=pack(prepared.inputs), rejects=pack(rejects.drop_columns([CONTENT]))
    )


def _only(table: pa.Table, again: Mapping[str, Again]) -> pa.Table:
    """Keep the rows that are to be read again.

    Raises:
        StorageError: not all of them can be reached: the file reads worse than it did.
    """
    places = list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True))
    keep = [again.get(source, Again()).has(row) for source, row in places]
    missing = {(source, row) for source, rows in again.items() for row in rows.rows} - set(places)
    if missing:
        source, row = min(missing)
        raise StorageError(
            f"{source}: row {row} can't be reached, though it was read before; restore the file and run "
            "`retry` again"
        )
    return table.filter(pa.array(keep, pa.bool_()))


class Replica:
    """One loaded copy of the model: embeds one unit at a time."""

    def __init__(self, job: Job) -> None:
        """Load the model on this process's share of the machine, and measure what that share can do."""
        from embed_ops.encoders.device import gemm_flops_per_second, use_threads

        self.job = job
        use_threads(job.resolved.threads_per_replica)
        self.encoder = make_encoder(job.encoder)
        self.encoder.load(job.resolved.device, job.resolved.dtype, compiled=job.resolved.compile)
        self._gemm = gemm_flops_per_second(job.resolved.device, job.resolved.dtype)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._room = Room()
        self._free_since: float | None = None

    def __call__(self, received: pa.Table) -> pa.Table:
        """Embed a prepared unit."""
        meta = read_meta(received)
        if "error" in meta or "skipped" in meta:
            return received
        try:
            return self._embed(received, meta)
        except (Exception, SystemExit) as error:
            # The engine never replaces an actor that left by SystemExit.
            return message(failure(error, meta["unit"]))

    def compute(self, inputs: pa.Table) -> Embedded:
        """Put the inputs through the model; `before_batch` is called before each batch."""
        return embed_inputs(
            self.encoder, inputs, self.job.resolved.token_budget, self._room, self.before_batch
        )

    def before_batch(self, batch: Batch) -> None:
        """Do nothing: for replicas that are watched."""

    def _embed(self, received: pa.Table, meta: dict[str, Any]) -> pa.Table:
        started, clock = time.time(), time.perf_counter()
        idle = 0.0 if self._free_since is None else started - self._free_since
        # A unit that was ready before this replica was free did not keep it waiting: what came
        # behind did.
        waited = min(idle, max(0.0, meta["prepared_at"] - (self._free_since or started)))
        inputs = unpack(received, "inputs")
        embedded = self.compute(inputs)
        meta |= {
            "idle_input": waited,
            "idle_output": idle - waited,
            "inputs": len(inputs),
            "tokens": int(embedded.lengths.sum()),
            "positions": embedded.positions,
            "flops": self.encoder.flops(embedded.lengths),
            "flags": [HALVED] if embedded.halved else [],
            "refused": _by_document(inputs, embedded.refused),
            "replica": self.name,
            "gemm": self._gemm,
            "replica_memory": peak_memory(),
            "started": started,
            "forward": time.perf_counter() - clock,
        }
        vectors = gather(self.encoder, inputs, embedded.vectors, meta["documents"])
        table = pa.table({name: _column(values, "float32") for name, values in vectors.items()})
        self._free_since = time.time()
        changed = {
            "meta": pa.array([json.dumps(meta)]),
            "vectors": pa.array([pack(table)], pa.large_binary()),
        }
        changed["inputs"] = pa.nulls(1, pa.large_binary())
        return pa.table({name: changed.get(name, received.column(name)) for name in received.schema.names})


def _column(vectors: Vectors, dtype: str) -> pa.Array:
    return kind_in_memory(vectors).column(vectors, dtype)


def _by_document(inputs: pa.Table, refused: Mapping[int, Reason]) -> dict[int, Reason]:
    """Say which distinct texts lack a vector, where inputs are their windows."""
    if DOCUMENT not in inputs.schema.names:
        return dict(refused)
    of_window = inputs.column(DOCUMENT).to_pylist()
    return {of_window[place]: reason for place, reason in refused.items()}


def write_unit(received: pa.Table, job: Job) -> pa.Table:
    """Write an embedded unit and give its record, as JSON in `record`."""
    meta = read_meta(received)
    if "error" not in meta and "skipped" not in meta:
        try:
            meta = _write(received, meta, job)
        except Exception as error:
            meta = failure(error, meta["unit"])
    return pa.table({"record": [json.dumps(meta)]})


def _write(received: pa.Table, meta: dict[str, Any], job: Job) -> dict[str, Any]:
    clock = time.perf_counter()
    rows, rejects = unpack(received, "rows"), unpack(received, "rejects")
    index = rows.column(INPUT).to_numpy()
    table = unpack(received, "vectors")
    by_document, fine = store(
        job.spec, {name: read_vectors(table.column(name)) for name in table.schema.names}, job.fingerprint
    )
    stored = {name: kind_in_memory(vectors).take(vectors, index) for name, vectors in by_document.items()}
    finite, data = fine[index], rows.drop_columns([INPUT])
    if not finite.all():
        why = [
            Reason(meta["refused"].get(str(place), Reason.NON_FINITE)) for place in index[~finite].tolist()
        ]
        rejects = pa.concat_tables(
            [rejects, _without_vector(data.filter(pa.array(~finite)), why, rejects.schema)]
        )
        data = data.filter(pa.array(finite))
        stored = {name: kind_in_memory(vectors).take(vectors, finite) for name, vectors in stored.items()}
    data, stored = chosen_words(job.spec.encoder, data, stored)
    for name, values in stored.items():
        data = data.append_column(name, _column(values, stored_type(job.spec, name)))
    meta["statistics"] = dump(statistics_of(data))
    run = RunDir(job.run)
    if meta["retry"]:
        found = (
            recover(run.root, meta["unit"], job.fingerprint, job.attempt)
            if merged_before(run, meta)
            else None
        )
        if found is not None:
            return _result(job, meta, replace(found.record, flags=("retried",)), clock)
        if len(data) == 0:
            return {"unit": meta["unit"], "unchanged": True}
        data, rejects, meta = merge(run, data, rejects, meta)
    rejects = in_source_order(rejects, meta["ranges"])
    of_files = sum(reason in FILE_LEVEL for reason in rejects.column(REASON).to_pylist())
    counts = {
        "rows": len(data),
        "rejects": len(rejects) - of_files,
        "file_rejects": of_files,
        "bytes": 0,
        "sha256": "",
    }
    record = Record.parse(meta | counts | {"attempt": job.attempt})
    return _result(job, meta, run.write_unit(record, data, rejects, job.fingerprint, __version__), clock)


def _result(job: Job, meta: dict[str, Any], record: Record, clock: float) -> dict[str, Any]:
    """Make what the driver gets.

    A reject file that was replaced goes, now that no data file names it.
    """
    if meta["replaces"] is not None and meta["replaces"] != record.reject_file:
        remove(job.run.child(f"{REJECTS}/{meta['replaces']}"))
    seconds = {
        name: meta[name] for name in ("read", "prepare", "forward", "started", "idle_input", "idle_output")
    }
    seconds |= {"write": time.perf_counter() - clock, "finished": time.time()}
    extra = {
        "replica": meta["replica"],
        "gemm": meta["gemm"],
        "statistics": meta["statistics"],
        "memory": {"reader": meta["reader_memory"], "replica": meta["replica_memory"]},
    }
    extra["memory"]["writer"] = peak_memory()
    return {**asdict(record), **extra, "seconds": seconds}


def _without_vector(rows: pa.Table, why: Sequence[Reason], schema: pa.Schema) -> pa.Table:
    """Make rejects of rows that were prepared and have no vector."""
    columns = {name: rows.column(name) for name in rows.schema.names if name in schema.names}
    columns[REASON] = pa.array([str(reason) for reason in why], pa.string())
    columns[MESSAGE] = pa.array([_WHY[reason] for reason in why], pa.string())
    return pa.table({name: columns[name] for name in schema.names}, schema)
