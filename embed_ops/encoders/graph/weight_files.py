"""A graph model's file of weights: tensors by name, as they were saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embed_ops.errors import ModelError

SAFE = "model.safetensors"
_PREFIXES = ("module.", "model.", "encoder.", "_encoder.")
_STATES = ("state_dict", "model_state_dict")


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


def stripped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off what wrappers put before all names."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return stripped({name.removeprefix(prefix): values for name, values in state.items()})
    return state
