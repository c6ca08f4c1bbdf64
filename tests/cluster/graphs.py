"""Graphs and models for tests: a nasty random one, tables of it on disk, PyTorch Geometric models with seeded weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from embed_ops import Run
from embed_ops.sinks.parquet import vectors_of


@dataclass(frozen=True)
class Graph:
    """Features (nodes, width), and the edges' ends as row numbers."""

    x: npt.NDArray[np.float32]
    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]


def nasty(nodes: int = 3000, edges: int = 15_000, width: int = 12) -> Graph:
    """Make a graph with a hub that has a tenth of all edges, duplicates, loops, and nodes without any edge."""
    rng = np.random.default_rng(0)
    ranks = (nodes * 0.9 * rng.power(0.3, edges)).astype(np.int64)
    src, dst = rng.permutation(ranks), (nodes * 0.9 * rng.power(0.5, edges)).astype(np.int64)
    dst[: edges // 10] = 7
    loops = rng.integers(0, nodes // 2, 60)
    src, dst = np.concatenate([src, src[:500], loops]), np.concatenate([dst, dst[:500], loops])
    order = rng.permutation(len(src))
    return Graph(rng.standard_normal((nodes, width)).astype(np.float32), src[order], dst[order])


def write(graph: Graph, folder: Path, files: int = 3, names: Any = None) -> dict[str, Any]:
    """Write both tables as Parquet and give the source section; `names`: an id for each row number."""
    ids = names if names is not None else [f"n{(row * 7919) % 100_003}" for row in range(len(graph.x))]
    ids = pa.array(ids)
    for kind, parts in (
        ("nodes", np.array_split(np.arange(len(graph.x)), files)),
        ("edges", np.array_split(np.arange(len(graph.src)), files)),
    ):
        (folder / kind).mkdir(parents=True)
        for number, rows in enumerate(parts):
            if kind == "nodes":
                x = pa.FixedSizeListArray.from_arrays(pa.array(graph.x[rows].ravel()), graph.x.shape[1])
                table = pa.table({"id": ids.take(pa.array(rows)), "x": x, "half": pa.array(rows % 2)})
            else:
                table = pa.table({"src": ids.take(pa.array(graph.src[rows])), "dst": ids.take(pa.array(graph.dst[rows]))})
            pq.write_table(table, folder / kind / f"{number}.parquet")
    return {"kind": "graph", "nodes": str(folder / "nodes"), "edges": str(folder / "edges")}


def save(model: Any, folder: Path, **config: Any) -> Path:
    """Save a PyTorch Geometric model as a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: values.contiguous() for name, values in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sage(folder: Path, width: int = 12, **options: Any) -> tuple[Any, Path]:
    """Make a seeded GraphSAGE of three layers, and save it."""
    from torch_geometric.nn import GraphSAGE

    config = {"in_channels": width, "hidden_channels": 16, "num_layers": 3, "out_channels": 8, **options}
    torch.manual_seed(0)
    model = GraphSAGE(**config).eval()
    return model, save(model, folder, type="GraphSAGE", **config)


def reference(model: Any, graph: Graph, **extra: Any) -> npt.NDArray[np.float32]:
    """Put the whole graph through PyTorch Geometric at once."""
    with torch.inference_mode():
        edges = torch.from_numpy(np.stack([graph.src, graph.dst]))
        found: npt.NDArray[np.float32] = model(torch.from_numpy(graph.x), edges, **extra).numpy()
    return found


def vectors(run: Run, column: str = "embedding") -> npt.NDArray[np.float32]:
    """Read a column of a run, in order."""
    return np.asarray(vectors_of(run.open().to_table(columns=[column])[column]), np.float32)
