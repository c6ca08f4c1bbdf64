"""JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embed_ops.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} if there is no such file.

    Raises:
        ModelError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a JSON file ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: expected a JSON object, found a {type(content).__name__}; fetch the model again"
        )
    return content
