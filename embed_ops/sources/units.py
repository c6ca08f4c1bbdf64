"""Span -> units: cuts the stream of records into units, and jumps over those that are done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa

from embed_ops.schema import ROW, SOURCE, SOURCE_TYPE, Reason
from embed_ops.sources.base import DECODING_FAULTS, Source
from embed_ops.sources.plan import Limits, Piece, Span, unit_name
from embed_ops.sources.rows import Chunk, Rows
from embed_ops.storage.faults import is_transport, storage_error
from embed_ops.storage.files import Location, check_readable


@dataclass(frozen=True)
class Range:
    """Records of one source file inside a unit.

    Those that begin at `begin` or later and before `end`.
    """

    source: str
    begin: int
    end: int
    records: int


@dataclass(frozen=True)
class UnitEnd:
    """Where the next unit of the span begins: a source file and a position in it.

    Both None behind the last unit.
    """

    source: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class Unit:
    """A unit as read: its rows and where they come from.

    Attributes:
        table: `_source`, `_row`, kept columns, `_content`, `reason`, `message`; a row per record
            that `where` lets through, and one per file that can't be read on.
        filtered: records that `where` left out, and what a source leaves out.
        read_seconds: time spent on reading and parsing.
    """

    name: str
    span: int
    ranges: tuple[Range, ...]
    end: UnitEnd
    table: pa.Table
    filtered: int
    read_seconds: float


class Cursor:
    """Where reading of a span stands: a piece, a position in it, and the records read ahead."""

    def __init__(self, source: Source, rows: Rows, at: Mapping[str, Location], span: Span) -> None:
        """Stand at the begin of the span.

        `at` gives the place and `rows` the text of every source file.
        """
        self._source, self._rows, self._at, self.span = source, rows, at, span
        self._index = 0
        self._open(span.pieces[0].begin)

    def _open(self, position: int) -> None:
        self.position = position
        self._failed_at: int | None = None
        self._chunk: Chunk | None = None
        self._piece_done = False
        self._stream: Iterator[Chunk] | None = None

    @property
    def piece(self) -> Piece:
        """The piece that is being read."""
        return self.span.pieces[self._index]

    @property
    def exhausted(self) -> bool:
        """Whether the span has been read to its end."""
        return self._index >= len(self.span.pieces)

    @property
    def unit(self) -> str:
        """Name of the unit that begins here."""
        return unit_name(self.piece.source, self.position)

    def next_piece(self) -> None:
        """Go to the begin of the next piece, if there is one."""
        self._index += 1
        if not self.exhausted:
            self._open(self.piece.begin)

    def seek(self, where: UnitEnd) -> None:
        """Go to the end of a unit that is done."""
        if where.source is None or where.position is None:
            self._index = len(self.span.pieces)
            return
        while self.piece.source != where.source:
            self.next_piece()
        if self._stream is None or self._source.seekable(self._at[self.piece.source]):
            self._open(where.position)
            return
        while (chunk := self.peek()) is not None and self.position < where.position:
            self.take(min(len(chunk), int(np.searchsorted(chunk.positions, where.position))))

    def peek(self) -> Chunk | None:
        """Give the records read ahead in this piece, reading more if there are none.

        None at its end.

        The position moves over what is no record to the first one read ahead. So a unit ends at the
        same place however reading was cut into chunks, which depends on where it began.
        """
        while self._chunk is None or len(self._chunk) == 0:
            if self._piece_done:
                return None
            self._chunk = self._read()
            if self._chunk is not None:
                self.position = int(self._chunk.positions[0]) if len(self._chunk) else self._chunk.end
        return self._chunk

    def take(self, count: int) -> Chunk:
        """Hand out the first records of those read ahead."""
        if self._chunk is None:
            raise IndexError("nothing was read ahead")
        head, self._chunk = self._chunk.split(count)
        self.position = head.end
        return head

    def chunks(self, most: int | None = None) -> Iterator[Chunk]:
        """Hand out what is left of the span, at most so many records at a time."""
        while not self.exhausted:
            chunk = self.peek()
            if chunk is None:
                self.next_piece()
            else:
                yield self.take(len(chunk) if most is None else min(len(chunk), most))

    def empty_table(self) -> pa.Table:
        """Make the table of a unit without rows."""
        return (
            self._rows.empty()
            .append_column(SOURCE, pa.array([], SOURCE_TYPE))
            .append_column(ROW, pa.array([], pa.int64()))
        )

    def piece_end(self) -> int:
        """Tell where the piece ends, once it has been read."""
        return self.position if self.piece.end is None else self.piece.end

    def _read(self) -> Chunk | None:
        """Read the next records.

        A fault is met by one fresh read, and then becomes a file-level reject or an error.
        """
        try:
            if self._stream is None:
                here = self._at[self.piece.source]
                read = self._source.read(here, self.piece, self.position, self._rows.schema)
                self._stream = chain.from_iterable(
                    map(partial(self._rows.complete, self.piece.source, here), read)
                )
            chunk = next(self._stream, None)
            self._piece_done = chunk is None
            return chunk
        except MemoryError:
            raise
        except DECODING_FAULTS as error:
            if self._failed_at != self.position:
                position = self.position
                self._open(position)
                self._failed_at = position
                return None
            here = self._at[self.piece.source]
            if is_transport(error):
                raise storage_error("read", here.path, error) from error
            check_readable(here, error)
            self._piece_done = True
            return self._unreadable(error)

    def _unreadable(self, error: Exception) -> Chunk:
        lost = (
            "an unknown number of"
            if self.piece.rows is None
            else str(self.piece.begin + self.piece.rows - self.position)
        )
        message = (
            f"can't be decoded from here on, {lost} rows not read: {type(error).__name__}: {str(error)[:300]}"
        )
        table = self._rows.reject(Reason.UNREADABLE, message)
        nothing = np.zeros(1, np.int64)
        return Chunk(
            table,
            np.array([self.position], np.int64),
            self.piece_end(),
            nothing == 0,
            nothing,
            is_record=False,
        )


@dataclass
class _Builder:
    """A unit that is being cut."""

    limits: Limits
    rows: int = 0
    bytes: int = 0
    filtered: int = 0
    tables: list[pa.Table] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)

    def fit(self, chunk: Chunk) -> int:
        """Count the records that still fit; at least one where the unit has no row yet."""
        rows = self.rows + np.cumsum(chunk.kept)
        size = self.bytes + np.cumsum(chunk.bytes)
        fitting = int(np.count_nonzero((rows <= self.limits.rows) & (size <= self.limits.bytes)))
        if self.rows == 0 and chunk.kept.any() and not chunk.kept[:fitting].any():
            return int(np.argmax(chunk.kept)) + 1
        return fitting

    def add(self, source: str, chunk: Chunk) -> None:
        """Take records in."""
        kept = int(np.count_nonzero(chunk.kept))
        self.rows += kept
        self.bytes += int(chunk.bytes.sum())
        self.filtered += len(chunk) - kept + chunk.others
        names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(chunk), np.int32)), pa.array([source]))
        table = chunk.table.append_column(SOURCE, names.cast(SOURCE_TYPE)).append_column(
            ROW, pa.array(chunk.positions)
        )
        self.tables.append(table if kept == len(chunk) else table.filter(pa.array(chunk.kept)))


def read_units(cursor: Cursor, done: Mapping[str, UnitEnd], limits: Limits) -> Iterator[Unit]:
    """Stream the units of a span that are not done, in order."""
    while not cursor.exhausted:
        known = done.get(cursor.unit)
        if known is not None:
            cursor.seek(known)
        else:
            yield _cut(cursor, limits)


def _cut(cursor: Cursor, limits: Limits) -> Unit:
    started = time.perf_counter()
    name, builder = cursor.unit, _Builder(limits)
    full = False
    while not full and not cursor.exhausted:
        source, begin, records = cursor.piece.source, cursor.position, 0
        while (chunk := cursor.peek()) is not None:
            fitting = builder.fit(chunk)
            if fitting > 0:
                taken = cursor.take(fitting)
                builder.add(source, taken)
                records += len(taken) + taken.others if taken.is_record else 0
            if fitting < len(chunk):
                full = True
                break
        end = cursor.position if full else cursor.piece_end()
        if not full or end > begin:
            builder.ranges.append(Range(source, begin, end, records))
        if not full:
            cursor.next_piece()
    table = pa.concat_tables([cursor.empty_table(), *builder.tables]).combine_chunks()
    return Unit(
        name,
        cursor.span.index,
        tuple(builder.ranges),
        UnitEnd() if cursor.exhausted else UnitEnd(cursor.piece.source, cursor.position),
        table,
        builder.filtered,
        time.perf_counter() - started,
    )
