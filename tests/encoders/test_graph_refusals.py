"""Graph model folders that do not fit are refused, with the key, the weight and the setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_cases import ours, reference, settings
from torch import Tensor

from embed_ops.encoders.graph.config_file import parse_config, read_config
from embed_ops.encoders.graph.weights import canonical, load_graph_model
from embed_ops.errors import ModelError

pytest.importorskip("torch_geometric")
State = dict[str, Tensor]
PLAIN = settings("GraphSAGE")
ONE = torch.ones(1)
BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"in_channels": 3}, r"type: expected GraphSAGE, GAT, GCN, found nothing"),
    "other type": (settings("GIN"), r"found GIN; no other models"),
    "hetero": (settings("HeteroConv"), r"found HeteroConv; no other models"),
    "v2 type": (settings("GATv2"), r'GATv2 is GAT with "v2": true'),
    "typo": (settings("GAT", head=2), r"head: unknown key; did you mean 'heads'\?"),
    "unknown": (settings("GAT", zzz=2), r"zzz: unknown key; known: type, in_channels"),
    "of another type": (
        settings("GAT", aggr="mean"),
        r"aggr: a setting of GraphSAGE, which this model does not have",
    ),
    "of two others": (
        settings("GraphSAGE", add_self_loops=True),
        r"add_self_loops: a setting of GAT and GCN",
    ),
    "missing": (
        {"type": "GCN", "in_channels": 3, "num_layers": 2},
        r"hidden_channels: required and not given",
    ),
    "a string": (
        settings("GCN", hidden_channels="16"),
        r"hidden_channels: expected a whole number, found '16'",
    ),
    "lazy width": (settings("GCN", in_channels=-1), r"in_channels: .*greater than 0, found -1"),
    "two widths": (
        settings("GraphSAGE", in_channels=[3, 4]),
        r"in_channels: expected a whole number, found \[3, 4\]",
    ),
    "activation": (settings("GCN", act="softmax"), r"act: this activation is not supported; known: celu"),
    "norm": (
        settings("GCN", norm="PairNorm"),
        r"norm 'PairNorm' is not supported: only batch_norm and layer_norm need no other node",
    ),
    "graph norm": (settings("GCN", norm="graph_norm"), r"norm 'graph_norm' is not supported"),
    "instance norm": (settings("GCN", norm="instance_norm"), r"norm 'instance_norm' is not supported"),
    "layer norm of graphs": (
        settings("GCN", norm="layer_norm"),
        r'mode is "graph", the default of layer_norm: it needs all nodes',
    ),
    "batch statistics": (
        settings("GCN", norm="batch", norm_kwargs={"track_running_stats": False}),
        r"track_running_stats is false",
    ),
    "norm setting": (
        settings("GCN", norm="batch", norm_kwargs={"epsilon": 1.0}),
        r"norm_kwargs.epsilon: unknown; known: eps",
    ),
    "norm value": (
        settings("GCN", norm="batch", norm_kwargs={"eps": "1"}),
        r"norm_kwargs.eps: expected a value like 1e-05, found '1'",
    ),
    "jumping": (
        settings("GCN", jk="mean"),
        r"jk: .*, found 'mean'|jk: expected last or cat or max or lstm, found 'mean'",
    ),
    "lstm": (
        settings("GraphSAGE", aggr="lstm"),
        r"aggr: this aggregator is not supported \(it depends on the order .*found 'lstm'",
    ),
    "pool": (
        settings("GraphSAGE", aggr="pool"),
        r"aggr: this aggregator is not supported: only mean, sum and max are.*found 'pool'",
    ),
    "several": (
        settings("GraphSAGE", aggr=["mean", "max"]),
        r"aggr: this aggregator is not supported.*found \['mean', 'max'\]",
    ),
    "heads": (settings("GAT", heads=3), r"hidden_channels is 16, which 3 heads don't divide"),
    "fill": (settings("GAT", edge_dim=3, fill_value="max"), r"fill_value"),
    "shared without v2": (settings("GAT", share_weights=True), r"share_weights is for v2"),
    "loops alone": (settings("GCN", normalize=False, add_self_loops=True), r"add_self_loops needs normalize"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_settings(name: str, tmp_path: Path) -> None:
    """Each is refused by one sentence that names the file and the setting."""
    tree, message = BAD_CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=message) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert "\n" not in str(caught.value)


def test_bad_config_files(tmp_path: Path) -> None:
    """No config.json, one that is not JSON, one that is a list."""
    with pytest.raises(ModelError, match=r"no config\.json; write one"):
        read_config(tmp_path)
    for text in ("{", "[1]", "3"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match="not a JSON object"):
            read_config(tmp_path)


def test_bad_activation_settings() -> None:
    """Arguments that the activation does not take."""
    for act, wrong in (("elu", {"slope": 1}), ("prelu", {"num_parameters": "x"})):
        with pytest.raises(ModelError, match=f"act_kwargs: {act} can't be built with"):
            ours(
                settings("GraphSAGE", act=act, act_kwargs=wrong),
                reference(settings("GraphSAGE", act=act)).state_dict(),
            )


def plain_state() -> State:
    """Give the weights of PyTorch Geometric's GraphSAGE with plain settings."""
    state: State = reference(PLAIN).state_dict()
    return state


