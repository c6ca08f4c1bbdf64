"""Frozen dataclasses of arrays and numbers as bytes: states, summaries and models.

Safetensors and JSON, never pickle.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

Arrays = dict[str, npt.NDArray[Any]]

_LENGTH_BYTES = 8
_CLASS = "class"

_PACKED = {
    "Moments": "embed_ops.numerics.summaries:Moments",
    "Covariance": "embed_ops.numerics.summaries:Covariance",
    "Sketch": "embed_ops.numerics.summaries:Sketch",
    "Histogram": "embed_ops.numerics.summaries:Histogram",
    "VectorStatistics": "embed_ops.runs.statistics:VectorStatistics",
    "FitProgress": "embed_ops.postprocessing.fold:FitProgress",
}
"""Names of the dataclasses that stand in files, and where each is defined: a name stays when its
class moves."""
_STAGES = "embed_ops.stages."
"""Dataclasses below need no line: one is named after its module, such as `pca.State` or
`kmeans.state.State`. These names stand in the folder `work/` only, which no other version reads."""
_NAMES = {home: name for name, home in _PACKED.items()}


def split(instance: Any, prefix: str = "") -> tuple[Arrays, dict[str, Any]]:
    """Split a dataclass into its arrays, by dotted name, and its plain fields.

    Dataclasses inside it are split alike.
    """
    arrays: Arrays = {}
    plain: dict[str, Any] = {}
    for item in fields(instance):
        value = getattr(instance, item.name)
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
            value = plain[item.name]
            if isinstance(value, dict) and _CLASS in value:
                value = join(_class(value[_CLASS]), arrays, value, f"{prefix}{item.name}.")
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _name(instance: Any) -> str:
    kind = type(instance)
    home = f"{kind.__module__}:{kind.__qualname__}"
    if home in _NAMES:
        return _NAMES[home]
    if kind.__module__.startswith(_STAGES):
        return f"{kind.__module__.removeprefix(_STAGES)}.{kind.__qualname__}"
    raise TypeError(f"{home} has no name in files; give it one in {__name__}")


def _class(name: str) -> type[Any]:
    """Find a dataclass by its name in files; a file can name no other."""
    kind: type[Any] | None = pkgutil.resolve_name(_PACKED[name]) if name in _PACKED else _class_of_stage(name)
    if kind is None:
        raise ValueError(f"{name} is no dataclass that this version knows")
    return kind


def _class_of_stage(name: str) -> type[Any] | None:
    """Find a dataclass that a module of a stage defines, None where there is none of the name."""
    home, _, own = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(_STAGES + home), own, None)
    except ModuleNotFoundError:
        return None
    own_class = isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == _STAGES + home
    return kind if own_class else None


def content_digest(instance: Any) -> str:
    """Give the sha256 of the values of a dataclass.

    Its class and where it is defined are no part of it.
    """
    arrays, plain = split(instance)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode() + save(arrays)).hexdigest()


def pack(instance: Any) -> bytes:
    """Write a dataclass as bytes that depend on its values alone."""
    arrays, plain = split(instance)
    text = json.dumps({_CLASS: _name(instance), **plain}, sort_keys=True).encode()
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + save(arrays)


def unpack(content: bytes) -> Any:
    """Read what `pack` wrote."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    plain = json.loads(content[_LENGTH_BYTES:end])
    return join(_class(plain[_CLASS]), load(content[end:]), plain)
