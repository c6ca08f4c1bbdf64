"""Unit -> Parquet file, as bytes that depend on the rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.numerics.kinds import Dense, Vectors, kind_in_memory, kind_of_type, kinds_of
from embed_ops.schema import FOOTER_KEY, SOURCE


def vector_column(vectors: npt.NDArray[Any], dtype: str) -> pa.FixedSizeListArray:
    """Make a column of `(rows, dim)` vectors."""
    return Dense(vectors.shape[1]).column(vectors, dtype)


def read_vectors(column: pa.ChunkedArray) -> Vectors:
    """Read a column of vectors: (rows, dim), or a list of vectors for each row.

    Raises:
        KeyError: it holds no vectors.
    """
    kind = kind_of_type(column.type)
    if kind is None:
        raise KeyError(f"a column of {column.type} holds no vectors")
    vectors: Vectors = kind.read(column)
    return vectors


def vectors_of(column: pa.ChunkedArray | pa.FixedSizeListArray | pa.ListArray) -> npt.NDArray[Any]:
    """Give all vectors of a column, (vectors, dim), without a copy where it is one chunk."""
    vectors = read_vectors(column)
    return kind_in_memory(vectors).values(vectors)


def encode(table: pa.Table, footer: Mapping[str, Any]) -> pa.Buffer:
    """Encode a table as one Parquet file with `footer` in its metadata.

    Vectors are stored plain: floats of embeddings do not compress, and plain pages are read without
    a copy.
    """
    vectors = kinds_of(table.schema)
    others = [name for name in table.schema.names if name not in vectors]
    plain = [kind.leaf(name) for name, kind in vectors.items()]
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
