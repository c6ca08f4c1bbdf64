"""GraphSAGE over graphs on disk.

Edges per second against PyTorch Geometric's layer-wise inference, growth, memory, many partitions.

speed   the whole job beside `BasicGNN.inference`'s loop over a full-neighbour loader, in turn, on
        the same cores
linear  the whole job at three sizes
scale   two million nodes and forty million edges of a power-law graph: memory of each process
wide    features that are larger than a worker's memory may be
halos   the same graph in few partitions and in 300
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from record import spread, write_record
from safetensors.torch import save_file
from torch_geometric.nn import GraphSAGE

from embed_ops import Run
from embed_ops.runs.parquet import vectors_of

ROWS_PER_FILE = 500_000
EDGES_PER_FILE = 4_000_000
BATCH = 8_192
"""Destinations of a batch of the full-neighbour loader."""


def write_graph(folder: Path, nodes: int, edges: int, width: int) -> Path:
    """Write a power-law graph: both ends of an edge prefer the same few nodes.

    The largest has a per cent of all edges.
    """
    rng = np.random.default_rng(0)
    names = rng.permutation(nodes)
    for kind in ("nodes", "edges"):
        (folder / kind).mkdir(parents=True)
    for first in range(0, nodes, ROWS_PER_FILE):
        rows = np.arange(first, min(nodes, first + ROWS_PER_FILE))
        x = rng.standard_normal((len(rows), width), np.float32)
        table = pa.table({"id": rows, "x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), width)})
        pq.write_table(
            table, folder / "nodes" / f"{first:010d}.parquet", compression="none", row_group_size=32_768
        )
    for first in range(0, edges, EDGES_PER_FILE):
        count = min(edges, first + EDGES_PER_FILE) - first
        src, dst = (names[(nodes * rng.power(0.5, count) ** 2).astype(np.int64)] for _ in range(2))
        pq.write_table(
            pa.table({"src": src, "dst": dst}),
            folder / "edges" / f"{first:012d}.parquet",
            row_group_size=1_000_000,
        )
    return folder


def write_model(folder: Path, width: int, hidden: int, layers: int) -> Path:
    """Save a GraphSAGE with seeded weights."""
    config = {"in_channels": width, "hidden_channels": hidden, "num_layers": layers, "out_channels": hidden}
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in GraphSAGE(**config).state_dict().items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"type": "GraphSAGE", **config}))
    return folder


def ours(graph: Path, model: Path, words: list[str]) -> tuple[dict[str, Any], Run]:
    """Run the command; edges/s of its layers, and the seconds of everything."""
    out = Path(tempfile.mkdtemp(dir=graph.parent)) / "run"
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "embed",
        "source.kind=graph",
        f"source.nodes={graph / 'nodes'}",
        f"source.edges={graph / 'edges'}",
    ]
    line += [
        "encoder.family=graph",
        f"encoder.model={model}",
        f"sink.path={out}",
        "--progress",
        "none",
        *words,
    ]
    began = time.perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    run = Run(str(out))
    figures = run.report["graph"]
    layers = figures["layers"]
    edges, seconds = sum(layer["edges"] for layer in layers), sum(layer["seconds"] for layer in layers)
    kept = ("partitions", "halo_rows", "in_edges_of_largest_node", "edges_of_partitions", "seconds")
    found = {
        "edges_per_second": edges / seconds,
        "layers, s": seconds,
        "whole, s": whole,
        "memory": run.report["peak_memory"],
    }
    exchanged = {
        name: sum(layer[name] for layer in layers) for name in ("bytes_exchanged", "bytes_predicted")
    }
    return found | exchanged | {name: figures[name] for name in kept}, run


class FullNeighbours:
    """What `NeighborLoader(num_neighbors=[-1])` gives for one layer, batch by batch.

    Its own sampler needs packages that are not here.
    """

    def __init__(self, edges: torch.Tensor, nodes: int) -> None:
        order = torch.argsort(edges[1], stable=True)
        self._src = edges[0][order].numpy()
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(edges[1].numpy(), minlength=nodes))])
        self._nodes = nodes

    def __iter__(self) -> Any:
        for first in range(0, self._nodes, BATCH):
            last = min(self._nodes, first + BATCH)
            src = self._src[self._ends[first] : self._ends[last]]
            seeds = np.arange(first, last)
            others = np.setdiff1d(src, seeds)
            ids = np.concatenate([seeds, others])
            inside = (src >= first) & (src < last)
            col = np.where(inside, src - first, len(seeds) + np.searchsorted(others, src))
            row = np.repeat(np.arange(last - first), np.diff(self._ends[first : last + 1]))
            yield torch.from_numpy(ids), torch.from_numpy(np.stack([col, row])), last - first


def pyg(graph: Path, model: Path) -> tuple[dict[str, Any], Any]:
    """Run PyTorch Geometric's layer-wise inference in this process, on all cores.

    Batches are made once and not counted.
    """
    began = time.perf_counter()
    x = torch.from_numpy(np.asarray(vectors_of(pq.read_table(graph / "nodes", columns=["x"])["x"])))
    table = pq.read_table(graph / "edges")
    edges = torch.from_numpy(np.stack([table["src"].to_numpy(), table["dst"].to_numpy()]))
    config = json.loads((model / "config.json").read_text())
    config.pop("type")
    net = GraphSAGE(**config).eval()
    from safetensors.torch import load_file

    net.load_state_dict(load_file(model / "model.safetensors"))
    batches = list(FullNeighbours(edges, len(x)))
    ready = time.perf_counter()
    with torch.no_grad():
        # The loop of BasicGNN.inference (PyTorch Geometric 2.8.1), which asks for a NeighborLoader
        # by type.
        for layer in range(net.num_layers):
            x = torch.cat(
                [net.inference_per_layer(layer, x[ids], inside, size) for ids, inside, size in batches]
            )
    ended = time.perf_counter()
    found = {
        "edges_per_second": net.num_layers * edges.shape[1] / (ended - ready),
        "layers, s": ended - ready,
        "whole, s": ended - began,
    }
    return found, x.numpy()


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both sides in turn."""
    graph = write_graph(folder / "graph", options.nodes, options.edges, options.width)
    model = write_model(folder / "sage", options.width, options.width, 2)
    sides: dict[str, list[dict[str, Any]]] = {"embed-ops": [], "PyTorch Geometric": []}
    vectors: dict[str, Any] = {}
    for _ in range(options.repeats):
        found, vectors["PyTorch Geometric"] = pyg(graph, model)
        sides["PyTorch Geometric"].append(found)
        found, run = ours(graph, model, options.words)
        vectors["embed-ops"] = np.asarray(vectors_of(run.open().to_table(columns=["embedding"])["embedding"]))
        sides["embed-ops"].append(found)
        sys.stdout.write(
            f"{[(name, round(runs[-1]['edges_per_second'] / 1e6, 2)) for name, runs in sides.items()]} M "
            "edges/s\n"
        )
        sys.stdout.flush()
    figures: dict[str, Any] = {}
    for name, runs in sides.items():
        for figure in ("edges_per_second", "layers, s", "whole, s"):
            figures[f"{name}: {figure}"] = spread([run[figure] for run in runs])
    ratio = (
        figures["embed-ops: edges_per_second"]["median"]
        / figures["PyTorch Geometric: edges_per_second"]["median"]
    )
    difference = float(np.abs(vectors["embed-ops"] - vectors["PyTorch Geometric"]).max())
    return figures | {
        "times as fast": ratio,
        "greatest difference": difference,
        "last run": sides["embed-ops"][-1],
    }


