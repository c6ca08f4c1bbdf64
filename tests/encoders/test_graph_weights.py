"""Graph model folders: every generation of names gives the same vectors, and what does not fit is refused with the key and the setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_cases import LAYER_NORM, Graph, embed, full_batch, karate, ours, reference, save, settings
from torch import Tensor

from embed_ops.encoders.graph.config_file import parse_config, read_config
from embed_ops.encoders.graph.weights import canonical, load_graph_model
from embed_ops.errors import ModelError

pytest.importorskip("torch_geometric")
State = dict[str, Tensor]


def renamed(names: dict[str, str | tuple[str, ...]]) -> Callable[[State], State]:
    """Make a function that replaces parts of names; several new parts copy the weight."""

    def change(state: State) -> State:
        for old, new in names.items():
            found: State = {}
            for name, values in state.items():
                for part in (new,) if isinstance(new, str) else new:
                    found[name.replace(old, part)] = values
            state = found
        return state

    return change


def turned(old: str, new: str) -> Callable[[State], State]:
    """Make a function that renames matrices and stores them the other way round."""
    return lambda state: {
        name.replace(old, new): values.t() if old in name else values for name, values in state.items()
    }


def one_vector(state: State) -> State:
    """Join both attention vectors, as up to PyTorch Geometric 1.4."""
    found = turned(".lin.weight", ".weight")(state)
    for name in [name for name in found if name.endswith("att_dst")]:
        found[name.replace("att_dst", "att")] = torch.cat(
            [found.pop(name), found.pop(name.replace("att_dst", "att_src"))], dim=-1
        )
    return found


def halved(state: State) -> State:
    """Put half of each bias on either matrix, as DGL up to 0.6."""
    found = renamed(
        {
            "convs.": "layers.",
            "lin_l.bias": "fc_self.bias",
            "lin_l.weight": "fc_neigh.weight",
            "lin_r.": "fc_self.",
        }
    )(state)
    for name in [name for name in found if name.endswith("fc_self.bias")]:
        found[name] = found[name] / 2
        found[name.replace("fc_self", "fc_neigh")] = found[name]
    return found


SAGE, GAT = settings("GraphSAGE", norm="batch_norm"), settings("GAT", heads=4, **LAYER_NORM)
V2, GCN = settings("GAT", v2=True, heads=2, share_weights=True), settings("GCN")
DGL_SAGE = {"convs.": "layers.", "lin_l.weight": "fc_neigh.weight", "lin_r.": "fc_self."}
GENERATIONS: dict[str, tuple[dict[str, Any], Callable[[State], State]]] = {
    "sage-1.5": (SAGE, renamed({"lin_l.": "lin_rel.", "lin_r.": "lin_root."})),
    "sage-ogb": (SAGE, renamed({"norms.": "bns.", ".module.": "."})),
    "sage-plain-norms": (SAGE, renamed({".module.": "."})),
    "sage-dgl": (SAGE, renamed({**DGL_SAGE, "lin_l.bias": "fc_self.bias"})),
    "sage-dgl-bias": (SAGE, renamed({**DGL_SAGE, "lin_l.bias": "bias"})),
    "sage-dgl-two-biases": (SAGE, halved),
    "gat-2.0": (GAT, renamed({".lin.weight": (".lin_src.weight", ".lin_dst.weight")})),
    "gat-1.7": (
        GAT,
        renamed({".lin.weight": (".lin_l.weight", ".lin_r.weight"), "att_src": "att_l", "att_dst": "att_r"}),
    ),
    "gat-1.5": (GAT, renamed({"att_src": "att_j", "att_dst": "att_i"})),
    "gat-1.4": (GAT, one_vector),
    "gatv2-shared-once": (
        V2,
        lambda state: {name: values for name, values in state.items() if "lin_r" not in name},
    ),
    "gcn-1.7": (GCN, turned(".lin.weight", ".weight")),
    **{
        f"prefix-{prefix}": (SAGE, renamed({name: prefix + name for name in ("convs.", "norms.")}))
        for prefix in ("module.", "_encoder.")
    },
    "prefix-model.module.": (GAT, renamed({name: f"model.module.{name}" for name in ("convs.", "norms.")})),
    "prefix-encoder.": (GCN, renamed({"convs.": "encoder.convs."})),
}


@pytest.fixture(scope="module")
def states() -> Callable[[dict[str, Any]], State]:
    """State dicts of PyTorch Geometric 2.8, one for each config."""
    kept: dict[str, State] = {}

    def state(config: dict[str, Any]) -> State:
        return dict(kept.setdefault(json.dumps(config), reference(config).state_dict()))

    return state


States = Callable[[dict[str, Any]], State]


@pytest.mark.parametrize("name", GENERATIONS)
def test_generations_give_the_same_vectors(name: str, states: States, tmp_path: Path) -> None:
    """Names of older releases, of DGL and of wrappers are translated to the same weights."""
    config, change = GENERATIONS[name]
    new, old = (
        save(tmp_path / "new", config, states(config)),
        save(tmp_path / "old", config, change(states(config))),
    )
    assert change(states(config)).keys() != states(config).keys()
    assert torch.equal(
        embed(load_graph_model(new, "float64"), karate()), embed(load_graph_model(old, "float64"), karate())
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_checkpoints(suffix: str, wrapped: str | None, dtype: str, states: States, tmp_path: Path) -> None:
    """A state dict, or a checkpoint around one, in either dtype and from half precision too."""
    (tmp_path / "config.json").write_text(json.dumps(GAT))
    state = states(GAT)
    torch.save(state if wrapped is None else {"epoch": 3, wrapped: state}, tmp_path / f"best{suffix}")
    model = load_graph_model(tmp_path, dtype)
    assert {str(values.dtype) for values in model.weights.values()} == {f"torch.{dtype}"}
    assert torch.equal(embed(model, karate()), embed(ours(GAT, state, getattr(torch, dtype)), karate()))


def test_safetensors_come_first(states: States, tmp_path: Path) -> None:
    """Other files beside model.safetensors are not looked at."""
    save(tmp_path, SAGE, states(SAGE))
    (tmp_path / "optimizer.pt").write_bytes(b"not weights")
    assert load_graph_model(tmp_path).depth == 3


def test_names_and_shapes_are_pytorch_geometrics(states: States) -> None:
    """What a model is said to have is what PyTorch Geometric's has."""
    for config in (
        SAGE,
        GAT,
        V2,
        GCN,
        settings("GraphSAGE", jk="lstm", project=True, act="prelu"),
        settings("GAT", jk="cat", edge_dim=2, residual=True),
    ):
        shapes = {
            name: tuple(axis.size for axis in shape)
            for name, shape in parse_config(config, "").shapes().items()
        }
        expected = {
            name.replace(".module.", "."): tuple(values.shape) for name, values in states(config).items()
        }
        shared = {
            name
            for name in expected
            if name.endswith("num_batches_tracked") or (config is V2 and "lin_r" in name)
        }
        assert shapes == {name: shape for name, shape in expected.items() if name not in shared}


