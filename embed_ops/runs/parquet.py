"""Unit -> Parquet file, as bytes that depend on the rows alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import EmbedOpsError, RunError
from embed_ops.numerics.kinds import Dense, Vectors, kind_in_memory, kind_of_type, kinds_of
from embed_ops.schema import FOOTER_KEY, SOURCE
from embed_ops.storage.files import Location, open_file

DAMAGE = (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading raises where bytes, columns, types or values are not as they were written."""
VERIFY = "`embed-ops verify` tells more"


@contextmanager
def reading(path: str, repair: str = VERIFY) -> Iterator[None]:
    """Say which file of a run can't be read, and what to do.

    Raises:
        RunError: what is done inside fails; errors of our own stay as they are.
    """
    try:
        yield
    except EmbedOpsError:
        raise
    except DAMAGE as error:
        raise RunError(f"{path}: can't be read: {error or type(error).__name__}; {repair}") from error


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


def read_table(
    root: Location, relative: str, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Read a data or reject file of a run: its rows, all columns or some, and its footer.

    Raises:
        RunError: it can't be read, or lacks a column.
    """
    place = root.child(relative)
    with reading(place.path), open_file(place) as opened:
        file = pq.ParquetFile(opened)
        table = file.read(columns=columns).replace_schema_metadata(None)
        return table if columns is None else table.select(columns), read_footer(file.metadata)


def read_footer(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Read the footer that `encode` wrote.

    Raises:
        KeyError: the file is not one of ours.
    """
    footer: dict[str, Any] = json.loads(metadata.metadata[FOOTER_KEY])
    return footer
