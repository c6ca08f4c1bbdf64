"""What an address names: the files below a folder, those that match a glob, or one file.

A listing also says what it saw and did not take, so that whoever reads the files can tell.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from fsspec.utils import glob_translate
from pyarrow import fs as pafs

from embed_ops.errors import SourceError
from embed_ops.storage import web
from embed_ops.storage.faults import patiently
from embed_ops.storage.location import OPTIONS, REQUEST_TIMEOUT_S, SCHEME, Location, locate
from embed_ops.storage.tree import walk_tree

_WILDCARD = re.compile(r"[*?\[]")
_HIDDEN = re.compile(r"(?:^|/)([._])")
WILDCARDS = "*, ? and [ stand for other characters, and [*], [?] and [[] for themselves"
_ASKED_AGAIN = web.WebLimits(REQUEST_TIMEOUT_S, lambda _: None, private=True)
_NATIVE = ("local", "s3", "gcs", "abfs")
"""Stores that are asked whether a path with wildcards is there under this very name."""


@dataclass(frozen=True)
class Listing:
    """The files that an address names, and what else was seen there.

    Paths but those of `files` are below the root.

    Attributes:
        root: folder that all files are below.
        pattern: glob or name that files had to match below the root, None where all count.
        files: ordered folder by folder, then by name.
        hidden: files below a name that begins with `.` or `_`, as `_SUCCESS`.
        unmatched: files that the pattern leaves out.
        unnamed: files whose names are not UTF-8; each odd byte is a lone surrogate.
        dangling: links that lead nowhere.
        loops: links back to a folder that they are in.
        special: pipes, sockets, devices.
        outside: links to folders, and where they lead, resolved.
    """

    root: Location
    pattern: str | None
    files: list[pafs.FileInfo]
    hidden: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the address was that of one file."""
        return len(self.files) == 1 and self.inside(self.files[0]) == self.pattern

    @property
    def by_name(self) -> bool:
        """Whether the files were named, alone or by a glob."""
        return self.pattern is not None

    def inside(self, info: pafs.FileInfo) -> str:
        """Give the path of a file below the root."""
        path: str = info.path[len(self.root.path.rstrip("/")) + 1 :]
        return path

    def reaches(self, folder: Location, entries: Iterable[str]) -> bool:
        """Tell whether files below one of the entries of a folder would be listed too.

        Links are followed on both sides.
        """
        if self.root.fs != folder.fs:
            return False
        place = resolved(folder)
        ways = {"": resolved(self.root), **self.outside}
        return any(
            (below := _below(place, leads_to)) is not None
            and self._takes("/".join(part for part in (way, below) if part), entries)
            for way, leads_to in ways.items()
        )

    def _takes(self, below: str, entries: Iterable[str]) -> bool:
        """Tell whether files in entries of a folder would be listed, by its path below the root."""
        if is_hidden(below, self.pattern):
            return False
        if self.pattern is None or ("**" in self.pattern and not self.is_file):
            return True
        parts = below.split("/") if below else []
        names = [re.escape(self.pattern)] if self.is_file else self.pattern.split("/")
        wanted = [re.compile(name if self.is_file else glob_translate(name)) for name in names]
        return len(wanted) > len(parts) and (
            all(one.fullmatch(part) for one, part in zip(wanted, parts, strict=False))
            and any(wanted[len(parts)].fullmatch(entry) for entry in entries)
        )


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


def resolved(at: Location) -> str:
    """Give the path of a place without `..` and links: two names of one place are equal."""
    return str(Path(at.path).resolve()) if at.local else posixpath.normpath(at.path)


def _below(path: str, folder: str) -> str | None:
    if path == folder:
        return ""
    start = f"{folder.rstrip('/')}/"
    return path[len(start) :] if path.startswith(start) else None


def is_hidden(path: str, pattern: str | None = None) -> bool:
    """Tell a path below a root with a part that begins with `.` or `_`.

    A glob that names such a part itself means it.
    """
    marks = _HIDDEN.findall(path)
    if not marks or pattern is None:
        return bool(marks)
    return not {part[:1] for part in pattern.split("/")}.issuperset(marks)


