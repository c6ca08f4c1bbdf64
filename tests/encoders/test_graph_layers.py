"""Graph layers against PyTorch Geometric's full batch, and the bits of a row.

Its own edges and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from graph_cases import (
    EDGE_DIM,
    GRAPHS,
    LAYER_NORM,
    Graph,
    embed,
    full_batch,
    karate,
    nasty,
    ours,
    prepare,
    reference,
    settings,
    tile_edges,
)
from looks import Looks
from torch import Tensor

from embed_ops.encoders.graph.layers import CHUNK, Edges, by_tile
from embed_ops.encoders.graph.partition import TILE

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("torch_geometric")
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in LIMITS]
CASES: dict[str, dict[str, Any]] = {
    "sage": settings("GraphSAGE"),
    "sage-sum": settings("GraphSAGE", aggr="sum", hidden_channels=10),
    "sage-add-wide": settings("GraphSAGE", aggr="add", out_channels=24),
    "sage-max": settings("GraphSAGE", aggr="max"),
    "sage-project": settings("GraphSAGE", project=True, hidden_channels=12),
    "sage-project-max": settings("GraphSAGE", project=True, aggr="max"),
    "sage-normalize": settings("GraphSAGE", normalize=True),
    "sage-no-root": settings("GraphSAGE", root_weight=False),
    "sage-no-bias": settings("GraphSAGE", bias=False),
    "sage-no-out": settings("GraphSAGE", out_channels=None),
    "sage-one-layer": settings("GraphSAGE", num_layers=1),
    "sage-batch-norm": settings("GraphSAGE", norm="batch_norm", norm_kwargs={"eps": 1e-3}),
    "sage-batch-norm-plain": settings(
        "GraphSAGE", norm="BatchNorm", norm_kwargs={"affine": False}, act_first=True
    ),
    "sage-layer-norm": settings("GraphSAGE", **LAYER_NORM),
    "sage-layer-norm-plain": settings(
        "GraphSAGE", norm="layer", norm_kwargs={"mode": "node", "affine": False}
    ),
    "sage-act-first": settings("GraphSAGE", norm="batch", act_first=True, act="elu"),
    "sage-no-act": settings("GraphSAGE", act=None),
    "sage-gelu": settings("GraphSAGE", act="GELU"),
    "sage-leaky": settings("GraphSAGE", act="leaky_relu", act_kwargs={"negative_slope": 0.3}),
    "sage-prelu": settings("GraphSAGE", act="prelu", act_kwargs={"num_parameters": 16}),
    "sage-jk-last": settings("GraphSAGE", jk="last", norm="batch_norm"),
    "sage-jk-cat": settings("GraphSAGE", jk="cat"),
    "sage-jk-max": settings("GraphSAGE", jk="max", out_channels=None),
    "sage-jk-lstm": settings("GraphSAGE", jk="lstm", hidden_channels=5),
    "gat": settings("GAT"),
    "gat-heads": settings("GAT", heads=4),
    "gat-mean": settings("GAT", heads=3, concat=False),
    "gat-concat-out": settings("GAT", heads=4, out_channels=None),
    "gat-edges": settings("GAT", heads=2, edge_dim=EDGE_DIM),
    "gat-edges-fill": settings("GAT", heads=2, edge_dim=EDGE_DIM, fill_value=0.5),
    "gat-edges-no-loops": settings("GAT", heads=2, edge_dim=EDGE_DIM, add_self_loops=False),
    "gat-residual": settings("GAT", heads=2, residual=True, negative_slope=0.05),
    "gat-no-loops": settings("GAT", heads=2, add_self_loops=False),
    "gat-no-bias": settings("GAT", heads=2, bias=False, act="elu"),
    "gat-jk-lstm": settings("GAT", heads=4, jk="lstm", **LAYER_NORM),
    "gatv2": settings("GAT", v2=True),
    "gatv2-heads": settings("GAT", v2=True, heads=4),
    "gatv2-mean": settings("GAT", v2=True, heads=3, concat=False),
    "gatv2-share": settings("GAT", v2=True, heads=2, share_weights=True),
    "gatv2-share-no-loops": settings("GAT", v2=True, heads=2, share_weights=True, add_self_loops=False),
    "gatv2-edges": settings("GAT", v2=True, heads=2, edge_dim=EDGE_DIM),
    "gatv2-edges-fill": settings("GAT", v2=True, edge_dim=EDGE_DIM, fill_value=0.5),
    "gatv2-residual": settings("GAT", v2=True, heads=2, residual=True, bias=False),
    "gatv2-no-loops": settings("GAT", v2=True, heads=2, add_self_loops=False, norm="batch_norm"),
    "gcn": settings("GCN"),
    "gcn-wide": settings("GCN", out_channels=40, jk=None),
    "gcn-no-loops": settings("GCN", add_self_loops=False),
    "gcn-plain": settings("GCN", normalize=False, num_layers=2),
    "gcn-no-bias": settings("GCN", bias=False, jk="cat"),
    "gcn-improved": settings("GCN", improved=True),
    "gcn-weights": settings("GCN"),
    "gcn-weights-improved": settings("GCN", improved=True),
    "gcn-weights-no-loops": settings("GCN", add_self_loops=False, **LAYER_NORM),
    "gcn-weights-plain": settings("GCN", normalize=False, num_layers=2),
}
KINDS = ["sage", "sage-sum", "sage-max", "gat-heads", "gat-edges", "gatv2-edges", "gcn-weights"]
"""One case of each kernel."""


def extra(case: str) -> dict[str, bool]:
    """Say which values of edges a case reads."""
    return {"weighted": case.startswith("gcn-weights"), "attr": "edges" in case}


def close(found: Tensor, expected: Tensor) -> None:
    """Compare within the limit of the dtype, for values around 1.

    Larger ones, such as sums over the hub, in proportion.
    """
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) <= LIMITS[found.dtype] * max(
        1.0, float(expected.abs().max())
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("case", CASES)
def test_equals_full_batch(case: str, graph: str, dtype: torch.dtype) -> None:
    """Every layer and option gives what PyTorch Geometric gives for the whole graph at once.

    One node is a hub of many chunks.
    """
    model = reference(CASES[case])
    state = model.state_dict()
    found = embed(ours(CASES[case], state, dtype), GRAPHS[graph](), chunk=256, **extra(case))
    close(found, full_batch(model, GRAPHS[graph](), dtype, **extra(case)))


@pytest.mark.parametrize("case", KINDS)
def test_chunks_change_little(case: str) -> None:
    """Other chunks of the hub are other sums of the same numbers."""
    model = ours(CASES[case], reference(CASES[case]).state_dict())
    whole = embed(model, nasty(), **extra(case))
    for chunk in (37, 2000):
        close(embed(model, nasty(), chunk=chunk, **extra(case)), whole)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES), *((case, torch.float64) for case in KINDS)],
)
def test_bits_do_not_depend_on_the_halo(case: str, dtype: torch.dtype) -> None:
    """A halo of the tile's own sources, re-indexed, gives the same bits as one of all nodes."""
    model = ours(CASES[case], reference(CASES[case]).state_dict(), dtype)
    whole = embed(model, nasty(), chunk=256, **extra(case))
    assert torch.equal(embed(model, nasty(), chunk=256, alone=True, index=torch.int32, **extra(case)), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KINDS)
