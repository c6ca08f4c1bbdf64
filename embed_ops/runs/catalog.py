"""The runs below a folder: where they are, found without listing what is in them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyarrow import fs as pafs

from embed_ops.errors import RunError, StorageError
from embed_ops.runs.digests import PLAN
from embed_ops.runs.header import RUN_JSON
from embed_ops.runs.record import MANIFEST
from embed_ops.storage.faults import patiently
from embed_ops.storage.files import Location, file_info
from embed_ops.storage.listing import resolved

STAGES = "stages"
"""Folder of a run that holds the runs of its stages."""
_THREADS = 16


@dataclass(frozen=True)
class Found:
    """A folder that holds a run, or what is left of one.

    Attributes:
        name: path below the folder that was looked through; "." for that itself.
        root: where it is.
        files: names of the files in it.
        wrong: why it can't be read, "" where nothing is known against it.
    """

    name: str
    root: Location
    files: frozenset[str] = frozenset()
    wrong: str = ""


def find_runs(folder: Location) -> list[Found]:
    """Find the runs at a place and below it, by name, stages among them.

    What lies in a run is not listed, but for its stages; links are followed once.

    Raises:
        RunError: there is no such folder.
        StorageError: it can't be listed.
    """
    if file_info(folder).type != pafs.FileType.Directory:
        raise RunError(f"{folder.path}: no such folder; give one that has runs in it")
    found: list[Found] = []
    seen: set[str] = set()
    level = [("", folder)]
    with ThreadPoolExecutor(_THREADS) as pool:
        while level:
            level = list(_not_seen(level, seen))
            deeper: list[tuple[str, Location]] = []
            for (name, place), looked in zip(level, pool.map(_look, level), strict=True):
                if isinstance(looked, StorageError):
                    if not name:
                        raise looked
                    found.append(Found(name, place, wrong=str(looked)))
                    continue
                here, folders = looked
                found += [] if here is None else [here]
                deeper += [(posixpath.join(name, inside), place.child(inside)) for inside in folders]
            level = deeper
    return sorted(found, key=lambda run: run.name.split("/"))


def _not_seen(level: Iterable[tuple[str, Location]], seen: set[str]) -> Iterator[tuple[str, Location]]:
    """Leave out folders that were looked at already, by another link."""
    for name, place in level:
        here = resolved(place)
        if here not in seen:
            seen.add(here)
            yield name, place


def _look(at: tuple[str, Location]) -> tuple[Found | None, list[str]] | StorageError:
    """List one folder: the run in it, and the folders that may have more."""
    name, place = at
    selector = pafs.FileSelector(place.path, allow_not_found=True)
    try:
        listed = patiently("listed", place.path, lambda: place.fs.get_file_info(selector))
    except (StorageError, OSError) as error:
        return error if isinstance(error, StorageError) else StorageError(f"{place.path}: {error}")
    files = frozenset(item.base_name for item in listed if item.type == pafs.FileType.File)
    folders = sorted(item.base_name for item in listed if item.type == pafs.FileType.Directory)
    if RUN_JSON in files:
        return Found(name or ".", place, files), [STAGES] if STAGES in folders else []
    if PLAN in files and MANIFEST in folders:
        lost = "run.json is missing, which says what the run is: restore it"
        return Found(name or ".", place, files, lost), [STAGES] if STAGES in folders else []
    return None, [inside for inside in folders if not inside.startswith(".")]