def only(**changes: Any) -> Callable[[State], State]:
    """Make a function that sets or (None) takes out weights.

    `_` stands for a dot, `__` for an underscore.
    """

    def change(state: State) -> State:
        given = {
            name.replace("__", "|").replace("_", ".").replace("|", "_"): values
            for name, values in changes.items()
        }
        return {name: values for name, values in {**state, **given}.items() if values is not None}

    return change


BAD_WEIGHTS: dict[str, tuple[dict[str, Any], Callable[[State], State], str]] = {
    "none": (PLAIN, lambda _: {}, r"convs\.0\.lin_l\.weight is missing, found no weights"),
    "missing": (
        PLAIN,
        only(convs_0_lin__r_weight=None),
        r"convs\.0\.lin_r\.weight is missing, found .*; look at root_weight in",
    ),
    "missing bias": (
        PLAIN,
        only(convs_1_lin__l_bias=None),
        r"convs\.1\.lin_l\.bias is missing, found .*; look at bias in config",
    ),
    "fewer layers": (
        settings("GraphSAGE", num_layers=4),
        only(),
        r"convs\.3\.lin_l\.weight is missing, .*; look at num_layers",
    ),
    "more layers": (
        settings("GraphSAGE", num_layers=2),
        only(),
        r"convs\.2\.lin_l\.weight: config\.json describes no such weight; .* num_layers",
    ),
    "unknown": (
        PLAIN,
        only(head_weight=ONE),
        r"weights: head\.weight: config\.json describes no such weight; look at type",
    ),
    "unknown of a layer": (
        PLAIN,
        only(convs_0_gate=ONE),
        r"convs\.0\.gate: config\.json describes no such weight",
    ),
    "another width": (
        settings("GraphSAGE", in_channels=9),
        only(),
        r"lin_l\.weight: expected shape \(16, 9\), found \(16, 12\); correct in_channels",
    ),
    "another output": (
        settings("GraphSAGE", out_channels=9),
        only(),
        r"convs\.2\.lin_l\.weight: expected shape \(9, 16\), .*; correct out_channels",
    ),
    "another rank": (
        PLAIN,
        only(convs_0_lin__l_bias=torch.ones(16, 1)),
        r"lin_l\.bias: expected shape \(16,\), found \(16, 1\); correct hidden_",
    ),
    "other heads": (
        settings("GAT", heads=2),
        lambda _: reference(settings("GAT", heads=4)).state_dict(),
        r"att_src: expected .*; correct heads",
    ),
    "not finite": (
        PLAIN,
        only(convs_0_lin__l_bias=torch.full((16,), float("nan"))),
        r"convs\.0\.lin_l\.bias: holds values that are not finite",
    ),
    "norm": (
        PLAIN,
        only(norms_0_module_weight=torch.ones(16)),
        r"norms\.0\.module\.weight: .* look at norm, norm_kwargs, jk there",
    ),
    "jumping": (PLAIN, only(lin_weight=torch.ones(8, 16)), r"weights: lin\.weight: .* look at jk there"),
    "projection": (
        settings("GraphSAGE", project=True),
        only(),
        r"convs\.0\.lin\.weight is missing, .*; look at project",
    ),
    "edges": (
        settings("GAT", edge_dim=3),
        lambda _: reference(settings("GAT")).state_dict(),
        r"lin_edge\.weight is missing, .* edge_dim",
    ),
    "residual": (
        settings("GAT", residual=True),
        lambda _: reference(settings("GAT")).state_dict(),
        r"res\.weight is missing, .* residual",
    ),
    "v2": (
        settings("GAT"),
        lambda _: reference(settings("GAT", v2=True)).state_dict(),
        r"convs\.0\.att is one of GATv2: set v2 to true",
    ),
    "not v2": (
        settings("GAT", v2=True),
        lambda _: reference(settings("GAT")).state_dict(),
        r"convs\.0\.(lin|att).*: config\.json describes no such weight; look at v2",
    ),
    "not shared": (
        settings("GAT", v2=True, heads=2, share_weights=True),
        lambda _: reference(settings("GAT", v2=True, heads=2)).state_dict(),
        r"lin_r\.weight differs from its twin: set share_",
    ),
    "two names": (
        settings("GraphSAGE", norm="batch_norm"),
        lambda _: {"bns.0.weight": ONE, "norms.0.weight": ONE},
        r"norms\.0\.weight and bns\.0\.weight are the same weight",
    ),
    "no layer": (
        settings("GAT"),
        lambda _: {"convs.7.lin_dst.weight": ONE},
        r"convs\.7\.lin_dst\.weight: .* look at num_layers",
    ),
    "twice": (
        settings("GAT"),
        lambda _: twice(),
        r"convs\.0\.lin_src\.weight: config\.json describes no such weight",
    ),
    "lstm": (
        PLAIN,
        only(convs_0_aggr__module_lstm_weight__ih__l0=ONE),
        r"aggr_module\.lstm\.weight_ih_l0: the LSTM aggregator is not",
    ),
    "lstm of DGL": (
        PLAIN,
        only(layers_0_lstm_weight__ih__l0=ONE),
        r"layers\.0\.lstm\.weight_ih_l0: the LSTM aggregator is not",
    ),
    "pool": (
        PLAIN,
        only(layers_0_fc__pool_weight=ONE),
        r"layers\.0\.fc_pool\.weight: DGL's pool aggregator is not supported",
    ),
    "gcn of DGL": (
        PLAIN,
        lambda _: {"layers.0.fc_neigh.weight": ONE},
        r"layers\.0\.fc_neigh\.weight without fc_self: DGL's gcn aggregator",
    ),
    "a head beside": (
        PLAIN,
        lambda _: {"encoder.convs.0.lin_l.weight": ONE, "decoder.lin.weight": ONE},
        r"more than a graph model \(decoder\): save the state_dict\(\) of encoder alone",
    ),
    "a head beside a wrapped model": (
        PLAIN,
        lambda _: {"net.encoder.convs.0.lin_l.weight": ONE, "net.head.weight": ONE},
        r"more than a graph model \(head\): save the state_dict\(\) of encoder alone",
    ),
    "layers by number": (
        PLAIN,
        lambda _: {"conv1.lin_l.weight": ONE, "conv2.lin_l.weight": ONE},
        r"rename conv1, conv2 in the state_dict",
    ),
    "GraphConv": (
        settings("GCN"),
        lambda _: {"layers.0.weight": torch.ones(2, 2)},
        r"layers\.0\.weight: DGL's GraphConv divides by other degrees",
    ),
    "hetero": (
        PLAIN,
        lambda _: {"convs.0.convs.<a___to___b>.lin_l.weight": ONE},
        r"heterogeneous models \(HeteroConv\) are not supported",
    ),
    "old hetero": (PLAIN, lambda _: {"convs.0.a__to__b.lin_l.weight": ONE}, r"heterogeneous models"),
}