def test_bits_do_not_depend_on_other_rows(case: str, dtype: torch.dtype) -> None:
    """A destination has the same bits when most others of its tile have lost their edges."""
    model = ours(CASES[case], reference(CASES[case]).state_dict(), dtype)
    graph, hub = nasty(), 1500
    held = prepare(model, graph, dtype, 3 * TILE, **extra(case))
    x, first = graph.x[TILE : 2 * TILE].to(dtype), TILE
    degree = held.degree
    tiles = _tiles(graph.x.to(dtype))
    sent = torch.cat(
        [model.messages(1, tile, None if degree is None else degree[at : at + TILE]) for at, tile in tiles]
    )
    own = sent[first : first + TILE] if model.uses_own(1) else None
    near = None if degree is None else degree[first : first + TILE]
    edges, _ = tile_edges(held, first)
    whole = model.layer(1, sent, edges, x, own, near, 256)
    rng = torch.Generator().manual_seed(0)
    for share, with_hub in ((0.3, True), (0.3, False), (0.004, False)):
        kept = torch.rand(TILE, generator=rng) < share
        kept[hub - first] = with_hub
        edges, _ = tile_edges(held, first, kept)
        assert torch.equal(model.layer(1, sent, edges, x, own, near, 256)[kept], whole[kept])


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_by_tile(dtype: torch.dtype) -> None:
    """An edge's product has the same bits among few and among many."""
    values, weight = (
        torch.randn(rows, 100, dtype=dtype, generator=torch.Generator().manual_seed(0)) for rows in (3000, 40)
    )
    whole = by_tile(values, weight)
    assert torch.allclose(whole, values @ weight.T, atol=1e-4)
    for first, last in ((0, 0), (0, 1), (2900, 2903), (5, 1029), (1, 3000)):
        assert torch.equal(by_tile(values[first:last], weight), whole[first:last])


