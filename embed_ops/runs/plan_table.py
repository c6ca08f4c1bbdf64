"""The plan as a table: what `plan.parquet` holds."""

from __future__ import annotations

import base64
import itertools
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.sources.plan import Piece, Plan, SourceFile, Span

PLAN_SCHEMA = pa.schema(
    [
        ("span", pa.int64()),
        ("source", pa.string()),
        ("root", pa.int32()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("first_row", pa.int64()),
        ("end", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("output", pa.string()),
    ]
)
_ROWS_AT_ONCE = 1000
"""Rows of a plan that are Python objects twice for a moment."""


def plan_table(plan: Plan) -> pa.Table:
    """Write the plan as a table of `PLAN_SCHEMA`, a row for each piece of a span.

    The columns that are read travel in its metadata.
    """
    by_name = {file.name: file for file in plan.files}
    columns: dict[str, list[object]] = {name: [] for name in PLAN_SCHEMA.names}
    for span in plan.spans:
        for piece in span.pieces:
            file = by_name[piece.source]
            values = (
                span.index,
                piece.source,
                file.root,
                file.size,
                file.modified,
                piece.begin,
                piece.end,
                piece.rows,
                piece.bytes,
            )
            for name, value in zip(PLAN_SCHEMA.names, (*values, f"{span.first_unit}.parquet"), strict=True):
                columns[name].append(value)
    columns_read = base64.b64encode(plan.columns.serialize().to_pybytes())
    return pa.table(columns, PLAN_SCHEMA.with_metadata({"columns": columns_read}))


def read_plan(source: pa.NativeFile | str) -> Plan:
    """Read what `plan_table` wrote, from the plan file, open or by path.

    The corpus is not looked at; `place_of` says where a file of the plan is.
    """
    table = pq.read_table(source)
    read = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(table.schema.metadata[b"columns"])))
    files: dict[str, SourceFile] = {}
    pieces: dict[int, list[Piece]] = {}
    for row in itertools.chain.from_iterable(batch.to_pylist() for batch in table.to_batches(_ROWS_AT_ONCE)):
        # Millions of pieces and records name the same files.
        name = sys.intern(row["source"])
        if name not in files:
            files[name] = SourceFile(name, row["root"], row["size"], row["modified"])
        pieces.setdefault(row["span"], []).append(
            Piece(name, row["first_row"], row["end"], row["rows"], row["bytes"])
        )
    return Plan(
        tuple(files.values()), tuple(Span(index, tuple(parts)) for index, parts in pieces.items()), read
    )
