"""Where files are: any pyarrow or fsspec file system, behind pyarrow's interface."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa
from fsspec.utils import glob_translate
from pyarrow import fs as pafs

from embed_ops.errors import SourceError, SpecError, StorageError

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")
_WILDCARD = re.compile(r"[*?\[]")
_OPTIONS = re.compile(r"\?[A-Za-z_]\w*=.*$")
"""What an address with a scheme tells its file system: `s3://bucket/path?region=eu-west-1`."""


@dataclass(frozen=True)
class Location:
    """A file system and a path inside it."""

    fs: pafs.FileSystem
    path: str

    def child(self, relative: str) -> Location:
        """Give the location of a path below this one."""
        return Location(self.fs, f"{self.path.rstrip('/')}/{relative}")

    @property
    def local(self) -> bool:
        """Whether rename is atomic here and files can be synced to disk."""
        return isinstance(self.fs, pafs.LocalFileSystem)


def locate(address: str) -> Location:
    """Open the file system of an address: a local path, a pyarrow URI, or any fsspec protocol.

    Raises:
        SpecError: no file system serves the scheme.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return Location(pafs.LocalFileSystem(), full_address(address))
    try:
        filesystem, path = pafs.FileSystem.from_uri(address)
        return Location(filesystem, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # A scheme that Arrow does not serve, or was built without: fsspec may.
        pass
    try:
        opened, path = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise SpecError(f"{address}: no file system for {scheme[1]}://: {error}") from error
    return Location(pafs.PyFileSystem(pafs.FSSpecHandler(opened)), path)


def full_address(address: str) -> str:
    """Give an address that means the same from every working directory."""
    return address if _SCHEME.match(address) else str(Path(address).expanduser().absolute())


def list_files(address: str) -> tuple[Location, list[pafs.FileInfo]]:
    """List the files that a folder, a glob or a file address names, with the folder their names are relative to.

    Hidden files (a path part that begins with `.` or `_`, as `_SUCCESS`) are left out of folders and globs.

    Returns:
        the root and its files, ordered folder by folder, then by name.

    Raises:
        SourceError: nothing is there.
        StorageError: the listing failed.
    """
    options = _OPTIONS.search(address) if _SCHEME.match(address) else None
    path, told = (address[: options.start()], options[0]) if options else (address, "")
    wildcard = _WILDCARD.search(path)
    folder, pattern = address, ""
    if wildcard:
        cut = path.rfind("/", 0, wildcard.start()) + 1
        folder, pattern = (path[:cut] or ".") + told, path[cut:]
    root = locate(folder)
    try:
        info = root.fs.get_file_info(root.path)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"source.path {address}: nothing there; give a folder, a file or a glob that exists")
        if info.type == pafs.FileType.File and not wildcard:
            return Location(root.fs, root.path.rpartition("/")[0]), [info]
        found = root.fs.get_file_info(pafs.FileSelector(root.path, recursive=True))
    except OSError as error:
        raise StorageError(f"source.path {address}: can't be listed: {error}") from error
    prefix = len(root.path.rstrip("/")) + 1
    # Below the root, since every file system writes what is above it in its own way.
    matches = re.compile(glob_translate(pattern)) if wildcard else None
    files = [
        info
        for info in found
        if info.type == pafs.FileType.File
        and not any(part.startswith((".", "_")) for part in info.path[prefix:].split("/"))
        and (matches is None or matches.match(info.path[prefix:]))
    ]
    files.sort(key=lambda info: info.path[prefix:].split("/"))
    return root, files


def read_bytes(at: Location) -> bytes | None:
    """Read a whole small file, None where there is none."""
    try:
        with at.fs.open_input_stream(at.path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def publish(root: Location, relative: str, content: bytes | pa.Buffer, attempt: str) -> None:
    """Let a file appear whole or not at all, replacing one of the same name.

    Local: written under `tmp/<attempt>/`, synced, renamed. Elsewhere: one PUT of bytes that are complete in memory.

    Raises:
        StorageError: it could not be written; nothing half-written is visible.
    """
    final = root.child(relative)
    try:
        if not root.local:
            stream = final.fs.open_output_stream(final.path)
            stream.write(content)
            stream.close()
            return
        temporary = Path(root.child(f"tmp/{attempt}/{uuid.uuid4().hex}").path)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        Path(final.path).parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final.path)
    except OSError as error:
        raise StorageError(f"{final.path}: can't be written: {error}; mend the storage and run the same command again") from error


def remove(at: Location) -> None:
    """Delete a file; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        at.fs.delete_file(at.path)


def walk(root: Location, relative: str) -> Iterator[tuple[str, int]]:
    """Yield (path below `relative`, size) of all files there; nothing where the folder is missing."""
    base = root.child(relative)
    selector = pafs.FileSelector(base.path, recursive=True, allow_not_found=True)
    for info in base.fs.get_file_info(selector):
        if info.type == pafs.FileType.File:
            yield info.path[len(base.path) + 1 :], info.size


def create(at: Location, content: bytes) -> bool:
    """Write a file only where none is; tells whether it did."""
    if at.fs.get_file_info(at.path).type != pafs.FileType.NotFound:
        return False
    publish(Location(at.fs, at.path.rpartition("/")[0]), at.path.rpartition("/")[2], content, "create")
    return True
