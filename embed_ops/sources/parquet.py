"""Parquet: spans are runs of row groups, positions are row indexes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embed_ops.schema import Reason
from embed_ops.sources.base import (
    MAX_RECORD_BYTES,
    RECORDS_PER_READ,
    Records,
    Undecodable,
    records,
    text_columns,
    valid_utf8,
)
from embed_ops.sources.plan import FILES_OF_ROWS, SPAN_BYTES, Layout, Piece
from embed_ops.sources.streams import whole_file
from embed_ops.sources.types import is_text, is_uuid, plain_column, uuid_texts
from embed_ops.spec.source import SourceSpec
from embed_ops.storage.faults import is_transport, storage_error
from embed_ops.storage.files import Location, open_file

_READ_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 16 << 20


class ParquetSource:
    """Parquet files, hive folders included; only the columns that are needed are read."""

    extensions = (".parquet", ".parq", ".pq")
    sharing = FILES_OF_ROWS

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def seekable(self, at: Location) -> bool:
        """Tell that row groups are found by the footer."""
        return True

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Read the footer and group row groups to spans.

        A file whose footer can't be decoded is one stretch.
        """
        try:
            with open_file(at) as handle, pq.ParquetFile(handle) as file:
                metadata, schema = file.metadata, file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            if is_transport(error):
                raise storage_error("read", at.path, error) from error
            # What is wrong with the file is told by the reject that reading it makes.
            return whole_file(name, at, size)
        needed = set(text_columns(self._spec)) | set(self._spec.keep)
        pieces: list[Piece] = []
        begin, rows, length = 0, 0, 0
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            group_bytes = _needed_bytes(group, needed)
            if rows and length + group_bytes > SPAN_BYTES:
                pieces.append(Piece(name, begin, begin + rows, rows, length))
                begin, rows, length = begin + rows, 0, 0
            rows += group.num_rows
            length += group_bytes
        pieces.append(Piece(name, begin, begin + rows, rows, length))
        return Layout(tuple(pieces), schema)

    def sample_schema(self, at: Location) -> pa.Schema:
        """Read the schema from the footer."""
        with open_file(at) as file:
            return pq.read_schema(file)

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream rows, page by page."""
        texts = set(text_columns(self._spec))
        with (
            open_file(at) as handle,
            pq.ParquetFile(handle, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            end = file.metadata.num_rows if piece.end is None else piece.end
            leaves = _leaves(file.schema_arrow, schema.names)
            # Group by group, so that batches begin at the same rows wherever reading began.
            for group, position in _groups_of(file.metadata, begin, end):
                for whole in file.iter_batches(
                    _batch_rows(file.metadata.row_group(group)), row_groups=[group], columns=leaves
                ):
                    first, last = max(begin, position), min(end, position + len(whole))
                    if first < last:
                        yield _records(whole.slice(first - position, last - first), first, schema, texts)
                    position += len(whole)


@dataclass(frozen=True)
class RowGroup:
    """A row group: its first row, its number of rows, and the bytes of the columns asked for."""

    first: int
    rows: int
    bytes: int


def row_groups(at: Location, names: Sequence[str]) -> list[RowGroup]:
    """List the row groups of a file by its footer, with what some columns of each take in memory.

    Raises whatever decoding or storage raises.
    """
    with open_file(at) as handle, pq.ParquetFile(handle) as file:
        metadata = file.metadata
    groups, first = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        groups.append(RowGroup(first, group.num_rows, _needed_bytes(group, set(names))))
        first += group.num_rows
    return groups


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """Choose the rows of a batch so that large rows do not fill the memory.

    From the file alone, so that batches stay the same.
    """
    row_bytes: int = max(1, group.total_byte_size // max(1, group.num_rows))
    return max(16, min(RECORDS_PER_READ, _BATCH_BYTES // row_bytes))


def _records(batch: pa.RecordBatch, first: int, schema: pa.Schema, texts: set[str]) -> Records:
    columns: dict[str, pa.Array] = {}
    bad: list[tuple[int, str, str]] = []
    for field in schema:
        column = _column(batch, field.name)
        if is_uuid(column.type) and pa.types.is_string(field.type):
            column = uuid_texts(column)
        column = plain_column(column)
        if field.name in texts:
            column, large = _held(column, field.name)
            bad += large
        if pa.types.is_string(field.type) and is_text(column.type):
            column, wrong = valid_utf8(column)
            bad += wrong
        columns[field.name], wrong = _cast(column, field)
        bad += wrong
    last = first + len(batch)
    return records(columns, np.arange(first, last, dtype=np.int64), last, bad)


def _cast(column: pa.Array, field: pa.Field) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Cast a column; values that do not fit become null and are named."""
    try:
        return column.cast(field.type), []
    except pa.ArrowInvalid:
        pass
    parts: list[pa.Array] = []
    bad: list[tuple[int, str, str]] = []
    for row in range(len(column)):
        try:
            parts.append(column.slice(row, 1).cast(field.type))
        except pa.ArrowInvalid as error:
            parts.append(pa.nulls(1, field.type))
            bad.append(
                (row, str(Reason.WRONG_TYPE), f"column {field.name!r} should be {field.type}: {error}")
            )
    return pa.concat_arrays(parts), bad


def _held(column: pa.Array, name: str) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Turn texts longer than a reader may hold into null, and name them."""
    if not is_text(column.type):
        return column, []
    long = pc.fill_null(pc.greater(pc.binary_length(column), MAX_RECORD_BYTES), False)
    message = f"column {name!r} is longer than {MAX_RECORD_BYTES} bytes"
    bad = [
        (index, str(Reason.TOO_LARGE), message)
        for index in np.flatnonzero(long.to_numpy(zero_copy_only=False)).tolist()
    ]
    return (pc.if_else(long, pa.scalar(None, column.type), column) if bad else column), bad


def _needed_bytes(group: pq.RowGroupMetaData, names: set[str]) -> int:
    total = 0
    for index in range(group.num_columns):
        chunk = group.column(index)
        path = chunk.path_in_schema
        if (
            path in names
            or path.partition(".")[0] in names
            or any(path.startswith(f"{name}.") for name in names)
        ):
            total += chunk.total_uncompressed_size
    return total


def _groups_of(metadata: pq.FileMetaData, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (row group, its first row) for those that hold rows `begin` to `end`."""
    start = 0
    for index in range(metadata.num_row_groups):
        rows = metadata.row_group(index).num_rows
        if start < end and start + rows > begin:
            yield index, start
        start += rows


def _leaves(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Name what to read: a column of this name, or a field inside a struct by its dotted path."""
    missing = [
        name for name in names if name not in schema.names and name.partition(".")[0] not in schema.names
    ]
    if missing:
        raise Undecodable(f"no column {missing[0]!r}; columns: {', '.join(schema.names)}")
    return list(names)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(batch.schema.names.index(name))
    head, *path = name.split(".")
    column = batch.column(batch.schema.names.index(head))
    return pc.struct_field(column, path)
