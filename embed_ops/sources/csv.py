"""CSV and TSV: streamed whole, since a quoted field may hold newlines.

Positions are record indexes.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from embed_ops.schema import Reason
from embed_ops.sources.base import (
    MAX_RECORD_BYTES,
    RECORDS_PER_READ,
    Records,
    Undecodable,
    records,
    text_columns,
)
from embed_ops.sources.heads import text_fault
from embed_ops.sources.plan import FILES_OF_ROWS, Piece
from embed_ops.sources.streams import BLOCK_BYTES, ByteStream, require_head, whole_file, with_compressions
from embed_ops.sources.values import typed_column
from embed_ops.spec.source import DelimitedSpec
from embed_ops.storage.files import Location

_CHUNK_CHARACTERS = 16 << 20
_TAB_ENDINGS = with_compressions(".tsv", ".tab")


class CsvSource:
    """CSV with a header line in every file.

    Columns are strings unless `source.types` says otherwise.
    """

    extensions = with_compressions(".csv", ".tsv", ".tab")
    sharing = FILES_OF_ROWS
    inspect = staticmethod(whole_file)

    def __init__(self, spec: DelimitedSpec) -> None:
        self._spec = spec

    def seekable(self, at: Location) -> bool:
        """Tell that records can only be counted from the begin."""
        return False

    def sample_schema(self, at: Location) -> pa.Schema:
        """Read the header."""
        with ByteStream(at) as stream:
            header = next(self._rows(at, stream), [])
        return pa.schema([(_shown(name), pa.string()) for name in header])

    def _rows(self, at: Location, stream: ByteStream) -> Iterator[list[str]]:
        """Parse rows, the header first.

        Bytes that are not UTF-8 become surrogates, found again on conversion.

        Raises:
            csv.Error: a quote is never closed: what it swallowed, one row or all the rest, can't be
            told.
        """
        csv.field_size_limit(MAX_RECORD_BYTES)
        buffered = io.BufferedReader(stream, BLOCK_BYTES)
        require_head(at, buffered.peek(), text_fault)
        delimiter = self._spec.delimiter or ("\t" if at.path.lower().endswith(_TAB_ENDINGS) else ",")
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
        ended, length = False, 0

        def lines() -> Iterator[str]:
            nonlocal ended, length
            # A line may have no end: it is never asked for as a whole.
            while line := text.readline(MAX_RECORD_BYTES + 1):
                length += len(line)
                if length > MAX_RECORD_BYTES:
                    raise csv.Error(f"a record is longer than {MAX_RECORD_BYTES} characters")
                yield line
            ended = True

        for row in csv.reader(lines(), delimiter=delimiter):
            # The reader gives a row on its last line; it asks for one more only inside quotes.
            if ended:
                raise csv.Error("a quote is opened here and never closed")
            length = 0
            if row:
                yield row

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream records; those before `begin` are parsed and dropped."""
        texts = set(text_columns(self._spec))
        with ByteStream(at) as stream:
            rows = self._rows(at, stream)
            header = next(rows, None)
            if header is None:
                return
            missing = [name for name in schema.names if name not in header]
            if missing:
                shown = _shown(", ".join(header)[:200])
                raise Undecodable(f"no column {missing[0]!r} in the header {shown!r}")
            twice = [name for name in schema.names if header.count(name) > 1]
            if twice:
                raise Undecodable(f"column {twice[0]!r} stands twice in the header")
            wanted = itertools.islice(rows, begin, piece.end)
            position = begin
            for chunk, failure in _chunks(wanted):
                if chunk:
                    yield self._records(chunk, header, position, schema, texts)
                position += len(chunk)
                if failure is not None:
                    raise failure

    @staticmethod
    def _records(
        chunk: list[list[str]], header: list[str], position: int, schema: pa.Schema, texts: set[str]
    ) -> Records:
        bad = [
            (index, str(Reason.MALFORMED), f"{len(row)} fields where the header has {len(header)}")
            for index, row in enumerate(chunk)
            if len(row) != len(header)
        ]
        columns: dict[str, pa.Array] = {}
        malformed = {index for index, _, _ in bad}
        for field in schema:
            place = header.index(field.name)
            values = [None if index in malformed else row[place] for index, row in enumerate(chunk)]
            columns[field.name], wrong = typed_column(
                values, field, from_text=True, is_text=field.name in texts
            )
            bad += wrong
        end = position + len(chunk)
        return records(columns, np.arange(position, end, dtype=np.int64), end, bad)


def _shown(name: str) -> str:
    """Give a name of the header as text: what is not UTF-8 is replaced, as no spec names it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _chunks(rows: Iterator[list[str]]) -> Iterator[tuple[list[list[str]], Exception | None]]:
    """Group rows; where parsing fails, give the rows before the fault together with it."""
    chunk: list[list[str]] = []
    size = 0
    try:
        for row in rows:
            chunk.append(row)
            size += sum(map(len, row))
            if len(chunk) == RECORDS_PER_READ or size > _CHUNK_CHARACTERS:
                yield chunk, None
                chunk, size = [], 0
    except (csv.Error, pa.ArrowException, OSError) as error:
        yield chunk, error
        return
    yield chunk, None
