"""What is embedded of rows, in a list: texts, images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from embed_ops.schema import CONTENT, REASON
from embed_ops.sources.rows import Chunk

Completed = Callable[[pa.Table], pa.Table]
"""Adds to rows as read what the encoder says of them."""


def as_read(rows: pa.Table) -> pa.Table:
    """Add nothing."""
    return rows


def embeddable(chunk: Chunk, completed: Completed) -> list[Any]:
    """List what can be embedded: that of rows which are kept, no rejects, and not null."""
    rows = completed(chunk.table)
    fine = chunk.kept & rows.column(REASON).is_null().to_numpy()
    contents: list[Any] = rows.column(CONTENT).filter(pa.array(fine)).drop_null().to_pylist()
    return contents
