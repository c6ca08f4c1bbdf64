"""A graph model's file of weights: tensors by name, as they were saved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from embed_ops.encoders.hub.files import is_pointer
from embed_ops.errors import ModelError

SAFE = "model.safetensors"
_LAYERS = frozenset("convs layers norms bns jk lin act".split())
"""First parts of names that are a graph model's own."""
_STATES = ("state_dict", "model_state_dict")


_INNER = re.compile(r"[^.]+\.(?:.+\.)?(?:convs|layers)\.\d+\.")
_NUMBERED = re.compile(r"(?:conv|gcn|gat|sage|gin|layer)s?_?\d+")


def find_weights(folder: Path) -> Path:
    """Find the file of weights: model.safetensors, or the only one of another kind.

    Raises:
        ModelError: there is none, or more than one.
    """
    if (folder / SAFE).is_file():
        return folder / SAFE
    files = sorted(
        path for pattern in ("*.pt", "*.pth", "pytorch_model.bin") for path in folder.glob(pattern)
    )
    if len(files) == 1:
        return files[0]
    names = ", ".join(path.name for path in files or sorted(folder.iterdir())) or "nothing"
    wanted = f"keep one of them, or save {SAFE}" if files else f"save {SAFE}, or a state dict as .pt or .pth"
    raise ModelError(f"{folder}: expected {SAFE} or one .pt or .pth file, found {names}; {wanted}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; nothing is unpickled but them.

    Raises:
        ModelError: the file can't be read, or holds something else.
    """
    try:
        if path.name == SAFE:
            from safetensors.torch import load_file

            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds, all with the same remedy
        reason = (str(error).splitlines() or [repr(error)])[0]
        if isinstance(error, UnpicklingError):
            reason = "it holds Python objects, such as a whole model, and nothing is unpickled but tensors"
        if is_pointer(path):
            reason = "it is a Git LFS pointer, which stands for the file: git lfs pull"
        raise ModelError(
            f"{path}: the weights can't be read ({reason}); save the model's state_dict() alone"
        ) from error
    for name in _STATES:
        state = state[name] if isinstance(state, dict) and isinstance(state.get(name), dict) else state
    odd = (
        [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
        if isinstance(state, dict)
        else [type(state).__name__]
    )
    if odd:
        raise ModelError(
            f"{path}: expected tensors by name, found {', '.join(odd[:3])}; save the model's "
            "state_dict() alone"
        )
    return {str(name): values for name, values in state.items()}


def foreign(state: Iterable[str]) -> str:
    """Say why names are none of a graph model's; "" where they may be."""
    roots = {name.partition(".")[0] for name in state}
    models = sorted({name.partition(".")[0] for name in state if _INNER.match(name)})
    if models and not roots & {"convs", "layers"}:
        others = ", ".join(sorted(roots - {models[0]}))
        return (
            f"the file holds more than a graph model ({others}): save the state_dict() of {models[0]} alone"
        )
    numbered = sorted(root for root in roots if _NUMBERED.fullmatch(root))
    if numbered:
        return (
            f"layers are read by the names convs.0, convs.1 and so on: rename {', '.join(numbered[:3])} in "
            "the state_dict(), first layer first"
        )
    return ""


def stripped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off what wrappers put before all names: `module.`, `_orig_mod.`, a model's attribute."""
    parts = [name.split(".") for name in state]
    deeper = any(_LAYERS & set(names[1:]) for names in parts)
    if len({names[0] for names in parts}) != 1 or parts[0][0] in _LAYERS or not deeper:
        return state
    return stripped({name.partition(".")[2]: values for name, values in state.items()})
