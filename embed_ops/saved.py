"""Frozen dataclasses of arrays and numbers as bytes: states, summaries and models. Safetensors and JSON, never pickle."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from embed_ops.errors import StageError
from embed_ops.filesystem import Location, locate, publish, read_bytes
from embed_ops.registry import model_class

Arrays = dict[str, npt.NDArray[Any]]

_LENGTH_BYTES = 8
_CLASS = "class"
_OURS = "embed_ops."
MODEL_JSON, MODEL_ARRAYS = "model.json", "model.safetensors"


def split(thing: Any, prefix: str = "") -> tuple[Arrays, dict[str, Any]]:
    """Split a dataclass into its arrays, by dotted name, and its plain fields; dataclasses inside it are split alike."""
    arrays: Arrays = {}
    plain: dict[str, Any] = {}
    for item in fields(thing):
        value = getattr(thing, item.name)
        if isinstance(value, np.ndarray):
            arrays[prefix + item.name] = np.ascontiguousarray(value)
        elif is_dataclass(value):
            inner, words = split(value, f"{prefix}{item.name}.")
            arrays |= inner
            plain[item.name] = {_CLASS: _name(value), **words}
        else:
            plain[item.name] = value.item() if isinstance(value, np.generic) else value
    return arrays, plain


def join(kind: type[Any], arrays: Arrays, plain: Mapping[str, Any], prefix: str = "") -> Any:
    """Make a dataclass again from what `split` gave; lists of JSON are tuples."""
    values: dict[str, Any] = {}
    for item in fields(kind):
        if prefix + item.name in arrays:
            values[item.name] = arrays[prefix + item.name]
        elif item.name in plain:
            found = plain[item.name]
            if isinstance(found, dict) and _CLASS in found:
                found = join(_class(found[_CLASS]), arrays, found, f"{prefix}{item.name}.")
            values[item.name] = tuple(found) if isinstance(found, list) else found
    return kind(**values)


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}:{type(thing).__qualname__}"


def _class(name: str) -> type[Any]:
    """Find a dataclass of this library by name; a file can name no other."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute) if module.startswith(_OURS) else None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"{name} is no dataclass of this library")
    return found


def pack(thing: Any) -> bytes:
    """Write a dataclass as bytes that depend on its values alone."""
    arrays, plain = split(thing)
    text = json.dumps({_CLASS: _name(thing), **plain}, sort_keys=True).encode()
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + save(arrays)


def unpack(content: bytes) -> Any:
    """Read what `pack` wrote."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    plain = json.loads(content[_LENGTH_BYTES:end])
    return join(_class(plain[_CLASS]), load(content[end:]), plain)


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
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StageError(f"{folder.path}: not a model that this version can read: {type(error).__name__}: {error}") from error


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
        raise StageError(f"{path}: no model here ({MODEL_JSON} is missing); give a stage's run, or its folder model/")
    return model


def read_probe(path: str) -> Any:
    """Load the linear probe that `evaluate` has written.

    Raises:
        StageError: there is no model, or one of another kind.
    """
    found = load_model(path)
    if found.kind != "classify":
        raise StageError(
            f"{path}: holds a {found.kind} model, and a probe is needed; give the folder that `embed-ops evaluate` has written"
        )
    return found
