"""Loads a graph model's weights, whatever generation of PyTorch Geometric or DGL named them.

Names and shapes checked here: PyTorch Geometric 1.5.0, 1.7.2, 2.0.4 and 2.8.1, DGL 2.1.0, all read
in their sources; names of PyTorch Geometric up to 1.4 and of DGL up to 0.9 are from memory. DGL's
GATConv adds no self loops: with a graph that has them, its config.json says `"add_self_loops":
false`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from embed_ops.encoders.graph.config import Axis, GatConfig, GcnConfig, GraphConfig, SageConfig, read_config
from embed_ops.encoders.graph.model import GraphModel
from embed_ops.errors import ModelError

SAFE = "model.safetensors"
DTYPES = ("float32", "float64")
_PREFIXES = ("module.", "model.", "encoder.", "_encoder.")
_STATES = ("state_dict", "model_state_dict")
_CONV, _NORM = (
    re.compile(r"(?:convs|layers)\.(\d+)\.(.+)"),
    re.compile(r"(?:norms|bns)\.(\d+)\.(?:module\.)?(.+)"),
)
_REFUSED = {
    r"__|<": "heterogeneous models (HeteroConv) are not supported, only one kind of node and edge is",
    r"(aggr_module|layers\.\d+|convs\.\d+)\.lstm\.": "the LSTM aggregator is not supported: it depends on the order of neighbours",
    r"\.fc_pool\.": "DGL's pool aggregator is not supported; only mean is, and PyTorch Geometric's mean, sum and max",
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


class _Found(NamedTuple):
    """A weight and its name in the file."""

    values: Tensor
    name: str


_Layer = dict[str, _Found]


def load_graph_model(folder: Path, dtype: str = "float32") -> GraphModel:
    """Load a model folder: config.json, and weights in model.safetensors, else in the only .pt, .pth or pytorch_model.bin.

    Args:
        folder: the model folder.
        dtype: float32 or float64, in which the model computes.

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
    path = _file(folder)
    found = canonical(_read(path), config, str(path))
    return GraphModel(
        config, {name: values.to(getattr(torch, dtype)).contiguous() for name, values in found.items()}
    )


def canonical(state: Mapping[str, Tensor], config: GraphConfig, where: str) -> dict[str, Tensor]:
    """Give weights the names of `config.shapes()`, and check that they are all there, and no others.

    Args:
        state: weights by the names of any generation.
        config: what config.json says.
        where: begins messages.

    Raises:
        ModelError: as `load_graph_model`.
    """
    state = _stripped(state)
    for name in state:
        for pattern, why in _REFUSED.items():
            if re.search(pattern, name):
                raise ModelError(f"{where}: {name}: {why}; choose another model")
    found: _Layer = {}
    layers: dict[int, _Layer] = {}
    for name, values in state.items():
        into, key = found, name
        if match := _CONV.fullmatch(name):
            into, key = layers.setdefault(int(match[1]), {}), match[2]
        elif match := _NORM.fullmatch(name):
            key = f"norms.{match[1]}.{match[2]}"
        if key in into:
            raise ModelError(
                f"{where}: {name} and {into[key].name} are the same weight by two names; keep one of them"
            )
        if not key.endswith(".num_batches_tracked"):
            into[key] = _Found(values, name)
    for number, layer in layers.items():
        renamed = _translated(layer, config, number + 1, where) if number < config.num_layers else layer
        found |= {f"convs.{number}.{name}": weight for name, weight in renamed.items()}
    _check(found, config, where)
    return {name: weight.values for name, weight in found.items()}


def _file(folder: Path) -> Path:
    """Find the weights."""
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


