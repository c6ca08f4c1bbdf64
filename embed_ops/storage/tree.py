"""A walk over a local folder that follows links, and lists each file of a loop once."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

Key = tuple[int, int]
"""What the system knows a folder by, whatever its path: device and number."""


@dataclass
class Tree:
    """What a walk saw; paths of files are whole, all others are below the root.

    Attributes:
        files: (path, bytes, nanoseconds since 1970 of the last change) of each.
        unnamed: files whose path is not UTF-8.
        dangling: links that lead nowhere.
        loops: links back to a folder that they are in, which are not followed.
        special: pipes, sockets and devices.
        outside: links to folders that were followed, and where they lead, resolved.
    """

    files: list[tuple[str, int, int]] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Folder:
    """A folder on the way: by which path, and through which others."""

    below: str
    key: Key
    is_link: bool
    above: _Folder | None

    def way(self) -> list[_Folder]:
        """List the folders from here up to the root."""
        folders, here = [], self
        while True:
            folders.append(here)
            if here.above is None:
                return folders
            here = here.above

    @property
    def by_link(self) -> bool:
        return any(folder.is_link for folder in self.way())


def walk_tree(root: str) -> Tree:
    """List everything below a folder.

    Links to files and folders are followed, but for those back to a folder on the way. Where such a
    way leads through other links, to folders that are below the root anyway, these are not followed
    either: each file of a loop is listed once, by its own path.

    Raises:
        OSError: a folder can't be listed.
    """
    tree, plain = Tree(), set[Key]()
    circles: dict[str, Key] = {}
    at = os.stat(root)  # noqa: PTH116 - plain strings, since Path drops what is odd in a path
    waiting = [_Folder("", (at.st_dev, at.st_ino), False, None)]
    while waiting:
        folder = waiting.pop()
        if not folder.by_link:
            plain.add(folder.key)
        with os.scandir(os.path.join(root, folder.below)) as entries:  # noqa: PTH118
            for entry in entries:
                inside = _look(root, folder, entry, tree)
                if inside is None:
                    continue
                way = folder.way()
                repeated = next((place for place, one in enumerate(way) if one.key == inside.key), None)
                if repeated is None:
                    waiting.append(inside)
                    if inside.is_link:
                        tree.outside[inside.below] = os.path.realpath(entry.path)
                    continue
                tree.loops.append(inside.below)
                circles |= {one.below: one.key for one in way[:repeated] if one.is_link}
    _cut(tree, root, [below for below, key in circles.items() if key in plain])
    return tree


def _look(root: str, folder: _Folder, entry: os.DirEntry[str], tree: Tree) -> _Folder | None:
    """Take an entry in; gives the folder that it is or leads to."""
    below = f"{folder.below}/{entry.name}" if folder.below else entry.name
    is_link = entry.is_symlink()
    try:
        status = entry.stat()
    except OSError:
        if not is_link:
            raise
        tree.dangling.append(below)
        return None
    if stat.S_ISDIR(status.st_mode):
        # A link inside a hidden folder may lead anywhere, as those of wine to the whole disk.
        if is_link and any(part.startswith((".", "_")) for part in folder.below.split("/")):
            return None
        return _Folder(below, (status.st_dev, status.st_ino), is_link, folder)
    if not stat.S_ISREG(status.st_mode):
        tree.special.append(below)
    elif _is_utf8(below):
        tree.files.append((f"{root.rstrip('/')}/{below}", status.st_size, status.st_mtime_ns))
    else:
        tree.unnamed.append(below)
    return None


def _cut(tree: Tree, root: str, links: list[str]) -> None:
    """Leave out what was listed through links of a loop."""
    if not links:
        return
    inside = tuple(f"{link}/" for link in links)
    start = len(root.rstrip("/")) + 1
    tree.files = [file for file in tree.files if not file[0][start:].startswith(inside)]
    for names in (tree.unnamed, tree.dangling, tree.special):
        names[:] = [name for name in names if not name.startswith(inside)]
    tree.loops = sorted({*links, *(name for name in tree.loops if not name.startswith(inside))})


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
