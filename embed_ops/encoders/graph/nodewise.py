"""Norms and activations that a node's row can be put through alone: those that are supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu prelu elu celu selu gelu silu swish mish tanh sigmoid hardtanh hardswish "
    "hardsigmoid hardshrink softshrink "
    "tanhshrink softplus softsign logsigmoid".split()
)
"""Activations of one number at a time. PyTorch Geometric also finds softmax, GLU and attention by
name: those are refused."""
_NORM_SETTINGS: dict[str, dict[str, Any]] = {
    "batch": {
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
        "track_running_stats": True,
        "allow_single_element": False,
    },
    "layer": {"eps": 1e-5, "affine": True, "mode": "graph"},
}


class Norm(NamedTuple):
    """A normalisation that needs nothing but the node itself.

    Batch (by running statistics) or layer.
    """

    kind: Literal["batch", "layer"]
    eps: float
    affine: bool


def squeezed(name: str) -> str:
    """Write a name as PyTorch Geometric compares it: `Leaky_ReLU` is `leakyrelu`."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def norm_of(name: str, given: Mapping[str, Any]) -> Norm:
    """Find a norm by its name and the options that are given to it.

    Raises:
        ValueError: it needs other nodes, or has no such option.
    """
    kind = squeezed(name).removesuffix("norm")
    if kind != "batch" and kind != "layer":
        raise ValueError(
            f"norm {name!r} is not supported: only batch_norm and layer_norm need no other "
            "node; choose another one"
        )
    for option, value in given.items():
        if option not in _NORM_SETTINGS[kind]:
            raise ValueError(f"norm_kwargs.{option}: unknown; known: {', '.join(_NORM_SETTINGS[kind])}")
        if type(value) is not type(_NORM_SETTINGS[kind][option]) and option != "momentum":
            raise ValueError(
                f"norm_kwargs.{option}: expected a value like {_NORM_SETTINGS[kind][option]!r}, found "
                f"{value!r}"
            )
    settings = _NORM_SETTINGS[kind] | dict(given)
    if not settings.get("track_running_stats", True):
        raise ValueError(
            "norm_kwargs.track_running_stats is false: the norm needs all nodes at once; choose another model"
        )
    if settings.get("mode", "node") != "node":
        raise ValueError(
            'norm_kwargs.mode is "graph", the default of layer_norm: it needs all nodes at once; '
            'only "node" is supported'
        )
    return Norm("batch" if kind == "batch" else "layer", float(settings["eps"]), bool(settings["affine"]))
