"""The plan as a table: what `plan.parquet` holds."""

from __future__ import annotations

import base64
import itertools
import sys
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import RunError
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span
from embed_ops.storage.location import Location

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
    """Write the plan as a table, a row per piece.

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


def read_plan(source: pa.NativeFile | str, roots: Sequence[Location]) -> Plan:
    """Read what `plan_table` wrote.

    Args:
        source: the plan file, open or by path.
        roots: where `source.path` leads; files are looked up below them.

    Raises:
        RunError: it was made with more roots.
    """
    table = pq.read_table(source)
    read = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(table.schema.metadata[b"columns"])))
    files: dict[str, SourceFile] = {}
    pieces: dict[int, list[Piece]] = {}
    for row in itertools.chain.from_iterable(batch.to_pylist() for batch in table.to_batches(_ROWS_AT_ONCE)):
        root = row["root"]
        # Millions of pieces and records name the same files.
        name = sys.intern(row["source"])
        if root >= len(roots):
            raise RunError(
                f"source.path: {name} of this run is in path {root}, but only {len(roots)} are given"
            )
        if name not in files:
            inside = name.partition("/")[2] if len(roots) > 1 else name
            files[name] = SourceFile(name, root, roots[root].child(inside).path, row["size"], row["modified"])
        pieces.setdefault(row["span"], []).append(
            Piece(name, row["first_row"], row["end"], row["rows"], row["bytes"])
        )
    return Plan(
        tuple(files.values()), tuple(Span(index, tuple(parts)) for index, parts in pieces.items()), read
    )
