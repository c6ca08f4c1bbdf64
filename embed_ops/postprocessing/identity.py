"""What decides the bytes of a stage's run: its fingerprint, and a model that is given."""

from __future__ import annotations

import hashlib
from typing import Any

from embed_ops.errors import StageError
from embed_ops.postprocessing.asked import Asked
from embed_ops.postprocessing.whole_run import whole_run
from embed_ops.redaction import redacted_tree
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.models import MODEL_ARRAYS, MODEL_JSON, read_model
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import StageSpec
from embed_ops.storage.files import locate, read_bytes

_NOT_COMPARED = ("name", "input", "seed", "gpus_per_worker")


def fingerprint_of(asked: Asked, rows: RunRows, vectors: VectorColumn) -> dict[str, Any]:
    """List what decides a stage's bytes: its section, the seed, and what its input holds.

    Args:
        asked: the stage.
        rows: of the run that it reads.
        vectors: the column; another run than that may hold it.
    """
    fingerprint = stage_fields(asked.spec) | {
        "stage.column": vectors.column,
        "seed": asked.seed,
        "input": rows.content,
        "input of the column": "" if vectors.run == rows.root else RunRows(vectors.run).content,
    }
    if asked.model is not None:
        fingerprint["model"] = _digest_of_model(asked.model)
    whole = whole_run(asked.spec)
    return fingerprint if whole is None else fingerprint | whole.identity()


def stage_fields(spec: StageSpec) -> dict[str, Any]:
    """List the fields of a section that decide a stage's bytes.

    The secret of an address does not: it may be another one tomorrow.
    """
    tree = redacted_tree(spec.model_dump(mode="json"))
    return {f"stage.{name}": value for name, value in tree.items() if name not in _NOT_COMPARED}


def _digest_of_model(address: str) -> str:
    folder = locate(address).child("model")
    return hashlib.sha256(
        b"".join(read_bytes(folder.child(name)) or b"" for name in (MODEL_JSON, MODEL_ARRAYS))
    ).hexdigest()[:16]


def foreign_model(asked: Asked) -> Any:
    """Read the model of another run that a stage is to apply.

    Raises:
        StageError: there is none, or it is of another kind.
    """
    model = read_model(locate(asked.model or "").child("model"))
    if model is None:
        raise StageError(
            f"{asked.model}: no fitted model here (model/{MODEL_JSON} is missing); give the run of a stage"
        )
    if model.kind != asked.spec.kind:
        raise StageError(
            f"{asked.model}: holds a model of kind {model.kind!r}, the stage is {asked.spec.kind!r}"
        )
    return model
