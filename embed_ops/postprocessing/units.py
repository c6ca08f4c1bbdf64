"""Units of a stage's run: the calls that write them, and how good their columns are.

    apply_unit      a unit -> its data file, by a model
    write_columns   a unit's new columns -> its data file and its record
    measure_units   some units -> a summary of how good their columns are

These three run in workers; `model_calls` and `measure` are the driver's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops import __version__
from embed_ops.engine.base import Engine
from embed_ops.errors import StageError
from embed_ops.postprocessing.stage_job import StageJob
from embed_ops.runs.columns import Label, labels_of, positions, read_columns, read_unit
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.runs.statistics import dump, statistics_of
from embed_ops.schema import ROW, SOURCE
from embed_ops.stages.base import MeasuredModel, Model
from embed_ops.stages.rounds import added, chained

_UNITS_PER_TASK = 32


@dataclass(frozen=True)
class UnitCalls:
    """Calls that write the data files of units.

    Attributes:
        function: runs in a worker and gives what `write_columns` gives.
        calls: its arguments, a tuple for each unit.
    """

    function: Callable[..., dict[str, Any]]
    calls: Iterable[tuple[Any, ...]]


def model_calls(job: StageJob, rows: RunRows, model: Model, done: set[str], engine: Engine) -> UnitCalls:
    """Give the calls that apply a model to the units which are not done."""
    shared = engine.share(model)
    return UnitCalls(apply_unit, ((job, shared, unit) for unit in rows.records if unit.unit not in done))


def apply_unit(job: StageJob, model: Model, of_input: Record) -> dict[str, Any]:
    """Compute a unit's new columns and write its data file; gives its record."""
    clock, started = time.perf_counter(), time.time()
    x = read_unit(job.vectors, of_input.unit, of_input.rows)
    read = time.perf_counter() - clock
    arrays = model.columns(x, job.output)
    _require_finite(job, of_input.unit, arrays)
    columns = {name: _column(values) for name, values in arrays.items()}
    seconds = {"read": read, "forward": time.perf_counter() - clock - read}
    return write_columns(job, of_input, columns, started, seconds)


def _require_finite(job: StageJob, unit: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse vectors and distances that float32 does not hold; the only cluster has no second.

    Raises:
        StageError: names the unit and the column.
    """
    for name, values in arrays.items():
        if name != "second_distance" and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StageError(
                f"{job.spec.folder}: unit {unit}: column {name!r} would not be finite: the vectors are too "
                "large for float32; run a normalize stage on them first"
            )


def _column(values: npt.NDArray[Any]) -> pa.Array:
    """Turn (rows, dim) into vectors, (rows,) numbers into numbers, (rows,) objects into text."""
    if values.ndim == 2:
        return vector_column(values, values.dtype.name)
    # Without rows there is nothing of which Arrow could tell the type.
    return pa.array(values, pa.string() if values.dtype == object else None)


def write_columns(
    job: StageJob, of_input: Record, columns: dict[str, pa.Array], started: float, seconds: dict[str, float]
) -> dict[str, Any]:
    """Write a unit's data file, and give its record.

    It has where its rows come from, the columns that are copied, and the new ones.
    """
    clock = time.perf_counter()
    where = positions(job.input, of_input.unit, of_input.rows)
    copied = {
        holder.column: read_columns(holder.run, of_input.unit, [holder.column], of_input.rows).column(0)
        for holder in job.copied
    }
    table = pa.table({SOURCE: where.column(SOURCE), ROW: where.column(ROW), **copied, **columns})
    written = RunDir(job.run).write_unit(
        _record_of(job, of_input), table, table.slice(0, 0), job.fingerprint, __version__
    )
    seconds = seconds | {"write": time.perf_counter() - clock, "started": started, "finished": time.time()}
    return {
        "record": asdict(replace(written, seconds=seconds)),
        "statistics": dump(statistics_of(table)),
    }


def _record_of(job: StageJob, of_input: Record) -> Record:
    """Make the record of a stage's unit.

    That of its input, whose records without a vector count as filtered.
    """
    records = sum(part["records"] for part in of_input.ranges)
    return Record(
        unit=of_input.unit,
        attempt=job.attempt,
        ranges=of_input.ranges,
        next_source=None,
        next_position=None,
        rows=of_input.rows,
        rejects=0,
        file_rejects=0,
        filtered=records - of_input.rows,
        bytes=0,
        sha256="",
        made_of=of_input.sha256,
    )


def measure(job: StageJob, rows: RunRows, model: MeasuredModel, label: Label | None, engine: Engine) -> Any:
    """Summarise how good a model is, from the columns it has given all units.

    None where there are no rows.
    """
    shared = engine.share(model)
    units = rows.records
    parts = [units[first : first + _UNITS_PER_TASK] for first in range(0, len(units), _UNITS_PER_TASK)]
    summaries = engine.all(measure_units, [(job, shared, part, label) for part in parts])
    whole = [summary for summary in summaries if summary is not None]
    return added(whole) if whole else None


def measure_units(job: StageJob, model: MeasuredModel, units: Sequence[Record], label: Label | None) -> Any:
    """Read a stage's new columns of some units back, and summarise how good they are.

    None where they have no rows.
    """
    return chained(
        model.measure(
            read_columns(job.run, record.unit, model.measured, record.rows),
            None if label is None else labels_of(label, record.unit, record.rows),
        )
        for record in units
        if record.rows
    )
