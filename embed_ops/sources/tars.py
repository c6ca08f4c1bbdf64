"""The members of a tar, streamed from any header on.

Headers are read by `tarfile`, one at a time and within limits: what a header says is not trusted.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

from embed_ops.sources.base import Undecodable
from embed_ops.sources.streams import BLOCK_BYTES, ByteStream
from embed_ops.storage.files import Location

_MOST_HEADER_BYTES = 1 << 20
"""Of one member: its long name, its attributes, its map of holes."""
_MOST_CHAINED = 16
"""Headers that may belong to one member: `tarfile` follows them by recursion."""
_PADDING = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """A member of a tar.

    Attributes:
        offset: of its first header.
        name: path; empty for the end marker, behind which another tar may follow.
        size: bytes of its content.
        content: reads it, as long as the stream stands here.
        kind: what it is instead of a file, None for one.
        target: of a link.
    """

    offset: int
    name: str
    size: int = 0
    content: Callable[[], bytes] = bytes
    kind: str | None = None
    target: str = ""


class _Tar(tarfile.TarFile):
    """A tar whose headers are asked for one by one.

    `TarFile` itself takes a broken header for the end of the archive.
    """

    chained = 0

    def next(self) -> None:
        """Read nothing on opening."""


class _Header(tarfile.TarInfo):
    """A header that follows others of the same member, up to a number of them."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header."""
        tar = cast(_Tar, tarfile)
        tar.chained += 1
        if tar.chained > _MOST_CHAINED:
            raise Undecodable(f"more than {_MOST_CHAINED} tar headers of one member before byte {tar.offset}")
        return super().fromtarfile(tarfile)


class _Forward:
    """A stream that is only read forwards, with the positions of the whole tar."""

    def __init__(self, at: Location, begin: int) -> None:
        self._stream = io.BufferedReader(ByteStream(at, begin), BLOCK_BYTES)
        self._position = begin
        self._unread = b""
        self.header_bytes = 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """Read part of a header, as `tarfile` asks for it."""
        if size < 0 or size > self.header_bytes:
            raise Undecodable(
                f"a tar header before byte {self._position} says {size} bytes, more than a header may have"
            )
        self.header_bytes -= size
        return self.take(size)

    def take(self, size: int) -> bytes:
        """Read content."""
        content, self._unread = self._unread[:size], self._unread[size:]
        content += self._stream.read(size - len(content))
        self._position += len(content)
        return content

    def give_back(self, content: bytes) -> None:
        """Let what was just read be read again."""
        self._unread = content
        self._position -= len(content)

    def seek(self, position: int) -> None:
        while (left := position - self._position) > 0 and self.take(min(left, BLOCK_BYTES)):
            pass


def members(at: Location, begin: int) -> Iterator[Member]:
    """Stream what a tar holds, folders apart; the end marker comes as a member without a name.

    Other tars may follow in the same file, as `cat` and some writers make them.

    Raises:
        Undecodable: a header is broken, or the tar is cut, or other bytes follow its end.
    """
    stream = _Forward(at, begin)
    tar = _Tar(fileobj=cast(Any, stream), mode="r", encoding="utf-8")
    ended = False
    while True:
        stream.seek(tar.offset)
        if stream.tell() < tar.offset:
            raise Undecodable(f"the tar is cut at byte {stream.tell()}")
        member = _next_header(tar, stream, ended=ended)
        if member is None:
            yield Member(tar.offset, "")
            ended = True
            if not _skip_padding(stream):
                return
            tar.offset = stream.tell()
        elif not member.isdir():
            yield _described(stream, member)


def _next_header(tar: _Tar, stream: _Forward, *, ended: bool) -> tarfile.TarInfo | None:
    """Read a header, and those that belong to it; None for the end marker."""
    begin, tar.chained, stream.header_bytes = tar.offset, 0, _MOST_HEADER_BYTES
    try:
        member = _Header.fromtarfile(tar)
    except tarfile.HeaderError as error:
        # The typed interface does not name the error that means the end marker.
        if type(error).__name__ == "EOFHeaderError":
            return None
        behind = "bytes that are no tar follow its end marker" if ended else "the tar is cut or broken"
        raise Undecodable(f"no tar header at byte {begin}: {error}; {behind}") from error
    except (ValueError, IndexError, OverflowError, TypeError) as error:
        raise Undecodable(f"the tar header at byte {begin} is broken: {error}") from error
    if sum(len(key) + len(text) for key, text in tar.pax_headers.items()) > _MOST_HEADER_BYTES:
        raise Undecodable(f"global tar headers before byte {begin} have more than {_MOST_HEADER_BYTES} bytes")
    if member.size < 0 or tar.offset <= begin:
        raise Undecodable(f"the tar header at byte {begin} says {member.size} bytes")
    return member


def _skip_padding(stream: _Forward) -> bool:
    """Go over the zeros behind an end marker; tell whether anything follows them."""
    while block := stream.take(tarfile.BLOCKSIZE):
        if block != _PADDING[: len(block)]:
            stream.give_back(block)
            return True
    return False


def _described(stream: _Forward, member: tarfile.TarInfo) -> Member:
    if member.isreg():
        read = partial(_content if member.sparse is None else _with_holes, stream, member)
        return Member(member.offset, member.name, member.size, read)
    kind = "a link" if member.issym() or member.islnk() else "no file"
    return Member(member.offset, member.name, kind=kind, target=member.linkname)


def _content(stream: _Forward, member: tarfile.TarInfo) -> bytes:
    content = stream.take(member.size)
    if len(content) < member.size:
        raise Undecodable(f"the tar is cut inside {member.name}")
    return content


def _with_holes(stream: _Forward, member: tarfile.TarInfo) -> bytes:
    """Put the pieces of a sparse member to their places, with zeros between them."""
    content = bytearray(member.size)
    left = member.size
    for offset, size in cast(list[tuple[int, int]], member.sparse):
        left -= size
        if offset < 0 or size < 0 or offset + size > member.size or left < 0:
            raise Undecodable(f"the map of holes of {member.name} is broken")
        piece = stream.take(size)
        if len(piece) < size:
            raise Undecodable(f"the tar is cut inside {member.name}")
        content[offset : offset + size] = piece
    return bytes(content)
