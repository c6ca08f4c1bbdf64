"""Fitted models in a run directory: the folder `model/`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from embed_ops.errors import StageError
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
        StageError: it can't be read, or no stage of this version made it.
    """
    text, content = read_bytes(folder.child(MODEL_JSON)), read_bytes(folder.child(MODEL_ARRAYS))
    if text is None or content is None:
        return None
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


def load_model(path: str) -> Any:
    """Load what a stage fitted; `transform` works in plain Python, without Ray or torch.

    Args:
        path: the `model` folder of a stage's run, or the run itself.

    Raises:
        StageError: there is no model.
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
