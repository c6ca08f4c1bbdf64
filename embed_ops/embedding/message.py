"""How a unit travels between the steps.

A one-row table of `meta` (JSON) and payloads (Arrow IPC streams).

A step that fails sends the error along in `meta`, so that the driver hears of it: an exception
would be dropped by the engine, and the unit with it.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from embed_ops.errors import EmbedOpsError

PAYLOADS = ("rows", "inputs", "vectors", "rejects")


def pack(table: pa.Table) -> bytes:
    """Write a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(message: pa.Table, name: str) -> pa.Table:
    """Read a payload of a message without copying it."""
    return pa.ipc.open_stream(message.column(name).combine_chunks()[0].as_buffer()).read_all()


def message(meta: Mapping[str, Any], **payloads: bytes) -> pa.Table:
    """Make the one-row table that travels."""
    columns: dict[str, pa.Array] = {"meta": pa.array([json.dumps(meta)])}
    for name in PAYLOADS:
        columns[name] = pa.array([payloads.get(name)], pa.large_binary())
    return pa.table(columns)


def read_meta(received: pa.Table) -> dict[str, Any]:
    """Read the metadata of a message."""
    meta: dict[str, Any] = json.loads(received.column("meta")[0].as_py())
    return meta


def failure(error: BaseException, unit: str | None) -> dict[str, Any]:
    """Describe an error for the driver."""
    return {
        "error": str(error) if isinstance(error, EmbedOpsError) else f"{type(error).__name__}: {error}",
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "unit": unit,
    }
