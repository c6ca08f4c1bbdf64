"""Arrays and tables as files, of which any rows can be read alone.

What a graph's tasks leave for each other.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.storage.files import Location, open_file, publish

Array = npt.NDArray[Any]
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def write_array(root: Location, name: str, array: Array, attempt: str) -> None:
    """Write an array as `name` + ".npy", whole or not at all."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    publish(root, f"{name}.npy", pa.py_buffer(out.getbuffer()), attempt)


def read_array(root: Location, name: str, first: int = 0, last: int | None = None) -> Array:
    """Read rows `first` to `last` of an array; it may not be written to.

    Raises:
        StorageError: it is gone or can't be read.
    """
    with open_file(root.child(f"{name}.npy")) as file:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        start = file.tell()
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        last = shape[0] if last is None else last
        file.seek(start + first * width)
        content = file.read_buffer((last - first) * width)
    rows: Array = np.frombuffer(content, dtype).reshape(last - first, *shape[1:])
    return rows


def write_batches(root: Location, name: str, batches: list[pa.RecordBatch], attempt: str) -> None:
    """Write record batches of one schema as an Arrow file, each to be read alone."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    publish(root, f"{name}.arrow", sink.getvalue(), attempt)


def read_batch(root: Location, name: str, number: int) -> pa.RecordBatch:
    """Read one record batch.

    Raises:
        StorageError: it is gone or can't be read.
    """
    with open_file(root.child(f"{name}.arrow")) as file:
        return pa.ipc.open_file(file).get_batch(number)