def list_files(address: str) -> Listing:
    """List the files that the address of a folder, a glob or a file names.

    What is there under this very name is no glob, whatever characters it has. Hidden files are left
    out of folders and globs.

    Raises:
        SourceError: nothing is there.
        StorageError: the listing failed.
    """
    folder, pattern = _split(address)
    root = locate(folder)
    info = file_info(root)
    if info.type == pafs.FileType.NotFound:
        advice = f"; {WILDCARDS}" if pattern else ""
        raise SourceError(
            f"source.path {address}: nothing there; give a folder, a file or a glob that exists{advice}"
        )
    if info.type == pafs.FileType.File and not pattern:
        return Listing(Location(root.fs, root.path.rpartition("/")[0]), info.base_name, [info])
    listing = _walked(root) if root.local else _asked(root)
    matches = re.compile(glob_translate(pattern)).match if pattern else None
    prefix = len(root.path.rstrip("/")) + 1
    kept: list[pafs.FileInfo] = []
    hidden: list[str] = []
    unmatched: list[str] = []
    for file in listing.files:
        below = file.path[prefix:]
        if is_hidden(below, pattern):
            hidden.append(below)
        elif matches is None or matches(below):
            kept.append(file)
        else:
            unmatched.append(below)
    kept.sort(key=lambda file: file.path[prefix:].split("/"))
    unnamed = [
        name
        for name in listing.unnamed
        if not is_hidden(name, pattern) and (matches is None or matches(name))
    ]
    return replace(
        listing,
        pattern=pattern or None,
        files=kept,
        hidden=hidden,
        unmatched=unmatched,
        unnamed=unnamed,
    )


def root_of(address: str) -> Location:
    """Give the folder that files of an address are below, as `list_files` does, without a listing.

    Raises:
        StorageError: the storage fails.
    """
    folder, pattern = _split(address)
    root = locate(folder)
    if pattern or file_info(root).type != pafs.FileType.File:
        return root
    return Location(root.fs, root.path.rpartition("/")[0])


def _split(address: str) -> tuple[str, str]:
    """Divide an address into a folder that is there and a glob below it, which may be empty."""
    options = OPTIONS.search(address) if SCHEME.match(address) else None
    path, told = (address[: options.start()], options[0]) if options else (address, "")
    first = _WILDCARD.search(path)
    if first is None:
        return address, ""
    cut = path.rfind("/", 0, first.start()) + 1
    # Names with wildcards in them, for as long as they are there.
    while (rest := path[cut:]) and _WILDCARD.search(rest) and _is_there(path[:cut], rest, told):
        cut += len(rest.partition("/")[0]) + 1
    if not _WILDCARD.search(path[cut:]):
        return path + told, ""
    return (path[:cut] or ".") + told, path[cut:]


def _is_there(folder: str, rest: str, told: str) -> bool:
    name = rest.partition("/")[0]
    place = locate(f"{folder}{name}{told}")
    return place.fs.type_name in _NATIVE and file_info(place).type != pafs.FileType.NotFound


def _walked(root: Location) -> Listing:
    """List a local folder."""
    tree = patiently("listed", root.path, lambda: walk_tree(root.path))
    files = [
        pafs.FileInfo(path, pafs.FileType.File, size=size, mtime_ns=modified)
        for path, size, modified in tree.files
    ]
    return Listing(
        root,
        None,
        files,
        unnamed=tree.unnamed,
        dangling=tree.dangling,
        loops=tree.loops,
        special=tree.special,
        outside=tree.outside,
    )


def _asked(root: Location) -> Listing:
    """List a folder of a store."""
    listed = everything_below(root)
    return Listing(root, None, [info for info in listed if info.type == pafs.FileType.File])


def everything_below(folder: Location) -> Sequence[pafs.FileInfo]:
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


def folders_above(root: Location, most: int) -> Iterator[Path]:
    """Yield a local folder and those above it, at most so many."""
    if root.local:
        here = Path(resolved(root))
        yield from [here, *here.parents][:most]