def twice() -> State:
    """Give a GAT both new and older names of one weight."""
    state: State = reference(settings("GAT")).state_dict()
    return {**state, "convs.0.lin_src.weight": state["convs.0.lin.weight"]}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights(name: str) -> None:
    """Each is refused by one sentence: the weight, shapes, and what to look at in config.json."""
    config, change, message = BAD_WEIGHTS[name]
    with pytest.raises(ModelError, match=message) as caught:
        canonical(change(plain_state()), parse_config(config, "config.json"), "weights")
    assert str(caught.value).startswith("weights: ")
    assert "\n" not in str(caught.value)


def test_bad_weight_files(tmp_path: Path) -> None:
    """No weights, several, unreadable ones, and files that hold something else."""
    path = tmp_path / "best.pt"
    (tmp_path / "config.json").write_text(json.dumps(PLAIN))

    def refused(message: str, dtype: str = "float32") -> None:
        with pytest.raises(ModelError, match=message):
            load_graph_model(tmp_path, dtype)

    refused(r"expected model\.safetensors or one \.pt or \.pth file, found config\.json; save")
    refused("compute in float32 or float64, not in bfloat16", "bfloat16")
    path.write_bytes(b"something else")
    refused(r"best\.pt: the weights can't be read")
    torch.save(torch.nn.Linear(2, 2), path)
    refused(r"best\.pt: the weights can't be read .*save the model's state_dict\(\) alone")
    torch.save({"epoch": 3, **plain_state()}, path)
    refused("expected tensors by name, found epoch")
    torch.save([1, 2], path)
    refused("expected tensors by name, found list")
    torch.save(plain_state(), tmp_path / "last.pth")
    refused(r"found best\.pt, last\.pth; keep one of them")
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    refused(r"model\.safetensors: the weights can't be read")
