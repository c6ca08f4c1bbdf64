"""Fetches the files that rows name: paths beside the source file, absolute paths, and URIs."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from embed_ops.errors import SpecError
from embed_ops.filesystem import Location, file_info, locate, read_bytes
from embed_ops.schema import Reason

REFERENCES_AT_ONCE = 64
"""Files that are held and waited for together."""
_THREADS = 16

Fault = tuple[str, str]
"""Reason and message of a file that can't be had."""


def fetch(values: Sequence[Any], beside: Location, most_bytes: int) -> Iterator[bytes | Fault | None]:
    """Fetch files, several at once; gives bytes, a fault, or None for a null, in order.

    Args:
        values: a path, a URI, or a mapping of `bytes` and `path` each, of which the bytes win.
        beside: the source file, next to which relative paths begin.
        most_bytes: of a file; a larger one is a fault.

    Raises:
        StorageError: the storage fails.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda value: _content(value, beside, most_bytes), values)


def _content(value: Any, beside: Location, most_bytes: int) -> bytes | Fault | None:
    if isinstance(value, Mapping):
        own, value = value.get("bytes"), value.get("path")
        if own is not None:
            return own if len(own) <= most_bytes else (Reason.TOO_LARGE, f"the image is longer than {most_bytes} bytes")
    if value is None:
        return None
    if not isinstance(value, str):
        return Reason.WRONG_TYPE, f"the path is a {type(value).__name__}, not text"
    try:
        at = _place(value, beside)
    except SpecError as error:
        return Reason.MISSING, f"{value}: {error}"
    size = file_info(at).size
    if size is not None and size > most_bytes:
        return Reason.TOO_LARGE, f"{value}: the file is longer than {most_bytes} bytes"
    content = None if size is None else read_bytes(at)
    return (Reason.MISSING, f"{value}: there is no such file") if content is None else content


def _place(reference: str, beside: Location) -> Location:
    scheme, separator, rest = reference.partition("://")
    if separator:
        host, _, path = rest.partition("/")
        root = _root(f"{scheme}://{host}/")
        # In the address of a store `%` begins an escape; fsspec's HTTP takes whole addresses as they are.
        return Location(root.fs, reference) if scheme in ("http", "https") else root.child(unquote(path))
    folder = "" if reference.startswith("/") else beside.path.rpartition("/")[0] + "/"
    # A store has no folders: `..` must be gone before it is asked.
    return Location(beside.fs, posixpath.normpath(folder + reference))


@lru_cache(maxsize=64)
def _root(address: str) -> Location:
    """Open a file system once for all files of a bucket or host."""
    return locate(address)
