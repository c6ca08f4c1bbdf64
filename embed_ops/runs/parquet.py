"""Unit -> Parquet file, as bytes that depend on the rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.numerics.ragged import Ragged
from embed_ops.schema import FOOTER_KEY, SOURCE, VECTOR_TYPES


def vector_column(vectors: npt.NDArray[Any], dtype: str) -> pa.FixedSizeListArray:
    """Make a FixedSizeList column of `(rows, dim)` vectors."""
    values = np.ascontiguousarray(vectors, dtype=np.dtype(dtype)).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values, VECTOR_TYPES[dtype]), vectors.shape[1])


def lists_column(vectors: Ragged, dtype: str) -> pa.ListArray:
    """Make a column of lists of vectors."""
    return pa.ListArray.from_arrays(
        pa.array(vectors.offsets, pa.int32()), vector_column(vectors.values, dtype)
    )


def holds_vectors(kind: pa.DataType) -> bool:
    """Tell whether a column holds vectors: one in each row, or a list of them."""
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_fixed_size_list(inner))


def read_vectors(column: pa.ChunkedArray) -> npt.NDArray[Any] | Ragged:
    """Read what `vector_column` or `lists_column` made.

    (rows, dim), or a list of vectors for each row.
    """
    if not pa.types.is_list(column.type):
        return vectors_of(column)
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    return Ragged(vectors_of(array.flatten()), offsets - offsets[:1])


def vectors_of(column: pa.ChunkedArray | pa.FixedSizeListArray | pa.ListArray) -> npt.NDArray[Any]:
    """Give a column of vectors as `(rows, dim)`, without a copy where it is one chunk.

    Of lists, all of them: (vectors, dim).
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.flatten() if pa.types.is_list(array.type) else array
    values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(array), array.type.list_size)


def encode(table: pa.Table, footer: Mapping[str, Any]) -> pa.Buffer:
    """Encode a table as one Parquet file with `footer` in its metadata.

    Vectors are stored plain: floats of embeddings do not compress, and plain pages are read without
    a copy.
    """
    vectors = {field.name: field.type for field in table.schema if holds_vectors(field.type)}
    others = [name for name in table.schema.names if name not in vectors]
    plain = [
        f"{name}.list.element" + ".list.element" * pa.types.is_list(kind) for name, kind in vectors.items()
    ]
    lists = {f"{name}.list.element" for name in others if pa.types.is_list(table.schema.field(name).type)}
    metadata = {FOOTER_KEY: json.dumps(footer, sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=max(1, len(table)),
        use_dictionary=[SOURCE] if SOURCE in others else False,
        compression=dict.fromkeys([*others, *lists], "zstd") | dict.fromkeys(plain, "none"),
        write_statistics=others,
    )
    return sink.getvalue()


def read_footer(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Read the footer that `encode` wrote.

    Raises:
        KeyError: the file is not one of ours.
    """
    footer: dict[str, Any] = json.loads(metadata.metadata[FOOTER_KEY])
    return footer
