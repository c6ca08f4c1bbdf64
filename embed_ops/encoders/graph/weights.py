"""Loads a graph model's weights, whatever generation of PyTorch Geometric or DGL named them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from embed_ops.encoders.graph.config import Axis, GatConfig, GraphConfig
from embed_ops.encoders.graph.config_file import read_config
from embed_ops.encoders.graph.model import GraphModel
from embed_ops.encoders.graph.weight_files import find_weights, foreign, read_weights, stripped
from embed_ops.encoders.graph.weight_names import LayerWeights, SavedWeight, translated
from embed_ops.errors import ModelError

DTYPES = ("float32", "float64")
_CONV = re.compile(r"(?:convs|layers)\.(\d+)\.(.+)")
_NORM = re.compile(r"(?:norms|bns)\.(\d+)\.(?:module\.)?(.+)")
_REFUSED = {
    r"__|<": "heterogeneous models (HeteroConv) are not supported, only one kind of node and edge is",
    r"(aggr_module|layers\.\d+|convs\.\d+)\.lstm\.": (
        "the LSTM aggregator is not supported: it depends on the order of neighbours"
    ),
    r"\.fc_pool\.": (
        "DGL's pool aggregator is not supported; only mean is, and PyTorch Geometric's mean, sum and max"
    ),
}
_SETTINGS = {
    r"lin_edge|att_edge": "edge_dim",
    r"convs\.\d+\.res\.": "residual",
    r"convs\.\d+\.lin\.": "project",
    r"convs\.\d+\.(att|att_src|att_dst|lin\.weight|lin_l\.weight)$": "v2",
    r"^norms\.": "norm, norm_kwargs, jk",
    r"^jk\.|^lin\.": "jk",
    r"^act\.": "act",
    r"bias$": "bias",
    r"lin_r\.": "root_weight, share_weights, v2",
}
"""Which settings decide whether there is a weight, by its name."""


def load_graph_model(folder: Path, dtype: str = "float32", device: str = "cpu") -> GraphModel:
    """Load a model folder.

    It has config.json, and weights in model.safetensors, else in the only .pt, .pth or
    pytorch_model.bin.

    Args:
        folder: the model folder.
        dtype: float32 or float64, in which the model computes.
        device: of torch, where its layers run.

    Raises:
        ModelError: a part is missing, unknown, misshapen or not supported; the message names the
            weight and the setting.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"{folder}: graph models compute in {' or '.join(DTYPES)}, not in {dtype}; choose another "
            "encoder.dtype"
        )
    config = read_config(folder)
    path = find_weights(folder)
    weights = canonical(read_weights(path), config, str(path))
    kind = getattr(torch, dtype)
    return GraphModel(
        config, {name: values.to(device, kind).contiguous() for name, values in weights.items()}
    )


def canonical(state: Mapping[str, Tensor], config: GraphConfig, where: str) -> dict[str, Tensor]:
    """Give weights the names of `config.shapes()`; all must be there, and no others.

    Args:
        state: weights by the names of any generation.
        config: what config.json says.
        where: begins messages.

    Raises:
        ModelError: as `load_graph_model`.
    """
    state = stripped(state)
    for name in state:
        for pattern, why in _REFUSED.items():
            if re.search(pattern, name):
                raise ModelError(f"{where}: {name}: {why}; choose another model")
    if why := foreign(state):
        raise ModelError(f"{where}: {next(iter(state))}: {why}")
    weights, layers = _by_layer(state, where)
    for number, layer in layers.items():
        renamed = translated(layer, config, number + 1, where) if number < config.num_layers else layer
        weights |= {f"convs.{number}.{name}": weight for name, weight in renamed.items()}
    _check(weights, config, where)
    return {name: weight.values for name, weight in weights.items()}


def _by_layer(state: Mapping[str, Tensor], where: str) -> tuple[LayerWeights, dict[int, LayerWeights]]:
    """Take the weights of each layer apart from all others, which keep their whole names."""
    others: LayerWeights = {}
    layers: dict[int, LayerWeights] = {}
    for name, values in state.items():
        into, key = others, name
        if match := _CONV.fullmatch(name):
            into, key = layers.setdefault(int(match[1]), {}), match[2]
        elif match := _NORM.fullmatch(name):
            key = f"norms.{match[1]}.{match[2]}"
        if key in into:
            raise ModelError(
                f"{where}: {name} and {into[key].name} are the same weight by two names; keep one of them"
            )
        if not key.endswith(".num_batches_tracked"):
            into[key] = SavedWeight(values, name)
    return others, layers


def _check(weights: LayerWeights, config: GraphConfig, where: str) -> None:
    """Refuse missing, unknown, misshapen and non-finite weights."""
    shapes = config.shapes()
    if isinstance(config, GatConfig) and not config.v2:
        twins = {name: name.replace("lin_dst", "lin") for name in weights if name.endswith(".lin_dst.weight")}
        shapes |= {name: shapes[twin] for name, twin in twins.items() if twin in shapes}
    for name, weight in weights.items():
        if name not in shapes:
            raise ModelError(
                f"{where}: {weight.name}: config.json describes no such weight; look at "
                f"{_settings(name, config, weights)} there"
            )
    for name in shapes:
        if name not in weights:
            raise ModelError(
                f"{where}: {name} is missing, found {_some(weights)}; look at "
                f"{_settings(name, config, weights)} in config.json"
            )
    for name, shape in shapes.items():
        _check_shape(weights[name], shape, where)
        if not weights[name].values.isfinite().all():
            raise ModelError(
                f"{where}: {weights[name].name}: holds values that are not finite; save the model again"
            )


def _check_shape(weight: SavedWeight, shape: tuple[Axis, ...], where: str) -> None:
    """Refuse a weight of another shape than config.json says; name the settings that differ."""
    expected, actual = tuple(axis.size for axis in shape), tuple(weight.values.shape)
    if expected != actual:
        wrong = [axis.of for axis, size in zip(shape, actual, strict=False) if axis.size != size] or [
            axis.of for axis in shape
        ]
        raise ModelError(
            f"{where}: {weight.name}: expected shape {expected}, found {actual}; correct "
            f"{', '.join(wrong)} in config.json"
        )


def _settings(name: str, config: GraphConfig, weights: LayerWeights) -> str:
    """Name the settings that decide whether there is a weight."""
    place = _CONV.fullmatch(name)
    if place and (
        int(place[1]) >= config.num_layers
        or not any(other.startswith(f"convs.{place[1]}.") for other in weights)
    ):
        return "num_layers"
    known = [
        setting
        for pattern, settings in _SETTINGS.items()
        if re.search(pattern, name)
        for setting in settings.split(", ")
    ]
    return ", ".join(setting for setting in known if setting in type(config).model_fields) or "type"


def _some(weights: LayerWeights) -> str:
    names = [weight.name for weight in weights.values()]
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "no weights"
