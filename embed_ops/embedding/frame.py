"""A frame in memory as the source of a run: written beside the run, so that it can go on later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import RunError, SourceError
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import publish, read_bytes
from embed_ops.storage.location import locate

FILE = "frame.parquet"


def with_frame(spec: Spec | Mapping[str, Any], frame: Any) -> Spec:
    """Write a frame to `<sink.path>-data`, and give the spec whose source is there.

    Args:
        spec: of the run, or its tree, whose source needs no path.
        frame: a pandas, Polars or Arrow table, a Hugging Face dataset, or a dict of columns.

    Raises:
        SourceError: it is none of these.
        RunError: another frame was written there.
    """
    tree = dict(spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, Spec) else spec)
    path = f"{str((tree.get('sink') or {}).get('path', '')).rstrip('/')}-data"
    tree["source"] = {**(tree.get("source") or {}), "kind": "parquet", "path": path}
    parsed = Spec.parse(tree)
    sink = pa.BufferOutputStream()
    pq.write_table(_table_of(frame), sink)
    content = sink.getvalue()
    root = locate(path)
    known = read_bytes(root.child(FILE))
    if known is None:
        publish(root, FILE, content, None)
    elif known != content.to_pybytes():
        raise RunError(
            f"{path}/{FILE}: another frame was embedded to {parsed.sink.path}: give that one to go on, or "
            "choose another sink.path"
        )
    return parsed


def _table_of(frame: Any) -> pa.Table:
    try:
        if isinstance(frame, pa.Table):
            return frame
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
        if isinstance(frame, Mapping):
            return pa.table(dict(frame))
        if hasattr(frame, "to_arrow"):
            return frame.to_arrow()
        if hasattr(frame, "with_format"):
            return frame.with_format("arrow")[:]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(f"data: a column can't be stored: {error}; give columns of one type") from error
    raise SourceError(
        f"data is a {type(frame).__name__}: give a pandas, Polars or Arrow table, or a dict of columns"
    )