def linear(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run three sizes, the average degree being the same."""
    figures: dict[str, Any] = {}
    model = write_model(folder / "sage", options.width, options.width, 2)
    for share in (4, 2, 1):
        graph = write_graph(
            folder / f"graph{share}", options.nodes // share, options.edges // share, options.width
        )
        figures[f"{options.edges // share} edges"] = ours(graph, model, options.words)[0]
        shutil.rmtree(graph)
    return figures


def scale(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one large graph."""
    graph = write_graph(folder / "graph", 2_000_000, 40_000_000, 64)
    found, _ = ours(graph, write_model(folder / "sage", 64, 64, 2), options.words)
    return {"2,000,000 nodes, 40,000,000 edges, width 64": found}


def wide(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a graph with 3 GB of features."""
    graph = write_graph(folder / "graph", 1_000_000, 8_000_000, 768)
    found, _ = ours(graph, write_model(folder / "sage", 768, 64, 2), options.words)
    return {"bytes of features": 1_000_000 * 768 * 4, "1,000,000 nodes, 8,000,000 edges, width 768": found}


def halos(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one graph in two numbers of partitions."""
    graph = write_graph(folder / "graph", options.nodes, options.edges, options.width)
    model = write_model(folder / "sage", options.width, options.width, 2)
    return {
        f"{count} partitions": ours(graph, model, [*options.words, f"resources.partitions={count}"])[0]
        for count in (8, 300)
    }


def main() -> None:
    """Run the parts that are asked for, a record each."""
    parts = {"speed": speed, "linear": linear, "scale": scale, "wide": wide, "halos": halos}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*parts], action="append")
    parser.add_argument("--nodes", type=int, default=400_000)
    parser.add_argument("--edges", type=int, default=8_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("words", nargs="*", help="section.key=value for our side")
    options = parser.parse_args()
    for name in options.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            figures = parts[name](options, Path(folder))
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
        sys.stdout.write(f"record in {write_record(f'graph-{name}', vars(options), figures)}\n")


if __name__ == "__main__":
    main()
