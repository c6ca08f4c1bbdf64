"""The space that vectors lie in: which model and which settings made a column.

A model that was fitted on vectors of one space says nothing of those of another, though their width
may be the same. How texts are cut, and the prompt before them, are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import RunHeader
from embed_ops.runs.models import model_digest
from embed_ops.storage.location import locate

EVALUATION_JSON, SPACE = "evaluation.json", "space"
"""Where `evaluate` says of a probe what it was fitted on, and under which name."""


def space_of(vectors: VectorColumn, header: RunHeader) -> str | None:
    """Name the space of a column: 16 hexadecimal digits.

    None where it is not known, since an earlier version wrote the run.

    Args:
        vectors: the column.
        header: of the run that holds it.
    """
    if header.parent is None:
        entries = {name: value for name, value in header.fingerprint.items() if name.startswith("model ")}
        outputs = header.fingerprint.get("encoder.outputs") or ()
        # What an output is called changes nothing.
        made = [{**output, "name": None} for output in outputs if output.get("name") == vectors.column]
        return _digest({**entries, "output": made})
    if header.space is None:
        return None
    return _digest({"of": header.space, "model": model_digest(vectors.run)})


def space_of_fit(address: str) -> str | None:
    """Name the space that a fitted model was fitted on, None where it is not told.

    Args:
        address: of a stage's run, or of the folder that `evaluate` has written.

    Raises:
        RunError: `run.json` there can't be read.
    """
    here = locate(address)
    header = RunDir(here).read_header()
    if header is not None:
        return header.space
    told = RunDir(here).read_json(EVALUATION_JSON) or {}
    space = told.get(SPACE)
    return space if isinstance(space, str) else None


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
