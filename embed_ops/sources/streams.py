"""Bytes and lines of files, compressed or not, from any offset on."""

from __future__ import annotations

import io
import itertools
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.sources.base import MAX_RECORD_BYTES, RECORDS_PER_READ, Undecodable
from embed_ops.sources.heads import HEAD_BYTES, text_fault
from embed_ops.sources.plan import SPAN_BYTES, Layout, Piece
from embed_ops.storage.faults import is_transport
from embed_ops.storage.files import Location, open_file

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BLOCK_BYTES = 1 << 20
_READ_AHEAD_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"

Lines = tuple[list[bytes], npt.NDArray[np.int64], int]
"""Lines without their ends, (lines,) int64 offsets, offset behind the last."""


def compression(path: str) -> str | None:
    """Tell the compression from the file name."""
    return next((name for ending, name in COMPRESSIONS.items() if path.lower().endswith(ending)), None)


def is_plain(at: Location) -> bool:
    """Tell a plain file, which can be read from the middle, from a compressed one."""
    return compression(at.path) is None


def with_compressions(*endings: str) -> tuple[str, ...]:
    """List the endings, each plain and with every compression."""
    return tuple(ending + packed for ending in endings for packed in ("", *COMPRESSIONS))


class ByteStream(io.RawIOBase):
    """A file's decompressed bytes from an offset on.

    A truncated file gives every byte that can be decoded, then raises.
    """

    def __init__(self, at: Location, begin: int = 0) -> None:
        super().__init__()
        self._at = at
        self._packed = compression(at.path)
        self._offset = begin
        self._most = BLOCK_BYTES
        self._end: int | None = None
        self._stream = self._open()

    def _open(self) -> pa.NativeFile:
        if self._packed is None:
            file = open_file(self._at)
            file.seek(self._offset)
            return file
        # A decompressor asks for 64 KiB at a time, each of which would be a request to a store.
        file = open_file(self._at)
        packed = file if self._end is None else file.get_stream(0, self._end)
        stream = pa.CompressedInputStream(pa.BufferedInputStream(packed, _READ_AHEAD_BYTES), self._packed)
        left = self._offset
        while left > 0 and (skipped := len(stream.read(min(left, BLOCK_BYTES)))):
            left -= skipped
        return stream

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Read up to `size` bytes, no more than a block; raises what decoding or storage raises."""
        while True:
            most = min(size, self._most)
            try:
                content: bytes = self._stream.read(most)
            except (pa.ArrowException, OSError) as error:
                # Arrow drops what it decoded before the fault; asking for less, from now on, gets
                # it.
                if self._packed is None or most <= 1 or is_transport(error):
                    raise
                if self._end is None and (end := _end_before_padding(self._at, self._packed)) is not None:
                    self._end = end
                else:
                    self._most = most // 2
                self._stream = self._open()
                continue
            self._offset += len(content)
            return content

    def readable(self) -> bool:
        """Answer yes: part of the raw stream interface."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer: part of the raw stream interface."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file too."""
        # There is none where opening failed.
        stream = getattr(self, "_stream", None)
        if stream is not None and not self.closed:
            stream.close()
        super().close()


class _Member:
    """One member of a gzip or bzip2 file, decompressed to find its end; its bytes are dropped."""

    def __init__(self, packed: str) -> None:
        self._gzip = zlib.decompressobj(wbits=31) if packed == "gzip" else None
        self._bzip2 = BZ2Decompressor()

    @property
    def ended(self) -> bool:
        return self._bzip2.eof if self._gzip is None else self._gzip.eof

    def pass_over(self, content: bytes) -> bytes:
        """Take in raw bytes; give those behind the member's end."""
        if self._gzip is not None:
            while content and not self._gzip.eof:
                self._gzip.decompress(content, BLOCK_BYTES)
                content = self._gzip.unconsumed_tail
            return self._gzip.unused_data
        self._bzip2.decompress(content, BLOCK_BYTES)
        while not (self._bzip2.eof or self._bzip2.needs_input):
            self._bzip2.decompress(b"", BLOCK_BYTES)
        return self._bzip2.unused_data


def _end_before_padding(at: Location, packed: str) -> int | None:
    """Find where the last member of a compressed file ends, if nothing but zeros follows it.

    Tapes and disks are written in blocks; gzip and bzip2 read such a file to its end.
    """
    if packed not in ("gzip", "bz2"):
        return None
    member, end, rest = _Member(packed), 0, b""
    with open_file(at) as file:
        try:
            while content := rest or file.read(BLOCK_BYTES):
                rest = member.pass_over(content)
                end += len(content) - len(rest)
                if member.ended and (rest := rest or file.read(BLOCK_BYTES)):
                    if rest.startswith(b"\0"):
                        break
                    member = _Member(packed)
        except (zlib.error, OSError, EOFError):
            return None
        while rest and not rest.strip(b"\0"):
            rest = file.read(BLOCK_BYTES)
    return end if member.ended and not rest else None


