"""Files wherever they are: list, read, write, delete, behind pyarrow's interface.

What may pass is waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
from fsspec.utils import glob_translate
from pyarrow import fs as pafs

from embed_ops.errors import SourceError, StorageError
from embed_ops.storage import web
from embed_ops.storage.faults import patiently, storage_error
from embed_ops.storage.location import (
    OPTIONS,
    REQUEST_TIMEOUT_S,
    SCHEME,
    Location,
    full_address,
    locate,
)
from embed_ops.storage.publishing import create, publish
from embed_ops.storage.remote_file import RemoteFile

__all__ = [
    "Location",
    "check_readable",
    "check_space",
    "create",
    "file_info",
    "full_address",
    "list_files",
    "locate",
    "open_file",
    "publish",
    "read_bytes",
    "remove",
    "remove_folder",
    "walk",
]

_BLOCK_BYTES = 4 << 20
_ASKED_AGAIN = web.WebLimits(REQUEST_TIMEOUT_S, lambda _: None, private=True)
_WILDCARD = re.compile(r"[*?\[]")


def list_files(address: str) -> tuple[Location, list[pafs.FileInfo]]:
    """List the files that the address of a folder, a glob or a file names.

    Hidden files (a path part that begins with `.` or `_`, as `_SUCCESS`) are left out of folders
    and globs.

    Returns:
        the root and its files, ordered folder by folder, then by name.

    Raises:
        SourceError: nothing is there.
        StorageError: the listing failed.
    """
    options = OPTIONS.search(address) if SCHEME.match(address) else None
    path, told = (address[: options.start()], options[0]) if options else (address, "")
    wildcard = _WILDCARD.search(path)
    folder, pattern = address, ""
    if wildcard:
        cut = path.rfind("/", 0, wildcard.start()) + 1
        folder, pattern = (path[:cut] or ".") + told, path[cut:]
    root = locate(folder)
    info = file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise SourceError(
            f"source.path {address}: nothing there; give a folder, a file or a glob that exists"
        )
    if info.type == pafs.FileType.File and not wildcard:
        return Location(root.fs, root.path.rpartition("/")[0]), [info]
    listed = _listing(root)
    prefix = len(root.path.rstrip("/")) + 1
    # Below the root, since every file system writes what is above it in its own way.
    matches = re.compile(glob_translate(pattern)) if wildcard else None
    files = [
        info
        for info in listed
        if info.type == pafs.FileType.File
        and not any(part.startswith((".", "_")) for part in info.path[prefix:].split("/"))
        and (matches is None or matches.match(info.path[prefix:]))
    ]
    files.sort(key=lambda info: info.path[prefix:].split("/"))
    return root, files


def file_info(at: Location) -> pafs.FileInfo:
    """Look what is at a place: a file, a folder, nothing.

    Raises:
        StorageError: the storage fails.
    """

    def look() -> pafs.FileInfo:
        info = at.fs.get_file_info(at.path)
        if info.type == pafs.FileType.NotFound and urlsplit(at.path).scheme in web.SCHEMES:
            # fsspec says so of every answer but a good one.
            web.answers(at.path, _ASKED_AGAIN)
        return info

    return patiently("looked at", at.path, look)


def _listing(folder: Location) -> list[pafs.FileInfo]:
    """List everything below a folder, sizes included, without asking for any file alone.

    Nothing where it is missing.
    """
    selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)

    def ask() -> list[pafs.FileInfo]:
        if folder.fsspec is not None:
            # It remembers listings, and does not hear of what other processes write.
            folder.fsspec.invalidate_cache()
        listed: list[pafs.FileInfo] = folder.fs.get_file_info(selector)
        return listed

    return patiently("listed", folder.path, ask)


def open_file(at: Location) -> pa.NativeFile:
    """Open a file that should be there for reading anywhere in it.

    Outside of local disks what it raises on reading is `StorageError`, so that everything else is a
    fault of the content.

    Raises:
        StorageError: it can't be opened, or is gone.
    """
    try:
        if at.local:
            return patiently("read", at.path, lambda: at.fs.open_input_file(at.path))
        return pa.PythonFile(RemoteFile(at), mode="r")
    except FileNotFoundError as error:
        raise storage_error("read", at.path, error) from error


def check_readable(at: Location, error: Exception) -> None:
    """Tell a broken file from broken storage: every raw byte of a broken file can be read.

    Args:
        at: a file that could not be decoded.
        error: what decoding raised, which becomes the cause of what is raised here.

    Raises:
        StorageError: the bytes can't be read.
    """
    try:
        size = file_info(at).size
        with open_file(at) as file:
            read = 0
            while block := file.read(_BLOCK_BYTES):
                read += len(block)
    except OSError as failure:
        raise storage_error("read", at.path, failure) from error
    if size is None or read < size:
        raise StorageError(
            f"{at.path}: only {read} of {size} bytes can be read; mend the storage and run the same "
            "command again"
        )


def read_bytes(at: Location) -> bytes | None:
    """Read a whole small file, None where there is none.

    Raises:
        StorageError: the storage fails.
    """

    def read() -> bytes:
        # A stream, which does not know its size, would hold the content twice.
        with at.fs.open_input_file(at.path) as file:
            return bytes(file.read())

    try:
        return patiently("read", at.path, read) if at.local else RemoteFile(at).read()
    except FileNotFoundError:
        return None


def remove(at: Location) -> None:
    """Delete a file; one that is gone already is fine.

    Raises:
        StorageError: the storage fails.
    """
    with contextlib.suppress(FileNotFoundError):
        patiently("deleted", at.path, lambda: at.fs.delete_file(at.path))


def walk(root: Location, relative: str) -> Iterator[tuple[str, int]]:
    """Yield (path below `relative`, size) of all files there; nothing where the folder is missing.

    Raises:
        StorageError: the listing failed.
    """
    base = root.child(relative)
    for info in _listing(base):
        if info.type == pafs.FileType.File:
            yield info.path[len(base.path) + 1 :], info.size


def remove_folder(root: Location, relative: str) -> None:
    """Delete a folder and what is in it; one that is not there is fine."""
    for name, _ in list(walk(root, relative)):
        remove(root.child(f"{relative}/{name}"))
    with contextlib.suppress(OSError):
        # Object stores have no folders, and an empty one harms nobody.
        root.fs.delete_dir(root.child(relative).path)


def check_space(root: Location, needed: int) -> None:
    """Refuse to start where the disk is too small for the vectors; only local disks can tell.

    Raises:
        StorageError: names both figures.
    """
    if not root.local:
        return
    folder = root.path
    while not os.path.isdir(folder):  # noqa: PTH112 - a plain string path, root may not exist yet
        folder = os.path.dirname(folder)  # noqa: PTH120
    free = psutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{root.path}: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; choose another "
            "sink.path"
        )