def _tiles(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(x), TILE):
        part = x[first : first + TILE]
        yield first, torch.cat([part, torch.zeros((TILE - len(part), x.shape[1]), dtype=x.dtype)])


@pytest.mark.parametrize("nodes", [1, 5, TILE])
@pytest.mark.parametrize("case", KINDS)
def test_graphs_without_edges(case: str, nodes: int) -> None:
    """Nodes without edges, and a halo without rows."""
    graph = Graph(
        nasty().x[:nodes],
        torch.zeros((2, 0), dtype=torch.int64),
        torch.zeros(0).double(),
        torch.zeros((0, EDGE_DIM)).double(),
    )
    model = reference(CASES[case])
    found = embed(ours(CASES[case], model.state_dict()), graph, alone=True, **extra(case))
    close(found, full_batch(model, graph, torch.float64, **extra(case)))


@pytest.mark.parametrize("v2", [False, True])
def test_large_scores_stay_finite(v2: bool) -> None:
    """The softmax subtracts the maximum over all chunks first."""
    config = settings("GAT", v2=v2, heads=2, num_layers=1)
    model = reference(config)
    state = {name: values * (3000 if "att" in name else 1) for name, values in model.state_dict().items()}
    model.load_state_dict(state)
    found = embed(ours(config, state), nasty(), chunk=256)
    assert bool(found.isfinite().all())
    close(found, full_batch(model, nasty(), torch.float64))


def test_gat_with_two_maps() -> None:
    """GATConv for two kinds of nodes, used for one: destinations have a matrix of their own."""
    from torch_geometric.nn import GATConv

    torch.manual_seed(0)
    conv = GATConv((12, 12), 8, heads=2, concat=False).double()
    config = settings("GAT", heads=2, num_layers=1)
    model = ours(config, {f"convs.0.{name}": values for name, values in conv.state_dict().items()})
    x = nasty().x
    close(embed(model, nasty(), chunk=256), conv((x, x), nasty().edges).detach())


@pytest.mark.parametrize(
    "case", ["sage", "sage-project-max", "gat-edges", "gatv2-edges", "gcn-weights", "sage-jk-lstm"]
)
def test_gradients(case: str) -> None:
    """A training loop gets PyTorch Geometric's gradients through messages, layer and output."""
    reference_model = reference(CASES[case])
    state = {name: values.clone() for name, values in reference_model.state_dict().items()}
    model = ours(CASES[case], state)
    graph = nasty()
    graph = Graph(graph.x[:TILE], *_inside(graph, TILE))
    held = prepare(model, graph, torch.float64, TILE, **extra(case))
    edges, _ = tile_edges(held, 0)
    for values in model.weights.values():
        values.requires_grad_(values.is_floating_point())
    states = [graph.x]
    for layer in range(1, model.depth + 1):
        sent = model.messages(layer, states[-1], held.degree)
        states.append(
            model.layer(
                layer, sent, edges, states[-1], sent if model.uses_own(layer) else None, held.degree, 64
            )
        )
    model.output(states[1:]).square().mean().backward()  # type: ignore[no-untyped-call]
    extras = (
        {"edge_weight": graph.weight}
        if extra(case)["weighted"]
        else {"edge_attr": graph.attr}
        if extra(case)["attr"]
        else {}
    )
    reference_model(graph.x, graph.edges, **extras).square().mean().backward()
    for name, values in reference_model.named_parameters():
        mine = model.weights[name].grad
        assert mine is not None, name
        assert float((mine - values.grad).abs().max()) < 1e-11, name


