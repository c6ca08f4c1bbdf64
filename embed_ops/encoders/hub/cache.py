"""The cache of a node: what it keeps between runs (`EMBED_OPS_CACHE`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from embed_ops.errors import StorageError

_DEAD_AFTER_S = 3600
"""A temporary file that nobody has written to for so long belongs to nobody."""


def cache_folder() -> Path:
    """Give the folder of what this node keeps between runs.

    `EMBED_OPS_CACHE`, else the user's cache.
    """
    own, shared = os.environ.get("EMBED_OPS_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{shared}/embed-ops").expanduser().absolute()


def scratch() -> Path:
    """Make the folder of files that are being written, and give it."""
    folder = cache_folder() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unwritable(error: OSError) -> StorageError:
    """Word the error of a cache that can't be written."""
    return StorageError(
        f"{cache_folder()}: can't be written ({error}); mend it or set EMBED_OPS_CACHE, and run the same "
        "command again"
    )


def sweep() -> None:
    """Remove what killed processes left half-copied."""
    old = time.time() - _DEAD_AFTER_S
    for entry in (cache_folder() / "tmp").glob("*"):
        with contextlib.suppress(OSError):
            if max(file.stat().st_mtime for file in (entry, *entry.rglob("*"))) < old:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
