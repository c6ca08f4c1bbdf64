"""Files of a model folder: their JSON, their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from embed_ops.errors import ModelError

_POINTER, _POINTER_BYTES = b"version https://git-lfs", 1024


def is_pointer(path: Path) -> bool:
    """Tell whether a Git LFS pointer stands in a file's place."""
    if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
        return False
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def sha256_of(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} if there is no such file.

    Raises:
        ModelError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = "a Git LFS pointer, which stands for it: git lfs pull" if is_pointer(path) else str(error)
        raise ModelError(f"{path}: not a JSON file ({found}); fetch the model again") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: expected a JSON object, found a {type(content).__name__}; fetch the model again"
        )
    return content