def looped(graph: Graph) -> Graph:
    """Add a loop to each node, as DGL's users do before GATConv."""
    loops = torch.arange(len(graph.x)).expand(2, -1)
    more = len(graph.x)
    return Graph(
        graph.x,
        torch.cat([graph.edges, loops], 1),
        torch.cat([graph.weight, torch.ones(more)]),
        F.pad(graph.attr, (0, 0, 0, more)),
    )


def dense(graph: Graph) -> Tensor:
    """Give the adjacency (destinations, sources) of a graph without duplicates."""
    found = torch.zeros(len(graph.x), len(graph.x), dtype=torch.float64)
    found[graph.edges[1], graph.edges[0]] = 1
    return found


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize(("width", "residual"), [(12, False), (12, True), (16, True)])
def test_dgl_gat(width: int, residual: bool, v2: bool) -> None:
    """DGL's GATConv and GATv2Conv, written out densely.

    Heads side by side in the first layer, their mean in the last.

    A residual of equal widths has no matrix there, and else holds the bias; the mean is taken after
    both.
    """
    graph = looped(karate())
    x = torch.cat([graph.x, graph.x[:, : width - 12]], 1)
    config = settings(
        "GAT",
        v2=v2,
        in_channels=width,
        heads=4,
        num_layers=2,
        add_self_loops=False,
        residual=residual,
        act="elu",
    )
    generator, state = torch.Generator().manual_seed(0), {}

    def draw(name: str, *shape: int) -> Tensor:
        state[name] = torch.randn(shape, generator=generator, dtype=torch.float64) / 2
        return state[name]

    expected = x
    for number, columns in enumerate((4, 8)):
        before, wide, prefix = expected.shape[1], 4 * columns, f"layers.{number}."
        matrices = [
            draw(f"{prefix}{name}.weight", wide, before) for name in (("fc_src", "fc_dst") if v2 else ("fc",))
        ]
        biases = [draw(f"{prefix}{name}.bias", wide) for name in ("fc_src", "fc_dst")] if v2 else [None]
        source, target = (F.linear(expected, matrices[at], biases[at]).view(-1, 4, columns) for at in (0, -1))
        if v2:
            both = F.leaky_relu(source[None] + target[:, None], 0.2)
            score = (both * draw(prefix + "attn", 1, 4, columns)).sum(-1)
        else:
            left, right = (
                (source * draw(prefix + name, 1, 4, columns)).sum(-1) for name in ("attn_l", "attn_r")
            )
            score = F.leaky_relu(left[None] + right[:, None], 0.2)
        share = score.masked_fill(dense(graph)[:, :, None] == 0, float("-inf")).softmax(1)
        result = torch.einsum("tsh,shc->thc", share, source)
        linear = residual and before != wide
        if residual:
            own = (
                F.linear(
                    expected, draw(prefix + "res_fc.weight", wide, before), draw(prefix + "res_fc.bias", wide)
                )
                if linear
                else expected
            )
            result = result + own.view(-1, 4, columns)
        if not linear and not v2:
            result = result + draw(prefix + "bias", wide).view(4, columns)
        expected = F.elu(result).flatten(1) if number == 0 else result.mean(1)
    found = embed(ours(config, state), Graph(x, graph.edges, graph.weight, graph.attr))
    assert float((found - expected).abs().max()) < 1e-12


