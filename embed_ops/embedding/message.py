"""The one codec between the steps' units and the blocks of Ray.

A block is a one-row table of `meta` (JSON) and payloads (Arrow IPC streams): what `unit.py` calls a
unit, or, where a step failed or the job is to stop, its outcome already. An outcome reaches the
driver as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.embedding.unit import (
    EmbeddedUnit,
    Failure,
    ForwardPass,
    Outcome,
    PreparedUnit,
    Skipped,
    Unchanged,
    UnitHead,
    Written,
)
from embed_ops.runs.record import Record
from embed_ops.schema import Reason
from embed_ops.sources.units import Range, UnitEnd

Message = PreparedUnit | EmbeddedUnit | Outcome

PAYLOADS = ("rows", "inputs", "vectors", "rejects")
_OUTCOMES = {kind.__name__: kind for kind in (Written, Unchanged, Skipped, Failure)}
_KINDS = {kind.__name__: kind for kind in (PreparedUnit, EmbeddedUnit)} | _OUTCOMES


def to_block(message: Message) -> pa.Table:
    """Make the one-row table that travels."""
    columns: dict[str, pa.Array] = {"meta": pa.array([_dump(message)])}
    for name in PAYLOADS:
        table = getattr(message, name, None)
        columns[name] = pa.nulls(1, pa.large_binary()) if table is None else _to_stream(table)
    return pa.table(columns)


def from_block(block: pa.Table) -> Message:
    """Read what `to_block` made; tables lie in the block's memory."""
    values = {name: block.column(name)[0] for name in PAYLOADS}
    payloads = {
        name: pa.ipc.open_stream(value.as_buffer()).read_all()
        for name, value in values.items()
        if value.is_valid
    }
    message: Message = _make(_KINDS, json.loads(block.column("meta")[0].as_py()) | payloads)
    return message


def dump_outcome(outcome: Outcome) -> str:
    """Write an outcome as JSON."""
    return _dump(outcome)


def load_outcome(text: str) -> Outcome:
    """Read what `dump_outcome` wrote.

    Raises:
        ValueError: it is no outcome.
    """
    values: dict[str, Any] = json.loads(text)
    if values["type"] not in _OUTCOMES:
        raise ValueError(f"not an outcome but a {values['type']}")
    outcome: Outcome = _make(_OUTCOMES, values)
    return outcome


def _dump(message: Message) -> str:
    """Write the class and all fields but the payloads as JSON."""
    names = [item.name for item in fields(message) if item.name not in PAYLOADS]
    values = {name: getattr(message, name) for name in names}
    return json.dumps({"type": type(message).__name__, **values}, default=asdict)


def _make(kinds: Mapping[str, type[Any]], values: dict[str, Any]) -> Any:
    """Make the dataclass of which these are the fields."""
    kind = kinds[values.pop("type")]
    for name, read in _READERS.items():
        if name in values:
            values[name] = read(values[name])
    return kind(**values)


def _head(values: dict[str, Any]) -> UnitHead:
    ranges = tuple(Range(**part) for part in values["ranges"])
    return UnitHead(**values | {"ranges": ranges, "end": UnitEnd(**values["end"])})


_READERS = {
    "head": _head,
    "forward": lambda values: ForwardPass(**values),
    "refused": lambda values: {int(place): Reason(reason) for place, reason in values.items()},
    "record": Record.parse,
}
"""Fields that are more than JSON values."""


def _to_stream(table: pa.Table) -> pa.Array:
    """Write a table as an Arrow IPC stream: an array of that value, which is not copied again."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, stream.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, stream])
