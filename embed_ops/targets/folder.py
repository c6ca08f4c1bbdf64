"""A folder that an export fills: `export.json` says what it is of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from embed_ops.errors import SpecError
from embed_ops.targets.base import Contents, Options

_FORM, _NEW_FORM = "export.json", ".export.json"


def form_of(kind: str, contents: Contents, options: Options) -> str:
    """Say in JSON what an export is of, and in which form."""
    return json.dumps({"run": contents.digest, "column": contents.column, "format": kind, **asdict(options)})


def claim(place: Path, form: str) -> None:
    """Take a folder for an export: a new or an empty one, or one that holds this export already.

    Args:
        place: the folder; it is made where it is not there.
        form: what `form_of` gave.

    Raises:
        SpecError: it holds something else.
    """
    known = place / _FORM
    if known.exists():
        if known.read_text(encoding="utf-8") != form:
            raise SpecError(
                f"{place}: holds the export of another run, or another form of it; choose another folder"
            )
        return
    if place.exists() and any(item.name != _NEW_FORM for item in place.iterdir()):
        raise SpecError(f"{place}: is not empty, and holds no export; choose another folder")
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / _NEW_FORM
    temporary.write_text(form, encoding="utf-8")
    temporary.replace(known)