def _inside(graph: Graph, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    kept = (graph.edges < nodes).all(0)
    return graph.edges[:, kept], graph.weight[kept], graph.attr[kept]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("sage", {"sends_input": [True, True, False], "message_width": [12, 16, 8], "uses_own": [False] * 3}),
        (
            "sage-max",
            {"sends_input": [True, True, True], "message_width": [12, 16, 16], "uses_own": [False] * 3},
        ),
        ("sage-project", {"sends_input": [False] * 3, "message_width": [12, 12, 8], "uses_own": [False] * 3}),
        ("gat-heads", {"sends_input": [False] * 3, "message_width": [20, 20, 36], "uses_own": [True] * 3}),
        ("gatv2-heads", {"sends_input": [False] * 3, "message_width": [16, 16, 32], "uses_own": [True] * 3}),
        (
            "gatv2-no-loops",
            {"sends_input": [False] * 3, "message_width": [16, 16, 16], "uses_own": [False] * 3},
        ),
        ("gcn", {"sends_input": [False] * 3, "message_width": [12, 16, 8], "uses_own": [True] * 3}),
        ("gcn-plain", {"sends_input": [False, False], "message_width": [12, 8], "uses_own": [False] * 2}),
    ],
)
def test_what_the_engine_is_told(case: str, expected: dict[str, list[Any]]) -> None:
    """Widths and needs of each layer; a graph without weights does not make GCN copy its input."""
    model = ours(CASES[case], reference(CASES[case]).state_dict())
    if case == "gcn-plain":
        expected = {**expected, "sends_input": [True, False]}
    for name, values in expected.items():
        assert [getattr(model, name)(layer) for layer in range(1, model.depth + 1)] == values
    assert (model.width(0), model.width(1), model.out_width()) == (12, CASES[case]["hidden_channels"], 8)


def test_needs_of_models() -> None:
    """What is the same for all layers."""
    found = {
        case: ours(CASES[case], reference(CASES[case]).state_dict())
        for case in (
            "sage",
            "gat-edges",
            "gat-no-loops",
            "gcn",
            "gcn-improved",
            "gcn-no-loops",
            "gcn-plain",
            "sage-jk-cat",
            "sage-jk-last",
        )
    }
    assert [case for case, model in found.items() if model.drops_loops] == [
        "gat-edges",
        "gcn",
        "gcn-improved",
    ]
    assert [case for case, model in found.items() if model.needs_degree] == [
        "gcn",
        "gcn-improved",
        "gcn-no-loops",
    ]
    assert [case for case, model in found.items() if model.weighted] == [
        "gcn",
        "gcn-improved",
        "gcn-no-loops",
        "gcn-plain",
    ]
    assert found["gat-edges"].edge_dim == EDGE_DIM
    assert found["gcn-improved"].loop_weight == 2


def test_no_layer_looks_into_a_tensor() -> None:
    """A GPU is given a tile's layer without being asked for anything."""
    graph = karate()
    for case, config in CASES.items():
        model = ours(config, reference(config).state_dict(), torch.float32)
        held = prepare(model, graph, torch.float32, TILE, **extra(case))
        x = torch.zeros(TILE, 12)
        x[: len(graph.x)] = graph.x
        edges, _ = tile_edges(held, 0)
        with torch.inference_mode(), Looks() as looks:
            sent = model.messages(1, x, held.degree)
            states = model.layer(1, sent, edges, x, sent if model.uses_own(1) else None, held.degree)
        assert looks.seen == [], case
        assert states.shape == (TILE, model.width(1))


def test_temporaries_do_not_grow_with_the_halo() -> None:
    """A tile with few edges touches few rows of the halo.

    Rows that are NaN, and could be a file's, are not read.
    """
    for case in KINDS:
        model = ours(CASES[case], reference(CASES[case]).state_dict(), torch.float32)
        halo = torch.full((50, model.message_width(1)), float("nan"))
        halo[3] = 1.0
        indptr = torch.ones(TILE + 1, dtype=torch.int64)
        indptr[0] = 0
        x, own, degree = torch.ones(TILE, 12), torch.ones(TILE, model.message_width(1)), torch.ones(TILE)
        edges = Edges(indptr, indptr.tolist(), torch.tensor([3]), torch.ones(1), torch.ones(1, EDGE_DIM))
        with torch.inference_mode():
            assert bool(model.layer(1, halo, edges, x, own, degree, CHUNK).isfinite().all()), case
