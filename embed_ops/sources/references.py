"""Fetches the files that rows name: paths beside the source file, absolute paths, and URIs."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import SpecError
from embed_ops.schema import Reason
from embed_ops.storage.files import Location, file_info, locate, read_bytes

HELD_BYTES = 64 << 20
"""Bytes of fetched files that are held together."""
LOOKED_AT = 64
"""Files whose sizes are asked for together."""
_THREADS = 16

Fault = tuple[str, str]
"""Reason and message of a file that can't be had."""
Content = bytes | Fault | None
"""What a row holds; None for a null."""
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _File:
    """A file that is there and not read yet."""

    name: str
    at: Location
    size: int


def fetch(
    column: pa.ChunkedArray, wanted: npt.NDArray[np.bool_], beside: Location, most_bytes: int, held_bytes: int
) -> Iterator[tuple[int, list[Content]]]:
    """Fetch the files that rows name, several at once, in portions of consecutive rows.

    (first row, what they hold).

    The size of every file is asked for first, so a portion ends before it would hold too much. Of
    no rows there is one portion.

    Args:
        column: a path, a URI, or a struct of `bytes` and `path` in each row, of which the bytes
            win.
        wanted: (rows,) bool; the others become None.
        beside: the source file, next to which relative paths begin.
        most_bytes: of a file; a larger one is a fault.
        held_bytes: of a portion, unless it is a single row.

    Raises:
        StorageError: the storage fails.
    """
    for first in range(0, max(1, len(column)), LOOKED_AT):
        values = column.slice(first, LOOKED_AT).to_pylist()
        asked = [
            value if keep else None
            for value, keep in zip(values, wanted[first : first + LOOKED_AT], strict=True)
        ]
        seen = _at_once(lambda value: _look(value, beside, most_bytes), asked)
        for begin, part in _portions(seen, held_bytes):
            yield first + begin, _at_once(_read, part)


def _at_once(act: Callable[[_Given], _Made], values: Sequence[_Given]) -> list[_Made]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(act, values))


def _portions(
    items: Sequence[_File | Content], held_bytes: int
) -> Iterator[tuple[int, Sequence[_File | Content]]]:
    begin, held = 0, 0
    for place, item in enumerate(items):
        size = item.size if isinstance(item, _File) else len(item) if isinstance(item, bytes) else 0
        if place > begin and held + size > held_bytes:
            yield begin, items[begin:place]
            begin, held = place, 0
        held += size
    yield begin, items[begin:]


def _look(value: Any, beside: Location, most_bytes: int) -> _File | Content:
    if isinstance(value, Mapping):
        own, value = value.get("bytes"), value.get("path")
        if own is not None:
            return (
                own
                if len(own) <= most_bytes
                else (Reason.TOO_LARGE, f"the image is longer than {most_bytes} bytes")
            )
    if value is None:
        return None
    if not isinstance(value, str):
        return Reason.WRONG_TYPE, f"the path is a {type(value).__name__}, not text"
    try:
        at = _place(value, beside)
    except SpecError as error:
        return Reason.MISSING, f"{value}: {error}"
    size = file_info(at).size
    if size is None:
        return _missing(value)
    return (
        _File(value, at, size)
        if size <= most_bytes
        else (Reason.TOO_LARGE, f"{value}: the file is longer than {most_bytes} bytes")
    )


def _read(item: _File | Content) -> Content:
    if not isinstance(item, _File):
        return item
    content = read_bytes(item.at)
    return _missing(item.name) if content is None else content


def _missing(name: str) -> Fault:
    return Reason.MISSING, f"{name}: there is no such file"


def _place(reference: str, beside: Location) -> Location:
    scheme, separator, rest = reference.partition("://")
    if separator:
        host, _, path = rest.partition("/")
        root = _root(f"{scheme}://{host}/")
        # In the address of a store `%` begins an escape; fsspec's HTTP takes whole addresses as
        # they are.
        return Location(root.fs, reference) if scheme in ("http", "https") else root.child(unquote(path))
    folder = "" if reference.startswith("/") else beside.path.rpartition("/")[0] + "/"
    # A store has no folders: `..` must be gone before it is asked.
    return Location(beside.fs, posixpath.normpath(folder + reference))


@lru_cache(maxsize=64)
def _root(address: str) -> Location:
    """Open a file system once for all files of a bucket or host."""
    return locate(address)
