"""What decides the bytes of a stage's run: its fingerprint, and a model that is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from embed_ops.errors import StageError
from embed_ops.postprocessing.asked import Asked
from embed_ops.postprocessing.whole_run import whole_run
from embed_ops.redaction import redacted_tree
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import require_same
from embed_ops.runs.header import RunHeader
from embed_ops.runs.made_of import INPUT
from embed_ops.runs.models import MODEL_JSON, model_digest, read_model
from embed_ops.runs.rows import RunRows
from embed_ops.runs.space import space_of_fit
from embed_ops.spec.spec import parse_stage
from embed_ops.spec.stage import ClassifySpec, StageSpec
from embed_ops.storage.files import locate

_NOT_COMPARED = ("name", "input", "seed", "gpus_per_worker")
_COPYING = ("keep", "keep_columns")
_OF_APPLYING = (*_NOT_COMPARED, *_COPYING, "column", "output", "label", "by_cluster")
"""Fields of a section that say where and how a model is applied, and nothing of its fit."""
_STATE = (INPUT, "input of the column")
"""Entries that name a state of the input, in which a run may go on from an earlier one."""


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
        INPUT: rows.content,
        "input of the column": "" if vectors.run == rows.root else RunRows(vectors.run).content,
    }
    if asked.model is not None:
        fingerprint["model"] = model_digest(locate(asked.model))
    whole = whole_run(asked.spec)
    return fingerprint if whole is None else fingerprint | whole.identity()


def same_state(path: str, header: RunHeader, fingerprint: dict[str, Any]) -> bool:
    """Tell whether a stage's input is as it was when its run was begun.

    Raises:
        RunError: the run is of another stage, or of other settings.
    """

    def settings(entries: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in entries.items() if name not in _STATE}

    require_same(path, settings(header.fingerprint), settings(fingerprint))
    return all(header.fingerprint.get(name) == fingerprint[name] for name in _STATE)


def as_fitted(asked: Asked) -> Asked:
    """Give a stage that applies a model the settings that the model was fitted with.

    Raises:
        StageError: it is asked for others.
    """
    header = None if asked.model is None else RunDir(locate(asked.model)).read_header()
    if header is None or header.parent is None or header.spec.get("kind") != asked.spec.kind:
        return asked
    fitted = parse_stage(header.spec)
    for name in sorted(asked.spec.model_fields_set - {*_OF_APPLYING, "kind"}):
        mine, its = getattr(asked.spec, name), getattr(fitted, name)
        if mine != its:
            raise StageError(
                f"{asked.model}: its model was fitted with {name} = {its!r}, and {name} = {mine!r} is asked "
                f"for; ask for {its!r}, or fit a model without --model"
            )
    where = {name: getattr(asked.spec, name) for name in _OF_APPLYING if hasattr(asked.spec, name)}
    return replace(asked, spec=fitted.model_copy(update=where))


def require_space(asked: Asked, space: str | None, vectors: VectorColumn) -> None:
    """Compare the space of the vectors with that which a given model was fitted on.

    Raises:
        StageError: they differ, and nobody said that this is meant.
    """
    probe = asked.spec.probe if isinstance(asked.spec, ClassifySpec) else None
    address = asked.model or probe
    if address is None or asked.any_space:
        return
    fitted_on = space_of_fit(address)
    if None not in (space, fitted_on) and space != fitted_on:
        raise StageError(
            f"{address}: was fitted on vectors of another model, or of other settings, than column "
            f"{vectors.column!r} of {vectors.run.path} holds: an equal width does not make them comparable. "
            "Fit one on these vectors; --any-space applies it all the same"
        )


def stage_fields(spec: StageSpec) -> dict[str, Any]:
    """List the fields of a section that decide a stage's bytes.

    The secret of an address does not: it may be another one tomorrow.
    """
    tree = redacted_tree(spec.model_dump(mode="json"))
    # What copies nothing changes nothing: runs of before stay what they are.
    left_out = {*_NOT_COMPARED, *(name for name in _COPYING if not tree.get(name))}
    return {f"stage.{name}": value for name, value in tree.items() if name not in left_out}


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