def whole_file(name: str, at: Location, size: int) -> Layout:
    """Take a file as one stretch: only reading finds its records."""
    return Layout((Piece(name, 0, None, None, size),))


def line_layout(name: str, at: Location, size: int) -> Layout:
    """Cut a plain file into byte ranges; a compressed one is one stretch."""
    if compression(at.path) is not None:
        return whole_file(name, at, size)
    cuts = [*range(0, max(size, 1), SPAN_BYTES), size]
    if len(cuts) > 2 and size - cuts[-2] < SPAN_BYTES // 4:
        del cuts[-2]
    return Layout(
        tuple(Piece(name, begin, end, None, end - begin) for begin, end in itertools.pairwise(cuts))
    )


def require_head(at: Location, head: bytes | None, fault: Callable[[bytes], str | None]) -> None:
    """Look at the head of a file before its records are.

    Args:
        at: the file.
        head: its first bytes, None where they were not read.
        fault: says what is wrong with them.

    Raises:
        Undecodable: the file is of another encoding or shape than its kind.
    """
    if head is None:
        with ByteStream(at) as stream:
            head = stream.read(HEAD_BYTES)
    if (told := fault(head[:HEAD_BYTES])) is not None:
        raise Undecodable(told)


def read_lines(
    at: Location, begin: int, end: int | None, fault: Callable[[bytes], str | None] = text_fault
) -> Iterator[Lines]:
    """Stream the lines that begin at or after `begin` and before `end`.

    A position inside a line stands for the next line, so ranges cut anywhere share no line and miss
    none. A line longer than `MAX_RECORD_BYTES` comes as its first bytes, more than are allowed, so
    that the caller can tell. A byte order mark belongs to the first line, which begins at 0, and is
    stripped.

    Args:
        at: the file.
        begin: a position.
        end: a position, None for the end of the file.
        fault: says what is wrong with a file by its head.

    Raises:
        Undecodable: its head is not that of such a file.
    """
    start = max(begin - 1, 0)
    with ByteStream(at, start) as stream:
        carry, skipping, head = b"", begin > 0, stream.read(BLOCK_BYTES)
        require_head(at, head if start == 0 else None, fault)
        for block in chain([head], iter(lambda: stream.read(BLOCK_BYTES), None)):
            text = carry + block
            if skipping:
                newline = text.find(b"\n")
                if newline < 0:
                    start += len(text)
                    if not block:
                        return
                    continue
                text, start, skipping = text[newline + 1 :], start + newline + 1, False
            lines = text.split(b"\n")
            carry = lines.pop()
            if not block and carry:
                lines, carry = [*lines, carry], b""
            elif len(carry) > MAX_RECORD_BYTES + 1:
                # A carriage return may be stripped from what is kept: one byte more keeps it too
                # long.
                carry, dropped, block = _drop_line(stream, carry)
                lines.append(carry[: MAX_RECORD_BYTES + 2])
                yield from _emit(lines, start, end, dropped)
                start, carry = start + sum(map(len, lines)) + len(lines) + dropped, block
                if end is not None and start >= end:
                    return
                continue
            yield from _emit(lines, start, end, 0)
            start += sum(map(len, lines)) + len(lines)
            if not block or (end is not None and start >= end):
                return


def _drop_line(stream: ByteStream, head: bytes) -> tuple[bytes, int, bytes]:
    """Skip the rest of a line that is too long.

    Its head, bytes of it beyond the head that is kept, what follows it.
    """
    length = len(head)
    while block := stream.read(BLOCK_BYTES):
        newline = block.find(b"\n")
        if newline >= 0:
            return head, length + newline - (MAX_RECORD_BYTES + 2), block[newline + 1 :]
        length += len(block)
    return head, length - (MAX_RECORD_BYTES + 2), b""


def _emit(lines: list[bytes], start: int, end: int | None, dropped: int) -> Iterator[Lines]:
    if not lines:
        return
    sizes = np.fromiter((len(line) + 1 for line in lines), np.int64, len(lines))
    sizes[-1] += dropped
    behind = start + np.cumsum(sizes)
    offsets = behind - sizes
    count = len(lines) if end is None else int(np.searchsorted(offsets, end))
    if start == 0:
        lines = [lines[0].removeprefix(_BOM), *lines[1:]]
    for first in range(0, count, RECORDS_PER_READ):
        last = min(first + RECORDS_PER_READ, count)
        yield [_strip_cr(line) for line in lines[first:last]], offsets[first:last], int(behind[last - 1])


def _strip_cr(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line
