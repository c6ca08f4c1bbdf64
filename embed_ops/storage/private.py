"""A folder of this user's own in the temporary folder, where all users of a machine may write."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from embed_ops.errors import StorageError


def private_folder(parent: str | None = None) -> Path:
    """Make the folder, where it is not there, and give it: `embed-ops-UID`.

    Nobody else can have put anything into it: it is no link, belongs to this user, and to this user
    alone.

    Args:
        parent: where it is to lie; by default in the temporary folder.

    Raises:
        StorageError: it can't be made, or somebody else has made it or may write to it.
    """
    try:
        parent = parent or tempfile.gettempdir()
    except OSError as error:
        raise StorageError(f"{error}; set TMPDIR to a folder that you may write to") from error
    folder = Path(parent) / f"embed-ops-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StorageError(
            f"{folder}: can't be made ({error}), and locks are kept there; set TMPDIR to a writable folder"
        ) from error
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        fault = "is a link or no folder"
    elif found.st_uid != os.getuid():
        fault = f"belongs to user {found.st_uid} and not to {os.getuid()}"
    elif found.st_mode & 0o077:
        fault = f"is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return folder
    raise StorageError(
        f"{folder}: {fault}, and what lies in it would be believed: delete it, or set TMPDIR to a folder of "
        "your own"
    )


def write_private(file: Path, content: str) -> None:
    """Write a small file that only this user can read; a link in its place is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as opened:
        opened.write(content)
