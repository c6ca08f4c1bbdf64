"""Graphs through the whole job.

Equal to PyTorch Geometric, the same bytes however divided, killed and resumed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tiny_runs import contents, no_session

from embed_ops import Run, Spec, embed
from embed_ops.embedding.driver import retry
from embed_ops.errors import ModelError, RunError, SourceError, SpecError
from embed_ops.runs.verify.run import verify

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the nasty graph's tables, and a model."""
    path = tmp_path_factory.mktemp("graph")
    graphs.write(graphs.nasty(), path)
    graphs.sage(path / "sage")
    return path


def spec(folder: Path, out: Path, model: str = "sage", **words: Any) -> Spec:
    """Describe a run over the tables of a folder."""
    source = graphs.section(folder) | words.pop("source", {})
    encoder = {"family": "graph", "model": str(folder / model)} | words.pop("encoder", {})
    return Spec.parse({"source": source, "encoder": encoder, "sink": {"path": str(out)}, **words})


def bounded(run: Run) -> None:
    """Check law 1, source included."""
    found = verify(run.path, source=True)
    assert found.ok, found


@pytest.fixture(scope="module")
def whole(engine: str, folder: Path) -> Run:
    """Embed the nasty graph once."""
    return embed(spec(folder, folder / "whole", resources={"partitions": 2}))


def test_equal_to_torch_geometric(whole: Run, folder: Path) -> None:
    """Every node's vector is the one of the whole graph in one piece."""
    graph = graphs.nasty()
    model, _ = graphs.sage(folder / "sage")
    assert np.abs(graphs.vectors(whole) - graphs.reference(model, graph)).max() <= TOLERANCE
    assert whole.open().to_table(columns=["id"])["id"].to_pylist()[:2] == ["n0", "n7919"]
    bounded(whole)
    figures = whole.report["graph"]
    assert figures["nodes"] == 3000
    assert figures["edges"] == len(graph.src)
    assert all(layer["bytes_exchanged"] == layer["bytes_predicted"] > 0 for layer in figures["layers"])
    assert not (Path(whole.path) / "work").exists() or not any((Path(whole.path) / "work").rglob("*.npy"))


@pytest.mark.parametrize("partitions", [1, pytest.param(5, marks=pytest.mark.slow), 12])
def test_bytes_do_not_depend_on_partitions(whole: Run, folder: Path, tmp_path: Path, partitions: int) -> None:
    """One, two, five and twelve ranges of nodes give the same files."""
    other = embed(spec(folder, tmp_path / "out", resources={"partitions": partitions}))
    assert contents(Path(other.path)) == contents(Path(whole.path))


def test_subset_is_exact(whole: Run, folder: Path, tmp_path: Path) -> None:
    """Nodes that `where` chooses get the vectors of the full run, and the others none."""
    some = embed(spec(folder, tmp_path / "out", source={"where": "half = 1 AND id LIKE 'n1%'"}))
    ids = whole.open().to_table(columns=["id"])["id"].to_pylist()
    rows = [row for row, name in enumerate(ids) if row % 2 == 1 and name.startswith("n1")]
    assert 0 < len(rows) < 800
    assert some.open().to_table(columns=["id"])["id"].to_pylist() == [ids[row] for row in rows]
    assert np.array_equal(graphs.vectors(some), graphs.vectors(whole)[rows])
    assert some.report["filtered"] == 3000 - len(rows)
    bounded(some)


