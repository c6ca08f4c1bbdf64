"""What is embedded of rows, in a list: texts, images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from embed_ops.schema import CONTENT, REASON
from embed_ops.sources.rows import Chunk
from embed_ops.sources.tensors import tensor_rows

Completed = Callable[[pa.Table], pa.Table]
"""Adds to rows as read what the encoder says of them."""


def as_read(rows: pa.Table) -> pa.Table:
    """Add nothing."""
    return rows


def listed(column: pa.ChunkedArray, modality: str) -> list[Any]:
    """List what is embedded, without nulls: of tensors arrays.

    As Python's numbers a tensor would take ten times the memory.
    """
    return tensor_rows(column) if modality == "tensor" else list(column.drop_null().to_pylist())


def embeddable(chunk: Chunk, modality: str, completed: Completed) -> list[Any]:
    """List what can be embedded: that of rows which are kept, no rejects, and not null."""
    rows = completed(chunk.table)
    fine = chunk.kept & rows.column(REASON).is_null().to_numpy()
    return listed(rows.column(CONTENT).filter(pa.array(fine)), modality)