def test_dgl_sage() -> None:
    """DGL's SAGEConv, written out densely."""
    graph, generator = karate(), torch.Generator().manual_seed(0)
    state = {
        f"layers.0.{name}": torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in {
            "fc_neigh.weight": (8, 12),
            "fc_self.weight": (8, 12),
            "fc_self.bias": (8,),
        }.items()
    }
    neighbours = dense(graph) / dense(graph).sum(1, keepdim=True) @ graph.x
    expected = (
        F.linear(graph.x, state["layers.0.fc_self.weight"], state["layers.0.fc_self.bias"])
        + neighbours @ state["layers.0.fc_neigh.weight"].T
    )
    assert (
        float((embed(ours(settings("GraphSAGE", num_layers=1), state), graph) - expected).abs().max()) < 1e-12
    )


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


PLAIN = settings("GraphSAGE")
ONE = torch.ones(1)
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
        V2,
        lambda _: reference(settings("GAT", v2=True, heads=2)).state_dict(),
        r"lin_r\.weight differs from its twin: set share_",
    ),
    "two names": (
        SAGE,
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
    "GraphConv": (
        GCN,
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
def test_bad_weights(name: str, states: States) -> None:
    """Each is refused by one sentence that names the weight, shapes, and what to look at in config.json."""
    config, change, message = BAD_WEIGHTS[name]
    with pytest.raises(ModelError, match=message) as caught:
        canonical(change(states(PLAIN)), parse_config(config, "config.json"), "weights")
    assert str(caught.value).startswith("weights: ")
    assert "\n" not in str(caught.value)


def test_bad_weight_files(states: States, tmp_path: Path) -> None:
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
    torch.save({"epoch": 3, **states(PLAIN)}, path)
    refused("expected tensors by name, found epoch")
    torch.save([1, 2], path)
    refused("expected tensors by name, found list")
    torch.save(states(PLAIN), tmp_path / "last.pth")
    refused(r"found best\.pt, last\.pth; keep one of them")
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    refused(r"model\.safetensors: the weights can't be read")


def test_loaded_folder_equals_full_batch(tmp_path: Path) -> None:
    """From the folder to vectors, in float32, as a run does."""
    model = reference(GAT).float()
    folder = save(tmp_path, GAT, model.state_dict())
    assert (
        float(
            (embed(load_graph_model(folder), karate()) - full_batch(model, karate(), torch.float32))
            .abs()
            .max()
        )
        < 1e-5
    )
