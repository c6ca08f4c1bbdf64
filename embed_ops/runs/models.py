"""Fitted models in a run directory: the folder `model/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from embed_ops.errors import StageError
from embed_ops.runs.digests import DIGESTS_JSON, digest_of, parse_digests
from embed_ops.stages.registry import model_class
from embed_ops.storage.files import Location, locate, publish, read_bytes
from embed_ops.storage.packing import join, split

MODEL_JSON, MODEL_ARRAYS = "model.json", "model.safetensors"


def write_model(run: Location, model: Any, attempt: str) -> None:
    """Write a fitted model as `model/`: the JSON last, since it says that the model is whole."""
    arrays, plain = split(model)
    text = json.dumps({"kind": model.kind, **plain}, indent=2, sort_keys=True).encode()
    publish(run, f"model/{MODEL_ARRAYS}", save(arrays), attempt)
    publish(run, f"model/{MODEL_JSON}", text, attempt)


def read_model(folder: Location) -> Any:
    """Read a fitted model, None where there is none.

    Raises:
        StageError: it can't be read, is not what was written, or no stage of this version made it.
    """
    text, content = read_bytes(folder.child(MODEL_JSON)), read_bytes(folder.child(MODEL_ARRAYS))
    if text is None or content is None:
        return None
    _require_unchanged(folder, {MODEL_JSON: text, MODEL_ARRAYS: content})
    try:
        plain = json.loads(text)
        return join(model_class(plain.pop("kind")), load(content), plain)
    except (ValueError, KeyError, TypeError, StageError, SafetensorError) as error:
        raise StageError(
            f"{folder.path}: not a model that this version can read: {type(error).__name__}: {error}"
        ) from error


def model_digest(run: Location) -> str:
    """Digest the model of a stage's run: 16 hexadecimal digits."""
    folder = run.child("model")
    return hashlib.sha256(
        b"".join(read_bytes(folder.child(name)) or b"" for name in (MODEL_JSON, MODEL_ARRAYS))
    ).hexdigest()[:16]


def _require_unchanged(folder: Location, contents: Mapping[str, bytes]) -> None:
    """Compare the files of a model with the checksums beside its folder, where there are any.

    Raises:
        StageError: a file is not what was written.
    """
    run, _, name = folder.path.rstrip("/").rpartition("/")
    known = read_bytes(Location(folder.fs, run).child(DIGESTS_JSON)) if run else None
    if known is None:
        return
    try:
        told = parse_digests(known)
    except ValueError:
        # `verify` says that; it tells nothing of the model.
        return
    for file, content in contents.items():
        if told.get(f"{name}/{file}", digest_of(content)) != digest_of(content):
            raise StageError(
                f"{folder.path}/{file}: changed since it was written: its sha256 is not the one in "
                f"{run}/{DIGESTS_JSON}; restore it, or fit it again (`postprocess "
                "... --refit`, or `evaluate`)"
            )


def load_model(path: str) -> Any:
    """Load what a stage fitted; `transform` works in plain Python, without Ray or torch.

    Args:
        path: the `model` folder of a stage's run, or the run itself.

    Raises:
        StageError: there is no model, or it is not what was written.
    """
    here = locate(path)
    model = read_model(here) or read_model(here.child("model"))
    if model is None:
        raise StageError(
            f"{path}: no model here ({MODEL_JSON} is missing); give a stage's run, or its folder model/"
        )
    return model


def read_probe(path: str) -> Any:
    """Load the linear probe that `evaluate` has written.

    Raises:
        StageError: there is no model, or one of another kind.
    """
    probe = load_model(path)
    if probe.kind != "classify":
        raise StageError(
            f"{path}: holds a {probe.kind} model, and a probe is needed; give the folder that `embed-ops "
            "evaluate` has written"
        )
    return probe
