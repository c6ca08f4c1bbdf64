"""Unit -> Parquet file, as bytes that depend on the rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.schema import FOOTER_KEY, SOURCE, VECTOR_TYPES


def vector_column(vectors: npt.NDArray[Any], dtype: str) -> pa.FixedSizeListArray:
    """Make a FixedSizeList column of `(rows, dim)` vectors."""
    values = np.ascontiguousarray(vectors, dtype=np.dtype(dtype)).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values, VECTOR_TYPES[dtype]), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray | pa.FixedSizeListArray) -> npt.NDArray[Any]:
    """Give a FixedSizeList column as `(rows, dim)`, without a copy where it is one chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(array), array.type.list_size)


def encode(table: pa.Table, footer: Mapping[str, Any]) -> pa.Buffer:
    """Encode a table as one Parquet file with `footer` in its metadata.

    Vectors are stored plain: floats of embeddings do not compress, and plain pages are read without a copy.
    """
    vectors = [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    others = [name for name in table.schema.names if name not in vectors]
    metadata = {FOOTER_KEY: json.dumps(footer, sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=max(1, len(table)),
        use_dictionary=[SOURCE] if SOURCE in others else False,
        compression={name: "zstd" for name in others} | {f"{name}.list.element": "none" for name in vectors},
        write_statistics=others,
    )
    return sink.getvalue()


def read_footer(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Read the footer that `encode` wrote.

    Raises:
        KeyError: the file is not one of ours.
    """
    found: dict[str, Any] = json.loads(metadata.metadata[FOOTER_KEY])
    return found
