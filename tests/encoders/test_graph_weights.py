"""Graph model folders: every generation of names gives the same vectors."""

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

from embed_ops.encoders.graph.config_file import parse_config
from embed_ops.encoders.graph.weights import load_graph_model

pytest.importorskip("torch_geometric")
State = dict[str, Tensor]


def renamed(names: dict[str, str | tuple[str, ...]]) -> Callable[[State], State]:
    """Make a function that replaces parts of names; several new parts copy the weight."""

    def change(state: State) -> State:
        for old, new in names.items():
            changed: State = {}
            for name, values in state.items():
                for part in (new,) if isinstance(new, str) else new:
                    changed[name.replace(old, part)] = values
            state = changed
        return state

    return change


def turned(old: str, new: str) -> Callable[[State], State]:
    """Make a function that renames matrices and stores them the other way round."""
    return lambda state: {
        name.replace(old, new): values.t() if old in name else values for name, values in state.items()
    }


def one_vector(state: State) -> State:
    """Join both attention vectors, as up to PyTorch Geometric 1.4."""
    changed = turned(".lin.weight", ".weight")(state)
    for name in [name for name in changed if name.endswith("att_dst")]:
        changed[name.replace("att_dst", "att")] = torch.cat(
            [changed.pop(name), changed.pop(name.replace("att_dst", "att_src"))], dim=-1
        )
    return changed


def halved(state: State) -> State:
    """Put half of each bias on either matrix, as DGL up to 0.6."""
    changed = renamed(
        {
            "convs.": "layers.",
            "lin_l.bias": "fc_self.bias",
            "lin_l.weight": "fc_neigh.weight",
            "lin_r.": "fc_self.",
        }
    )(state)
    for name in [name for name in changed if name.endswith("fc_self.bias")]:
        changed[name] = changed[name] / 2
        changed[name.replace("fc_self", "fc_neigh")] = changed[name]
    return changed


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
        for prefix in ("module.", "_encoder.", "gnn.", "_orig_mod.", "module._orig_mod.", "net.gnn.encoder.")
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
    matrix = torch.zeros(len(graph.x), len(graph.x), dtype=torch.float64)
    matrix[graph.edges[1], graph.edges[0]] = 1
    return matrix


def dense_gat(
    graph: Graph,
    x: Tensor,
    columns: int,
    *,
    residual: bool,
    v2: bool,
    layer: int,
    draw: Callable[..., Tensor],
) -> Tensor:
    """Compute a layer of DGL's GATConv or GATv2Conv over all pairs: (nodes, 4, columns)."""
    before, wide, prefix = x.shape[1], 4 * columns, f"layers.{layer}."
    matrices = [
        draw(f"{prefix}{name}.weight", wide, before) for name in (("fc_src", "fc_dst") if v2 else ("fc",))
    ]
    biases = [draw(f"{prefix}{name}.bias", wide) for name in ("fc_src", "fc_dst")] if v2 else [None]
    source, target = (F.linear(x, matrices[at], biases[at]).view(-1, 4, columns) for at in (0, -1))
    if v2:
        both = F.leaky_relu(source[None] + target[:, None], 0.2)
        score = (both * draw(prefix + "attn", 1, 4, columns)).sum(-1)
    else:
        left, right = ((source * draw(prefix + name, 1, 4, columns)).sum(-1) for name in ("attn_l", "attn_r"))
        score = F.leaky_relu(left[None] + right[:, None], 0.2)
    share = score.masked_fill(dense(graph)[:, :, None] == 0, float("-inf")).softmax(1)
    heads = torch.einsum("tsh,shc->thc", share, source)
    linear = residual and before != wide
    if residual:
        own = (
            F.linear(x, draw(prefix + "res_fc.weight", wide, before), draw(prefix + "res_fc.bias", wide))
            if linear
            else x
        )
        heads = heads + own.view(-1, 4, columns)
    if not linear and not v2:
        heads = heads + draw(prefix + "bias", wide).view(4, columns)
    return heads


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
        heads = dense_gat(graph, expected, columns, residual=residual, v2=v2, layer=number, draw=draw)
        expected = F.elu(heads).flatten(1) if number == 0 else heads.mean(1)
    vectors = embed(ours(config, state), Graph(x, graph.edges, graph.weight, graph.attr))
    assert float((vectors - expected).abs().max()) < 1e-12


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
