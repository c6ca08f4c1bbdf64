"""The three steps of the job, each on one unit: read and prepare, embed, write.

    read_and_prepare   Work -> PreparedUnit, one for each of its missing units
    Replica.embed      PreparedUnit -> EmbeddedUnit, in `replica.py`
    write_unit         EmbeddedUnit -> Outcome: its record, or why there is none

Plain functions of dataclasses (`unit.py`), tested without Ray. An error becomes a `Failure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from embed_ops import __version__
from embed_ops.embedding.job import Job
from embed_ops.embedding.parts import parts_of
from embed_ops.embedding.prompting import with_prompts
from embed_ops.embedding.retry import in_source_order, merge, merged_before, rows_again
from embed_ops.embedding.storing import store_rows
from embed_ops.embedding.unit import (
    EmbeddedUnit,
    Failure,
    Outcome,
    PreparedUnit,
    Unchanged,
    UnitHead,
    Written,
)
from embed_ops.encoders.base import Encoder, Prepared
from embed_ops.engine.memory import peak_memory
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import HALVED, REJECTS, RETRIED, Record
from embed_ops.runs.recovery import recover
from embed_ops.runs.statistics import dump, statistics_of
from embed_ops.runs.work import Work
from embed_ops.schema import CONTENT, FILE_LEVEL, INPUT, MESSAGE, REASON
from embed_ops.sources.plan import Limits, unit_limits
from embed_ops.sources.units import Cursor, Unit, read_units
from embed_ops.storage.files import remove

_UNBOUNDED = Limits(1 << 62, 1 << 62)


def never() -> bool:
    """Stand for a job that nobody asked to stop."""
    return False


def read_and_prepare(
    job: Job, work: Work, stopping: Callable[[], bool] = never, every: int = 1, first: int = 0
) -> Iterator[PreparedUnit | Failure]:
    """Turn a work into its missing units, one at a time, prepared for a replica.

    Args:
        job: what to do.
        work: what to read.
        stopping: no unit is begun once it says so.
        every: of so many units in a row one is prepared; others share the work.
        first: which of them.
    """
    unit_name = work.span.first_unit
    try:
        units = enumerate(units_of(job, work))
        while not (job.late() or stopping()) and (following := next(units, None)) is not None:
            number, unit = following
            unit_name = unit.name
            if number % every == first:
                yield prepare_unit(unit, parts_of(job).encoder, work.replaces)
    except Exception as error:
        yield Failure.of(error, unit_name)


def units_of(job: Job, work: Work) -> Iterator[Unit]:
    """Read the units that a work lacks; on retry the rows that are asked for."""
    parts = parts_of(job)
    places = {piece.source: job.place(piece.source) for piece in work.span.pieces}
    cursor = Cursor(parts.source, parts.rows, places, work.span)
    limits = unit_limits(job.spec)
    limits = replace(limits, rows=parts.encoder.most_rows(job.spec.source.modality, limits.rows))
    for unit in read_units(cursor, work.done, limits if work.retry is None else _UNBOUNDED):
        table = unit.table if work.retry is None else rows_again(unit.table, work.retry)
        yield replace(unit, table=with_prompts(table, job.spec.encoder))


def prepare_unit(unit: Unit, encoder: Encoder, replaces: str | None = None) -> PreparedUnit:
    """Tokenize or decode a unit.

    Args:
        unit: as read.
        encoder: needs no weights.
        replaces: on retry, the reject file whose rows the unit holds.
    """
    started, table = time.perf_counter(), unit.table
    readable = table.filter(pc.is_null(table.column(REASON)))
    prepared = encoder.prepare(readable.column(CONTENT).combine_chunks())
    used = prepared.index >= 0
    index = prepared.index[used]  # (rows with an input,)
    unreadable = table.filter(pc.is_valid(table.column(REASON)))
    refused = _with_reasons(readable, prepared).filter(pa.array(~used))
    rows = readable.drop_columns([CONTENT, REASON, MESSAGE]).filter(pa.array(used))
    rows = rows.append_column(INPUT, pa.array(index))
    if prepared.beside is not None:
        beside = prepared.beside.take(pa.array(index))
        for name, column in zip(beside.column_names, beside.columns, strict=True):
            rows = rows.append_column(name, column)
    head = UnitHead(
        name=unit.name,
        ranges=unit.ranges,
        end=unit.end,
        filtered=unit.filtered,
        truncated=int(prepared.truncated[index].sum()),
        unknown=0 if prepared.unknown is None else int(prepared.unknown[index].sum()),
        replaces=replaces,
        read_seconds=unit.read_seconds,
        prepare_seconds=time.perf_counter() - started,
        ready=time.time(),
        reader_memory=peak_memory(),
    )
    rejects = pa.concat_tables([unreadable, refused]).drop_columns([CONTENT])
    # Chunks as a stream gives them: the bytes must not tell which way the unit came.
    rows = pa.Table.from_batches(rows.to_batches(), rows.schema)
    return PreparedUnit(head, prepared.documents, rows, prepared.inputs, rejects)


def _with_reasons(rows: pa.Table, prepared: Prepared) -> pa.Table:
    """Say of each row that the encoder refuses why."""
    reasons: list[str | None] = [None] * len(rows)
    messages: list[str | None] = [None] * len(rows)
    for rejected in prepared.rejects:
        reasons[rejected.row], messages[rejected.row] = rejected.reason, rejected.message
    for name, values in ((REASON, reasons), (MESSAGE, messages)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return rows


def write_unit(unit: EmbeddedUnit, job: Job) -> Outcome:
    """Write an embedded unit: its rejects, then its data file."""
    try:
        return _write(unit, job)
    except Exception as error:
        return Failure.of(error, unit.head.name)


def _write(unit: EmbeddedUnit, job: Job) -> Outcome:
    clock, head, run = time.perf_counter(), unit.head, RunDir(job.run)
    data, rejects = store_rows(unit, job.spec, job.fingerprint)
    statistics = dump(statistics_of(data))
    record = _record(unit, job.attempt)
    if head.replaces is not None:
        if merged_before(run, head.name, head.replaces):
            recovered = recover(run.root, head.name, job.fingerprint, job.attempt)
            if recovered is not None:
                written = replace(recovered.record, flags=(RETRIED,))
                return _done(unit, job, written, statistics, clock)
        if len(data) == 0:
            return Unchanged(head.name)
        data, record = merge(run, data, record)
    rejects = in_source_order(rejects, record.ranges)
    of_files = sum(reason in FILE_LEVEL for reason in rejects.column(REASON).to_pylist())
    record = replace(record, rows=len(data), rejects=len(rejects) - of_files, file_rejects=of_files)
    written = run.write_unit(record, data, rejects, job.fingerprint, __version__)
    return _done(unit, job, written, statistics, clock)


def _record(unit: EmbeddedUnit, attempt: str) -> Record:
    """Make the record of a unit, without what is known only when its files are."""
    head, forward = unit.head, unit.forward
    return Record(
        unit=head.name,
        attempt=attempt,
        ranges=[asdict(part) for part in head.ranges],
        next_source=head.end.source,
        next_position=head.end.position,
        rows=0,
        rejects=0,
        file_rejects=0,
        filtered=head.filtered,
        bytes=0,
        sha256="",
        truncated=head.truncated,
        unknown=head.unknown,
        inputs=unit.number_of_inputs,
        tokens=forward.tokens,
        positions=forward.positions,
        flops=forward.flops,
        flags=(HALVED,) if forward.halved else (),
    )


def _done(unit: EmbeddedUnit, job: Job, record: Record, statistics: str, clock: float) -> Written:
    """Make what the driver gets.

    A reject file that was replaced goes, now that no data file names it.
    """
    head, forward = unit.head, unit.forward
    if head.replaces is not None and head.replaces != record.reject_file:
        remove(job.run.child(f"{REJECTS}/{head.replaces}"))
    seconds = {
        "read": head.read_seconds,
        "prepare": head.prepare_seconds,
        "forward": forward.seconds,
        "started": unit.started,
        "idle_input": forward.idle_input,
        "idle_output": forward.idle_output,
        "write": time.perf_counter() - clock,
        "finished": time.time(),
    }
    memory = {"reader": head.reader_memory, "replica": unit.memory, "writer": peak_memory()}
    if forward.device_memory:
        memory["gpu"] = forward.device_memory
    return Written(replace(record, seconds=seconds), statistics, memory, forward)
