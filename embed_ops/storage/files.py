"""Files wherever they are: list, read, write, delete, behind pyarrow's interface.

What may pass is waited for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil
import pyarrow as pa
from pyarrow import fs as pafs

from embed_ops.errors import StorageError
from embed_ops.storage.faults import patiently, storage_error
from embed_ops.storage.listing import everything_below, file_info, list_files
from embed_ops.storage.location import Location, full_address, locate
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
        RunError: a link leads out of the folder that it is below.
    """
    at.require_inside()
    with contextlib.suppress(FileNotFoundError):
        patiently("deleted", at.path, lambda: at.fs.delete_file(at.path))


def walk(root: Location, relative: str) -> Iterator[tuple[str, int]]:
    """Yield (path below `relative`, size) of all files there; nothing where the folder is missing.

    Raises:
        StorageError: the listing failed.
    """
    base = root.child(relative)
    for info in everything_below(base):
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
