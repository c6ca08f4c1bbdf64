"""A file in a store, read so that what fails on the way is never taken for what is in the file."""

from __future__ import annotations

import io
import os
from typing import Any

import pyarrow as pa

from embed_ops.errors import StorageError
from embed_ops.storage.faults import ShortRead, patiently, storage_error
from embed_ops.storage.location import Location

_MARK_BYTES = 16


class RemoteFile(io.RawIOBase):
    """Bytes of a file in a store.

    Each read is repeated while its fault may pass, and gives all that was asked for.

    Arrow hands on what `read` raises, so a decoder above raises `StorageError` for storage and its
    own errors for content.

    Raises:
        FileNotFoundError: on opening, there is none.
        StorageError: on opening and reading, the store fails.
    """

    def __init__(self, at: Location) -> None:
        super().__init__()
        self._at = at
        self._position = 0
        self._handle: pa.NativeFile | None = patiently("read", at.path, self._open)
        self.size: int = patiently("read", at.path, self._measure)

    def _open(self) -> pa.NativeFile:
        return self._at.fs.open_input_file(self._at.path)

    def _measure(self) -> int:
        self._handle = self._handle or self._open()
        return int(self._handle.size())

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, or all that are left; fewer only at the end of the file."""
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted == 0:
            return b""
        try:
            content = patiently("read", self._at.path, lambda: self._fetch(wanted))
        except FileNotFoundError as error:
            raise storage_error("read", self._at.path, error) from error
        self._position += wanted
        return content

    def _fetch(self, wanted: int) -> bytes:
        handle, self._handle = self._handle, None
        if handle is None:
            handle = self._open()
            if (size := handle.size()) != self.size:
                raise StorageError(
                    f"{self._at.path}: was replaced while it was read: {self.size} bytes before, {size} "
                    "now; run again"
                )
        handle.seek(self._position)
        # Arrow's S3 reader says that it filled the buffer, however little came: a mark at its end
        # tells.
        mark = os.urandom(min(_MARK_BYTES, wanted))
        buffer = bytearray(wanted)
        buffer[-len(mark) :] = mark
        count = handle.readinto(buffer)
        if count != wanted or (len(mark) == _MARK_BYTES and buffer.endswith(mark)):
            raise ShortRead(f"{wanted} bytes were asked for from {self._position} on, and fewer came")
        # Only a handle that worked is used again.
        self._handle = handle
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer: part of the raw stream interface."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Tell the position."""
        return self._position

    def readable(self) -> bool:
        """Answer yes."""
        return True

    def seekable(self) -> bool:
        """Answer yes."""
        return True