def _read(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; nothing is unpickled but them."""
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


def _stripped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off what wrappers put before all names."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _stripped({name.removeprefix(prefix): values for name, values in state.items()})
    return state


def _translated(layer: _Layer, config: GraphConfig, number: int, where: str) -> _Layer:
    """Rename a layer's weights to those of PyTorch Geometric 2.8; unknown ones keep their names."""
    match config:
        case SageConfig():
            return _sage(layer, where)
        case GatConfig(v2=True):
            return _gat_v2(layer, config, number, where)
        case GatConfig():
            return _gat(layer, config, number, where)
        case GcnConfig():
            return _gcn(layer, where)
    return layer


def _renamed(layer: _Layer, names: Mapping[str, str]) -> _Layer:
    """Rename by the beginning of names.

    A weight whose new name is taken keeps its own, and so is unknown.
    """
    found = dict(layer)
    for old, new in names.items():
        for name in [name for name in found if name.startswith(old)]:
            if (to := new + name.removeprefix(old)) not in found:
                found[to] = found.pop(name)
    return found


def _changed(layer: _Layer, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Replace a weight's values, where there is one."""
    if name in layer:
        layer[name] = layer[name]._replace(values=change(layer[name].values))


def _turned(values: Tensor) -> Tensor:
    return values.transpose(0, -1)


def _sage(layer: _Layer, where: str) -> _Layer:
    """Translate SAGEConv: PyTorch Geometric up to 1.5 (lin_rel, lin_root), and DGL, whose bias stands in three places."""
    if "fc_neigh.weight" not in layer:
        return _renamed(layer, {"lin_rel.": "lin_l.", "lin_root.": "lin_r."})
    if "fc_self.weight" not in layer:
        name = layer["fc_neigh.weight"].name
        raise ModelError(
            f"{where}: {name} without fc_self: DGL's gcn aggregator is not supported, only mean is; "
            "choose another model"
        )
    found = dict(layer)
    for name in ("fc_self.bias", "fc_neigh.bias", "bias"):
        weight, total = found.get(name), found.get("lin_l.bias")
        if weight and (total is None or total.values.shape == weight.values.shape):
            found["lin_l.bias"] = (
                weight if total is None else total._replace(values=total.values + weight.values)
            )
            del found[name]
    return _renamed(found, {"fc_neigh.weight": "lin_l.weight", "fc_self.weight": "lin_r.weight"})


def _gat(layer: _Layer, config: GatConfig, number: int, where: str) -> _Layer:
    """Translate GATConv: PyTorch Geometric 1.x to 2.4, and DGL."""
    dgl, second = "attn_l" in layer, {"att", "attn"} & set(layer)
    if second and "weight" not in layer:
        raise ModelError(
            f"{where}: {layer[second.pop()].name} is one of GATv2: set v2 to true in config.json"
        )
    if "att" in layer and "weight" in layer and layer["att"].values.shape[-1] % 2 == 0:
        # Up to 1.4: one vector for destination and source, and the matrix stands the other way
        # round.
        target, source = layer["att"].values.chunk(2, dim=-1)
        layer = {
            **layer,
            "att_dst": _Found(target, layer["att"].name),
            "att_src": _Found(source, layer["att"].name),
        }
        del layer["att"]
        layer = _renamed(layer, {"weight": "lin.weight"})
        _changed(layer, "lin.weight", _turned)
    names = {
        "att_j": "att_src",
        "att_i": "att_dst",
        "att_l": "att_src",
        "att_r": "att_dst",
        "attn_l": "att_src",
        "attn_r": "att_dst",
    }
    names |= {
        "lin_src.": "lin.",
        "lin_l.": "lin.",
        "fc.": "lin.",
        "fc_src.": "lin.",
        "lin_r.": "lin_dst.",
        "fc_dst.": "lin_dst.",
    }
    found = _renamed(layer, names | {"res_fc.weight": "res.weight", "res_fc.bias": "bias"})
    own, shared = found.get("lin_dst.weight"), found.get("lin.weight")
    if own and shared and own.values.shape == shared.values.shape and torch.equal(own.values, shared.values):
        # The same matrix under two names.
        del found["lin_dst.weight"]
    return _of_dgl(found, config, number) if dgl else found


def _gat_v2(layer: _Layer, config: GatConfig, number: int, where: str) -> _Layer:
    """Translate GATv2Conv: DGL, and weights that are shared under two names."""
    names = {
        "fc_src.": "lin_l.",
        "fc_dst.": "lin_r.",
        "attn": "att",
        "res_fc.weight": "res.weight",
        "res_fc.bias": "bias",
    }
    found = _of_dgl(_renamed(layer, names), config, number) if "attn" in layer else dict(layer)
    for name in [name for name in found if config.share_weights and name.startswith("lin_r.")]:
        other = found.get(name.replace("lin_r.", "lin_l."))
        if (
            other is None
            or other.values.shape != found[name].values.shape
            or not torch.equal(other.values, found[name].values)
        ):
            raise ModelError(
                f"{where}: {found[name].name} differs from its twin: set share_weights to false in "
                "config.json"
            )
        del found[name]
    return found


def _of_dgl(found: _Layer, config: GatConfig, number: int) -> _Layer:
    """Fold what DGL's users do after a layer into its weights.

    The mean of heads is taken after residual and bias, not before.
    """
    heads, columns, width = config.heads, config.channels(number), config.width(number - 1)
    if config.residual and "res.weight" not in found and heads * columns == width:
        found["res.weight"] = _Found(torch.eye(width), "res_fc")
    if config.bias and "bias" not in found:
        found["bias"] = _Found(torch.zeros(heads * columns), "bias")
    for name in ("bias", "res.weight") if not config.concats(number) else ():
        if name in found and len(found[name].values) == heads * columns:
            _changed(found, name, lambda values: values.unflatten(0, (heads, columns)).mean(0))  # type: ignore[no-untyped-call]
    return found


def _gcn(layer: _Layer, where: str) -> _Layer:
    """Translate GCNConv: PyTorch Geometric 1.x has the matrix the other way round."""
    if "weight" in layer and layer["weight"].name.startswith("layers."):
        raise ModelError(
            f"{where}: {layer['weight'].name}: DGL's GraphConv divides by other degrees than GCN; choose "
            "another model"
        )
    found = _renamed(layer, {"weight": "lin.weight"})
    if "weight" in layer:
        _changed(found, "lin.weight", _turned)
    return found


def _check(found: Mapping[str, _Found], config: GraphConfig, where: str) -> None:
    """Refuse missing, unknown, misshapen and non-finite weights."""
    shapes = config.shapes()
    if isinstance(config, GatConfig) and not config.v2:
        twins = {name: name.replace("lin_dst", "lin") for name in found if name.endswith(".lin_dst.weight")}
        shapes |= {name: shapes[twin] for name, twin in twins.items() if twin in shapes}
    for name, weight in found.items():
        if name not in shapes:
            raise ModelError(
                f"{where}: {weight.name}: config.json describes no such weight; look at "
                f"{_settings(name, config, found)} there"
            )
    for name in shapes:
        if name not in found:
            raise ModelError(
                f"{where}: {name} is missing, found {_some(found)}; look at "
                f"{_settings(name, config, found)} in config.json"
            )
    for name, shape in shapes.items():
        _check_shape(found[name], shape, where)
        if not found[name].values.isfinite().all():
            raise ModelError(
                f"{where}: {found[name].name}: holds values that are not finite; save the model again"
            )


def _check_shape(weight: _Found, shape: tuple[Axis, ...], where: str) -> None:
    """Refuse a weight of another shape than config.json says, and name the settings that differ."""
    expected, actual = tuple(axis.size for axis in shape), tuple(weight.values.shape)
    if expected != actual:
        wrong = [axis.of for axis, size in zip(shape, actual, strict=False) if axis.size != size] or [
            axis.of for axis in shape
        ]
        raise ModelError(
            f"{where}: {weight.name}: expected shape {expected}, found {actual}; correct "
            f"{', '.join(wrong)} in config.json"
        )


def _settings(name: str, config: GraphConfig, found: Mapping[str, _Found]) -> str:
    """Name the settings that decide whether there is a weight."""
    place = _CONV.fullmatch(name)
    if place and (
        int(place[1]) >= config.num_layers
        or not any(other.startswith(f"convs.{place[1]}.") for other in found)
    ):
        return "num_layers"
    known = [
        setting
        for pattern, settings in _SETTINGS.items()
        if re.search(pattern, name)
        for setting in settings.split(", ")
    ]
    return ", ".join(setting for setting in known if setting in type(config).model_fields) or "type"


def _some(found: Mapping[str, _Found]) -> str:
    names = [weight.name for weight in found.values()]
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "no weights"
