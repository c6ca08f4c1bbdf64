"""A Ray that is this user's alone: on loopback, its folder and its token for nobody else.

Whoever reaches a Ray runs code on it. By itself Ray listens on every address of the machine, opens
its folder to all users, and lets them read its token.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import ray_constants

from embed_ops.storage.private import private_folder

_SEVERAL_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Off, Ray takes the loopback for a node's address, and all its processes listen there only. It is
meant for systems whose firewalls ask about each port; `_node_ip_address` does not do it: Ray takes
127.0.0.1 for a mistake and looks for another."""
_CONSTANT = "ENABLE_RAY_CLUSTER"
_LONGEST = 40
"""Bytes of a folder below which Ray's sockets can lie: the system allows their paths 107."""


@contextmanager
def alone() -> Iterator[dict[str, Any]]:
    """Give what `ray.init` is to be told, and set the rest for the time of a `with` around it.

    Where `RAY_TMPDIR` names a folder Ray uses that one, as the user has it.

    Raises:
        StorageError: the folder in the temporary folder is not this user's.
    """
    keep_token_private()
    folder = None if os.environ.get("RAY_TMPDIR") else f"{_short_folder()}/ray"
    before, constant = os.environ.get(_SEVERAL_NODES), getattr(ray_constants, _CONSTANT, None)
    os.environ[_SEVERAL_NODES] = "0"
    setattr(ray_constants, _CONSTANT, False)
    try:
        yield {} if folder is None else {"_temp_dir": folder}
    finally:
        # A cluster that this process joins later sees its real address.
        setattr(ray_constants, _CONSTANT, constant)
        os.environ.pop(_SEVERAL_NODES)
        if before is not None:
            os.environ[_SEVERAL_NODES] = before


def _short_folder() -> Path:
    """Give a folder of this user's own whose path leaves room for the names of sockets."""
    folder = private_folder()
    return folder if len(os.fsencode(folder)) < _LONGEST else private_folder("/tmp")


def keep_token_private() -> None:
    """Make the token that Ray would make, for this user's eyes; close one that is open to others.

    A token that the environment brings, or names, is left as it is. Where this can't be done, Ray
    says what is wrong.
    """
    if any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    with contextlib.suppress(OSError, RuntimeError):
        place = Path.home() / ".ray" / "auth_token"
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.is_file():
            if place.stat().st_mode & 0o077:
                place.chmod(0o600)
            return
        # Whole or not at all: another command may read it at this moment.
        handle, temporary = tempfile.mkstemp(dir=place.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, place)
        finally:
            Path(temporary).unlink()
