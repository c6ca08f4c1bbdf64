"""Bytes and lines of files, compressed or not, from any offset on."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.sources.base import MAX_RECORD_BYTES, RECORDS_PER_READ
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
        self._stream = self._open()

    def _open(self) -> pa.NativeFile:
        if self._packed is None:
            file = open_file(self._at)
            file.seek(self._offset)
            return file
        # A decompressor asks for 64 KiB at a time, each of which would be a request to a store.
        stream = pa.CompressedInputStream(
            pa.BufferedInputStream(open_file(self._at), _READ_AHEAD_BYTES), self._packed
        )
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


def read_lines(at: Location, begin: int, end: int | None) -> Iterator[Lines]:
    """Stream the lines that begin at or after `begin` and before `end`.

    A position inside a line stands for the next line, so ranges cut anywhere share no line and miss
    none. A line longer than `MAX_RECORD_BYTES` comes as its first bytes, more than are allowed, so
    that the caller can tell. A byte order mark belongs to the first line, which begins at 0, and is
    stripped.
    """
    start = max(begin - 1, 0)
    with ByteStream(at, start) as stream:
        carry, skipping = b"", begin > 0
        while True:
            block = stream.read(BLOCK_BYTES)
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
