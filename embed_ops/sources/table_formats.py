"""Folders of Parquet files that are a table of another system: a log says which rows it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from embed_ops.errors import SourceError
from embed_ops.storage.listing import Listing, folders_above

_FORMATS = (
    ("Delta", re.compile(r"(?:^|/)_delta_log/[^/]+$"), "_delta_log/*"),
    ("Iceberg", re.compile(r"(?:^|/)metadata/v?\d[^/]*\.metadata\.json$"), "metadata/*.metadata.json"),
    ("Hudi", re.compile(r"(?:^|/)\.hoodie/.+$"), ".hoodie/*"),
)
_LEVELS = 4
"""Folders above a root that are looked at: `table/year=2024/month=1` is a part of a table."""


def require_no_table(address: str, listing: Listing, files: Sequence[str]) -> None:
    """Refuse files of a table whose log is not read: rows that were removed would come back.

    Args:
        address: as it was given.
        listing: what is there.
        files: those that would be read, below the root.

    Raises:
        SourceError: names the table.
    """
    seen = [*listing.hidden, *listing.unmatched, *map(listing.inside, listing.files)]
    for format_name, log, _ in _FORMATS:
        for name in seen:
            if (match := log.search(name)) is not None:
                table = name[: match.start()]
                if not table or any(file.startswith(f"{table}/") for file in files):
                    raise SourceError(_told(address, table or listing.root.path, name, format_name))
    for folder in list(folders_above(listing.root, _LEVELS + 1))[1:]:
        for format_name, log, glob in _FORMATS:
            for path in _seen(folder.glob(glob)):
                if log.search(path.relative_to(folder).as_posix()) is not None:
                    raise SourceError(_told(address, str(folder), str(path), format_name))


def _seen(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths; a folder that may not be looked into has none."""
    try:
        yield from paths
    except OSError:
        return


def _told(address: str, table: str, log: str, format_name: str) -> str:
    return (
        f"source.path {address}: {table} is a table of {format_name} ({log}): its log says which files and "
        "rows it has, and is not read, so rows that were removed would come back; write the table out as "
        "plain Parquet, or give the files that it has now, one by one"
    )