@pytest.mark.slow
def test_killed_in_a_layer(whole: Run, folder: Path, tmp_path: Path) -> None:
    """A command that is killed while layers are computed goes on in the middle of one.

    It comes to the same bytes.
    """
    out = tmp_path / "out"
    wanted = {"source": graphs.section(folder), "encoder": {"family": "graph", "model": str(folder / "sage")}}
    wanted |= {"sink": {"path": str(out)}, "resources": {"partitions": "3"}}
    words = [f"{part}.{key}={value}" for part, pairs in wanted.items() for key, value in pairs.items()]
    line = [sys.executable, "-m", "embed_ops", "embed", *words, "--progress", "plain"]
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    first = out / "work" / "graph" / "layer-001"
    deadline = time.monotonic() + 120
    while not list(first.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(first.glob("*.json")), "it was not killed in the first layer"
    kept = {path.relative_to(out): path.stat().st_mtime_ns for path in (out / "work").rglob("*.npy")}
    assert not list((out / "work" / "graph").glob("layer-003/*.json"))
    shutil.copytree(out, tmp_path / "copy")
    embed(spec(folder, out, resources={"partitions": 3}))
    assert contents(out) == contents(Path(whole.path))
    assert kept


def test_layers_and_normalised_outputs(folder: Path, engine: str, tmp_path: Path) -> None:
    """One run gives several layers; layer 0 is the features."""
    outputs = [
        {"name": "first", "layer": 1, "normalize": True},
        {"name": "raw", "layer": 0},
        {"name": "last"},
    ]
    run = embed(spec(folder, tmp_path / "out", encoder={"outputs": outputs}))
    graph = graphs.nasty()
    model, _ = graphs.sage(folder / "sage")
    import torch

    with torch.inference_mode():
        edges = torch.from_numpy(np.stack([graph.src, graph.dst]))
        first = torch.nn.functional.normalize(model.convs[0](torch.from_numpy(graph.x), edges).relu()).numpy()
    assert np.abs(graphs.vectors(run, "first") - first).max() <= TOLERANCE
    assert np.array_equal(graphs.vectors(run, "raw"), graph.x)
    assert graphs.vectors(run, "last").shape == (3000, 8)


@pytest.mark.parametrize("ids", ["numbers", "places"])
def test_integer_ids(ids: str, whole: Run, folder: Path, tmp_path: Path) -> None:
    """Integers are ids too; where they are row numbers, no dictionary is made."""
    names = np.arange(3000) if ids == "places" else np.arange(3000)[::-1] * 11 - 5
    section = graphs.write(graphs.nasty(), tmp_path / "tables", files=2, names=names)
    run = embed(spec(folder, tmp_path / "out", source=section))
    assert np.array_equal(graphs.vectors(run), graphs.vectors(whole))


MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gat": ("GAT", {"heads": 4, "edge_dim": 3, "residual": True}, {"edge_features": ["a", "b", "c"]}),
    "gatv2": (
        "GAT",
        {"v2": True, "heads": 2, "edge_dim": 3, "jk": "last", "norm": "batch_norm"},
        {"edge_features": ["abc"]},
    ),
    "gcn": ("GCN", {"jk": "lstm"}, {}),
    "weighted gcn": ("GCN", {"improved": True, "act": "elu", "jk": "cat"}, {"weight": "w"}),
    "sage": ("GraphSAGE", {"aggr": "sum", "project": True, "jk": "max", "normalize": True}, {}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_other_models(name: str, dtype: str, engine: str, tmp_path: Path) -> None:
    """Attention with features of edges, weighted GCN, jumping knowledge and norms, in a job."""
    import torch
    from torch_geometric import nn

    kind, options, fields = MODELS[name]
    graph = graphs.nasty(1500, 6000, 6)
    rng = np.random.default_rng(1)
    attributes, weight = (
        rng.standard_normal((len(graph.src), 3)).astype(np.float32),
        rng.random(len(graph.src)).astype(np.float32),
    )
    section = graphs.write(graph, tmp_path / "t", files=1, names=np.arange(1500))
    columns = {column: attributes[:, place] for place, column in enumerate("abc")} | {"w": weight}
    columns["abc"] = pa.FixedSizeListArray.from_arrays(pa.array(attributes.ravel()), 3)
    pq.write_table(
        pa.table({"src": graph.src, "dst": graph.dst, **columns}), tmp_path / "t" / "edges" / "0.parquet"
    )
    config = {"in_channels": 6, "hidden_channels": 8, "num_layers": 2, "out_channels": 5, **options}
    torch.manual_seed(1)
    model = getattr(nn, kind)(**config).eval()
    graphs.save(model, tmp_path / "model", type=kind, **config)
    words = {"source": section | fields, "encoder": {"dtype": dtype}, "resources": {"partitions": 2}}
    run = embed(spec(tmp_path, tmp_path / "out", "model", **words))
    extra: dict[str, Any] = {"edge_attr": torch.from_numpy(attributes)} if "edge_dim" in config else {}
    if "weight" in fields:
        extra = {"edge_weight": torch.from_numpy(weight)}
    if dtype == "float64":
        model, extra = model.double(), {column: values.double() for column, values in extra.items()}
        graph = graphs.Graph(graph.x.astype(np.float64), graph.src, graph.dst)
    expected = graphs.reference(model, graph, **extra)
    assert np.abs(graphs.vectors(run) - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())
    assert run.header.model["outputs"]["embedding"]["dim"] == expected.shape[1]


def test_few_neighbours(folder: Path, engine: str, tmp_path: Path) -> None:
    """With a fan-out each node keeps the in-edges of least hash.

    The same ones however the graph is divided.
    """
    from embed_ops.encoders.graph.partition import mix

    graph = graphs.nasty()
    runs = [
        embed(
            spec(folder, tmp_path / str(count), source={"fanout": 4}, resources={"partitions": count}, seed=5)
        )
        for count in (1, 3)
    ]
    assert contents(Path(runs[0].path)) == contents(Path(runs[1].path))
    hashes = mix(mix(graph.src.astype(np.uint64) + np.uint64(5)) ^ graph.dst.astype(np.uint64))
    kept: list[int] = []
    for node in range(3000):
        mine = np.flatnonzero(graph.dst == node)
        kept += mine[np.lexsort((graph.src[mine], hashes[mine]))][:4].tolist()
    model, _ = graphs.sage(folder / "sage")
    expected = graphs.reference(model, graphs.Graph(graph.x, graph.src[kept], graph.dst[kept]))
    assert np.abs(graphs.vectors(runs[0]) - expected).max() <= TOLERANCE
    assert runs[0].report["graph"]["edges"] == len(kept)


def test_csv_and_undirected(folder: Path, engine: str, tmp_path: Path) -> None:
    """Tables in CSV, features in columns, edges that count in both directions."""
    graph = graphs.nasty(400, 1500, 3)
    model, _ = graphs.sage(tmp_path / "model", width=3, aggr="max")
    (tmp_path / "nodes").mkdir()
    columns = {f"f{place}": pa.array(graph.x[:, place].astype(np.float64)) for place in range(3)}
    pa.csv.write_csv(pa.table({"id": np.arange(400) + 1000, **columns}), tmp_path / "nodes" / "a.csv")
    pa.csv.write_csv(pa.table({"src": graph.src + 1000, "dst": graph.dst + 1000}), tmp_path / "edges.csv")
    kinds = {"id": "int64", "src": "int64", "dst": "int64"}
    source = {
        "edges": str(tmp_path / "edges.csv"),
        "features": ["f0", "f1", "f2"],
        "undirected": True,
        "types": kinds,
    }
    run = embed(spec(tmp_path, tmp_path / "out", "model", source=source))
    back = graph.src != graph.dst
    assert run.open().to_table(columns=["id"])["id"].to_pylist() == list(range(1000, 1400))
    both = graphs.Graph(graph.x, np.append(graph.src, graph.dst[back]), np.append(graph.dst, graph.src[back]))
    assert np.abs(graphs.vectors(run) - graphs.reference(model, both)).max() <= TOLERANCE
    bounded(run)


def test_bad_rows(folder: Path, engine: str, tmp_path: Path) -> None:
    """Nodes that can't be used are rejects, and the graph is the rest."""
    graph = graphs.nasty(300, 1200, 4)
    model, _ = graphs.sage(tmp_path / "model", width=4)
    x: list[Any] = graph.x.tolist()
    x[5], x[6], x[8] = None, [1.0, 2.0], [1.0, float("nan"), 0.0, 0.0]
    ids: list[Any] = list(range(500, 800))
    ids[9], ids[10] = None, 511
    (tmp_path / "nodes").mkdir()
    pq.write_table(
        pa.table({"id": ids, "x": pa.array(x, pa.list_(pa.float32()))}), tmp_path / "nodes" / "a.parquet"
    )
    pq.write_table(pa.table({"src": graph.src + 500, "dst": graph.dst + 500}), tmp_path / "edges")
    gone = {5, 6, 8, 9, 11}
    source = {"edges": str(tmp_path / "edges"), "on_missing": "drop"}
    run = embed(spec(tmp_path, tmp_path / "out", "model", source=source))
    found = {row["_row"]: row["reason"] for row in run.rejects().to_table().to_pylist()}
    assert found == {5: "null", 6: "wrong_type", 8: "non_finite", 9: "null", 11: "duplicate"}
    # Row 10 has the id of row 11 and stands first: edges of 511 are its own.
    src, dst = graph.src.copy(), graph.dst.copy()
    kept = ~(np.isin(src, [5, 6, 8, 9, 10]) | np.isin(dst, [5, 6, 8, 9, 10]))
    src, dst = np.where(src == 11, 10, src)[kept], np.where(dst == 11, 10, dst)[kept]
    expected = graphs.reference(model, graphs.Graph(graph.x, src, dst))
    assert (
        np.abs(graphs.vectors(run) - expected[[row for row in range(300) if row not in gone]]).max()
        <= TOLERANCE
    )
    assert run.report["rejected"] == 5
    assert run.report["graph"]["edges_of_rejects"] + run.report["graph"]["edges_missing"] == int(
        (~kept).sum()
    )
    bounded(run)


def test_refusals(folder: Path, engine: str, tmp_path: Path) -> None:
    """Everything that can't be right is told before vectors are made."""
    graph = graphs.nasty(50, 100)
    section = graphs.write(graphs.Graph(graph.x, graph.src, graph.dst), tmp_path / "t", files=1)
    edges = pa.table({"src": ["n0", "nowhere"], "dst": ["n7919", "n0"]})
    pq.write_table(edges, tmp_path / "lost.parquet")
    with pytest.raises(
        SourceError, match=r"1 edges have no node at one end.*nowhere -> n0 \(lost.parquet, row 1\)"
    ):
        embed(spec(folder, tmp_path / "a", source=section | {"edges": str(tmp_path / "lost.parquet")}))
    pq.write_table(pa.table({"src": [1], "dst": [2]}), tmp_path / "numbers.parquet")
    with pytest.raises(SourceError, match="edge column 'src' is int64, but node column 'id' is string"):
        embed(spec(folder, tmp_path / "b", source=section | {"edges": str(tmp_path / "numbers.parquet")}))
    with pytest.raises(SourceError, match="no column 'y'"):
        embed(spec(folder, tmp_path / "c", source=section | {"features": "y"}))
    with pytest.raises(SpecError, match="exactly one of nodes and features_run"):
        Spec.parse(
            {
                "source": {"kind": "graph", "edges": "e"},
                "encoder": {"family": "graph", "model": "m"},
                "sink": {"path": "o"},
            }
        )
    with pytest.raises(
        SpecError, match=r"source\.edges: unknown key in section .source. with kind = 'parquet'"
    ):
        Spec.parse(
            {
                "source": {"path": "p", "column": "t", "edges": "e"},
                "encoder": {"model": "m"},
                "sink": {"path": "o"},
            }
        )
    with pytest.raises(SpecError, match=r"source\.limit: .*nodes have id and features"):
        spec(folder, tmp_path / "d", source=section | {"limit": 3})
    graphs.sage(tmp_path / "narrow", width=5)
    with pytest.raises(ModelError, match=r"takes 5 features \(in_channels\), the nodes have 12"):
        embed(spec(folder, tmp_path / "e", encoder={"model": str(tmp_path / "narrow")}))


def test_second_run_and_changed_tables(folder: Path, engine: str, tmp_path: Path) -> None:
    """A finished run has nothing left to do; other edges or nodes are another run.

    Rejects are not retried.
    """
    section = graphs.write(graphs.nasty(100, 300), tmp_path / "t", files=2)
    wanted = spec(folder, tmp_path / "out", source=section)
    before = contents(Path(embed(wanted).path))
    assert embed(wanted, session=no_session).report["spans_read"] == 0
    assert contents(tmp_path / "out") == before
    with pytest.raises(RunError, match="changes the vectors of its neighbours"):
        retry(str(tmp_path / "out"))
    shutil.copy(tmp_path / "t" / "nodes" / "1.parquet", tmp_path / "t" / "nodes" / "2.parquet")
    with pytest.raises(RunError, match="new node files"):
        embed(wanted)
    (tmp_path / "t" / "nodes" / "2.parquet").unlink()
    shutil.copy(tmp_path / "t" / "edges" / "1.parquet", tmp_path / "t" / "edges" / "2.parquet")
    with pytest.raises(RunError, match="edge files"):
        embed(wanted)


@pytest.mark.slow
def test_example_of_imports(tmp_path: Path) -> None:
    """With the import graph, neighbours tell the package of a module.

    Far better than docstrings alone do.
    """
    program = Path(__file__).parents[2] / "examples" / "fit_imports_sage.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shares = [float(share) for share in re.findall(r"([0-9.]+)%", done.stdout)]
    assert len(shares) == 2
    assert shares[1] > shares[0] + 10


def test_features_of_a_run(whole: Run, folder: Path, tmp_path: Path) -> None:
    """The vectors of a finished run are features of its rows.

    One that is not finished is refused.
    """
    graph = graphs.nasty()
    model, _ = graphs.sage(tmp_path / "model", width=8)
    source = {"kind": "graph", "features_run": whole.path, "edges": str(folder / "edges")}
    tree = {"source": source, "encoder": {"family": "graph", "model": str(tmp_path / "model")}}
    run = embed(Spec.parse({**tree, "sink": {"path": str(tmp_path / "out")}}))
    expected = graphs.reference(model, graphs.Graph(graphs.vectors(whole), graph.src, graph.dst))
    assert np.abs(graphs.vectors(run) - expected).max() <= TOLERANCE
    bounded(run)
    copy = shutil.copytree(whole.path, tmp_path / "copy")
    (copy / "run.json").write_text((copy / "run.json").read_text().replace('"finished",', '"stopped",'))
    tree["source"]["features_run"] = str(copy)
    with pytest.raises(RunError, match="a run that is stopped"):
        embed(Spec.parse({**tree, "sink": {"path": str(tmp_path / "b")}}))
    tree["source"]["features_run"] = str(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no run directory"):
        embed(Spec.parse({**tree, "sink": {"path": str(tmp_path / "b")}}))


def test_one_node_and_no_edges(engine: str, tmp_path: Path) -> None:
    """The smallest graphs have vectors too."""
    graph = graphs.Graph(np.ones((1, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    section = graphs.write(graph, tmp_path / "t", files=1)
    model, _ = graphs.sage(tmp_path / "model", width=4)
    run = embed(spec(tmp_path, tmp_path / "out", "model", source=section))
    assert np.abs(graphs.vectors(run) - graphs.reference(model, graph)).max() <= TOLERANCE
    bounded(run)
    (tmp_path / "none").mkdir()
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "x": pa.array([], pa.list_(pa.float32()))}),
        tmp_path / "none" / "0.parquet",
    )
    run = embed(
        spec(tmp_path, tmp_path / "empty", "model", source=section | {"nodes": str(tmp_path / "none")})
    )
    assert run.report["rows"] == 0
    bounded(run)


def test_broken_tables(folder: Path, engine: str, tmp_path: Path) -> None:
    """A node file that is cut off is a file-level reject, and its nodes are missing.

    An edge file that is cut off is exit 2.
    """
    section = graphs.write(graphs.nasty(100, 300), tmp_path / "t", files=2)
    nodes, edges = tmp_path / "t" / "nodes" / "1.parquet", tmp_path / "t" / "edges" / "1.parquet"
    nodes.write_bytes(nodes.read_bytes()[:-20])
    with pytest.raises(SourceError, match="edges have no node at one end"):
        embed(spec(folder, tmp_path / "a", source=section))
    run = embed(spec(folder, tmp_path / "b", source=section | {"on_missing": "drop"}))
    assert (run.report["rows"], run.report["file_rejects"], run.exit_code) == (50, 1, 1)
    assert run.report["graph"]["edges_missing"] > 0
    edges.write_bytes(edges.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"1\.parquet: the edge table can't be read on"):
        embed(spec(folder, tmp_path / "c", source=section | {"on_missing": "drop"}))


ON_ITS_OWN = """
import json, sys
import ray
from embed_ops import Spec, embed
folder, tree = sys.argv[1:]
options = {"include_dashboard": False, "log_to_driver": False, "_temp_dir": folder}
options["object_store_memory"] = 100 * 2**20
ray.init(address="local", num_cpus=1, **options)
embed(Spec.parse(json.loads(tree)))
"""


@pytest.mark.slow
def test_one_worker(whole: Run, folder: Path, tmp_path: Path) -> None:
    """One worker gives the bytes of two."""
    ray_folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    tree = spec(folder, tmp_path / "out", resources={"partitions": 3}).model_dump(mode="json")
    done = subprocess.run(
        [sys.executable, "-c", ON_ITS_OWN, ray_folder, json.dumps(tree)],
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(ray_folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "out") == contents(Path(whole.path))
