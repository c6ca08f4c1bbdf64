"""The names that generations of PyTorch Geometric and DGL gave to a layer's weights.

Names and shapes checked here: PyTorch Geometric 1.5.0, 1.7.2, 2.0.4 and 2.8.1, DGL 2.1.0, all read
in their sources; names of PyTorch Geometric up to 1.4 and of DGL up to 0.9 are from memory. DGL's
GATConv adds no self loops: with a graph that has them, its config.json says `"add_self_loops":
false`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from embed_ops.encoders.graph.config import GatConfig, GcnConfig, GraphConfig, SageConfig
from embed_ops.errors import ModelError


class SavedWeight(NamedTuple):
    """A weight and its name in the file."""

    values: Tensor
    name: str


LayerWeights = dict[str, SavedWeight]
"""Weights by the names that they have here."""


def translated(layer: LayerWeights, config: GraphConfig, number: int, where: str) -> LayerWeights:
    """Rename a layer's weights to those of PyTorch Geometric 2.8; unknown ones keep their names.

    Args:
        layer: its weights, by the names of any generation.
        config: what config.json says.
        number: of the layer, from 1.
        where: begins messages.

    Raises:
        ModelError: the weights are of a layer that is not supported, or not the one in config.json.
    """
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


def _renamed(layer: LayerWeights, names: Mapping[str, str]) -> LayerWeights:
    """Rename by the beginning of names.

    A weight whose new name is taken keeps its own, and so is unknown.
    """
    renamed = dict(layer)
    for old, new in names.items():
        for name in [name for name in renamed if name.startswith(old)]:
            if (to := new + name.removeprefix(old)) not in renamed:
                renamed[to] = renamed.pop(name)
    return renamed


def _change(layer: LayerWeights, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Replace a weight's values, where there is one."""
    if name in layer:
        layer[name] = layer[name]._replace(values=change(layer[name].values))


def _turned(values: Tensor) -> Tensor:
    return values.transpose(0, -1)


def _sage(layer: LayerWeights, where: str) -> LayerWeights:
    """Translate SAGEConv of PyTorch Geometric up to 1.5 (lin_rel, lin_root), and of DGL.

    DGL's bias stands in three places.
    """
    if "fc_neigh.weight" not in layer:
        return _renamed(layer, {"lin_rel.": "lin_l.", "lin_root.": "lin_r."})
    if "fc_self.weight" not in layer:
        name = layer["fc_neigh.weight"].name
        raise ModelError(
            f"{where}: {name} without fc_self: DGL's gcn aggregator is not supported, only mean is; "
            "choose another model"
        )
    merged = dict(layer)
    for name in ("fc_self.bias", "fc_neigh.bias", "bias"):
        weight, total = merged.get(name), merged.get("lin_l.bias")
        if weight and (total is None or total.values.shape == weight.values.shape):
            merged["lin_l.bias"] = (
                weight if total is None else total._replace(values=total.values + weight.values)
            )
            del merged[name]
    return _renamed(merged, {"fc_neigh.weight": "lin_l.weight", "fc_self.weight": "lin_r.weight"})


def _gat(layer: LayerWeights, config: GatConfig, number: int, where: str) -> LayerWeights:
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
            "att_dst": SavedWeight(target, layer["att"].name),
            "att_src": SavedWeight(source, layer["att"].name),
        }
        del layer["att"]
        layer = _renamed(layer, {"weight": "lin.weight"})
        _change(layer, "lin.weight", _turned)
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
    renamed = _renamed(layer, names | {"res_fc.weight": "res.weight", "res_fc.bias": "bias"})
    own, shared = renamed.get("lin_dst.weight"), renamed.get("lin.weight")
    if own and shared and own.values.shape == shared.values.shape and torch.equal(own.values, shared.values):
        # The same matrix under two names.
        del renamed["lin_dst.weight"]
    return _of_dgl(renamed, config, number) if dgl else renamed


def _gat_v2(layer: LayerWeights, config: GatConfig, number: int, where: str) -> LayerWeights:
    """Translate GATv2Conv: DGL, and weights that are shared under two names."""
    names = {
        "fc_src.": "lin_l.",
        "fc_dst.": "lin_r.",
        "attn": "att",
        "res_fc.weight": "res.weight",
        "res_fc.bias": "bias",
    }
    renamed = _of_dgl(_renamed(layer, names), config, number) if "attn" in layer else dict(layer)
    for name in [name for name in renamed if config.share_weights and name.startswith("lin_r.")]:
        other = renamed.get(name.replace("lin_r.", "lin_l."))
        if (
            other is None
            or other.values.shape != renamed[name].values.shape
            or not torch.equal(other.values, renamed[name].values)
        ):
            raise ModelError(
                f"{where}: {renamed[name].name} differs from its twin: set share_weights to false in "
                "config.json"
            )
        del renamed[name]
    return renamed


def _of_dgl(layer: LayerWeights, config: GatConfig, number: int) -> LayerWeights:
    """Fold what DGL's users do after a layer into its weights.

    The mean of heads is taken after residual and bias, not before.
    """
    folded = dict(layer)
    heads, columns, width = config.heads, config.channels(number), config.width(number - 1)
    if config.residual and "res.weight" not in folded and heads * columns == width:
        folded["res.weight"] = SavedWeight(torch.eye(width), "res_fc")
    if config.bias and "bias" not in folded:
        folded["bias"] = SavedWeight(torch.zeros(heads * columns), "bias")
    for name in ("bias", "res.weight") if not config.concats(number) else ():
        if name in folded and len(folded[name].values) == heads * columns:
            _change(folded, name, lambda values: values.unflatten(0, (heads, columns)).mean(0))  # type: ignore[no-untyped-call]
    return folded


def _gcn(layer: LayerWeights, where: str) -> LayerWeights:
    """Translate GCNConv: PyTorch Geometric 1.x has the matrix the other way round."""
    if "weight" in layer and layer["weight"].name.startswith("layers."):
        raise ModelError(
            f"{where}: {layer['weight'].name}: DGL's GraphConv divides by other degrees than GCN; choose "
            "another model"
        )
    renamed = _renamed(layer, {"weight": "lin.weight"})
    if "weight" in layer:
        _change(renamed, "lin.weight", _turned)
    return renamed
