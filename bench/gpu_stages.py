"""Kernels of stages on a GPU: products that choose, with the data there; and whole functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_engine import Place
from threadpoolctl import threadpool_limits

from embed_ops.encoders.device import choose_kernels, gemm_flops_per_second, wait_for
from embed_ops.encoders.graph.config_file import parse_config
from embed_ops.encoders.graph.model import GraphModel
from embed_ops.encoders.graph.partition import TILE, Csr
from embed_ops.encoders.graph.tiles import aggregate
from embed_ops.numerics import products
from embed_ops.numerics.products import Columns, computing_on
from embed_ops.numerics.summaries import Covariance
from embed_ops.numerics.topk import TopK
from embed_ops.stages.kmeans.nearest import nearest_centers

_DIM = 384
_CENTERS, _QUERIES, _K = 1_000, 10_000, 10
_ROWS_PER_TEXT = 128
"""Rows of the data, for each text of the other parts: 4 M by default."""
_SPARE = 8

_NODES_PER_TEXT, _EDGES_PER_NODE, _WIDTH = 128, 10, 64
"""Of the graph: 40 M edges by default."""

KERNELS = ("kmeans", "neighbors", "pca", "graph")


def kernel(name: str, place: Place) -> dict[str, Any]:
    """Measure one kernel: its share of the product rate, and the whole function beside numpy's."""
    choose_kernels(place.device)
    rate = gemm_flops_per_second(place.device, "float32")
    with computing_on(place.device):
        figures = _MEASURED[name](place, rate)
    return {"float32_gemm_flops_per_second": rate, **figures}


def _rows(place: Place) -> int:
    return place.rows * _ROWS_PER_TEXT


def _drawn(rows: int) -> Any:
    return torch.randn(rows, _DIM, device=products.device())


def _share(place: Place, call: Callable[[], Any], flops: float, rate: float) -> dict[str, float]:
    seconds = place.seconds(call)
    return {"seconds": seconds, "share_of_gemm": flops / seconds / rate}


def _kmeans(place: Place, rate: float) -> dict[str, Any]:
    rows, count = _rows(place), min(_CENTERS, _rows(place) // 2)
    x = _drawn(rows)
    centers = x[:count].cpu().numpy()
    columns = Columns(centers, np.zeros(count, np.float32))

    def choose() -> None:
        for first in range(0, rows, products.ROWS):
            columns.greatest(x[first : first + products.ROWS], 1 + min(_SPARE, count - 1))

    sample = x[: min(rows, 4 * products.ROWS)].cpu().numpy()
    return {
        "rows": rows,
        "centers": count,
        "choosing": _share(place, choose, 2 * rows * _DIM * count, rate),
        **_both(place, sample, lambda some: nearest_centers(some, centers, 1)),
    }


def _neighbors(place: Place, rate: float) -> dict[str, Any]:
    rows, count = _rows(place), min(_QUERIES, _rows(place) // 2)
    x = _drawn(rows)
    queries = x[:count].contiguous()

    def choose() -> None:
        for first in range(0, rows, products.ROWS):
            there = Columns(x[first : first + products.ROWS])
            there.greatest(queries, min(_K + _SPARE, there.count))

    sample = x[: min(rows, products.ROWS)].cpu().numpy()
    asking = sample[: min(count, 1_000)]

    def search(some: Any) -> Any:
        best = TopK(asking, _K, "cosine")
        best.add(some, np.arange(len(some)))
        return best.result()[0]

    return {
        "rows": rows,
        "queries": count,
        "choosing": _share(place, choose, 2 * rows * _DIM * count, rate),
        **_both(place, sample, search),
    }


def _pca(place: Place, rate: float) -> dict[str, Any]:
    rows = _rows(place)
    x = _drawn(min(rows, 8 * products.ROWS))
    wide = x.double()
    flops = 2.0 * len(x) * _DIM * _DIM
    sample = x[: min(rows, products.ROWS)].cpu().numpy()
    return {
        "rows": len(x),
        "float32 scatter": _share(place, lambda: x.T @ x, flops, rate),
        "float64 scatter": _share(place, lambda: wide.T @ wide, flops, rate),
        **_both(place, sample, lambda some: np.round(Covariance.of(some, exact=True).scatter, 3)),
    }


def _graph(place: Place, rate: float) -> dict[str, Any]:
    """Compute a layer of GraphSAGE, from arrays to arrays, on the device and on one thread."""
    nodes = place.rows * _NODES_PER_TEXT
    rng = np.random.default_rng(0)
    counts = rng.poisson(_EDGES_PER_NODE, nodes)
    csr = Csr(
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        col=rng.integers(0, nodes, counts.sum(), np.int32),
        extra=np.zeros((counts.sum(), 0), np.float32),
        loop=np.zeros((0, 0), np.float32),
        halo=np.arange(nodes),
    )
    x = rng.standard_normal((nodes, _WIDTH), np.float32)
    config = parse_config(
        {"type": "GraphSAGE", "in_channels": _WIDTH, "hidden_channels": _WIDTH, "num_layers": 1}, "bench"
    )
    drawn = {name: [axis.size for axis in axes] for name, axes in config.shapes().items()}
    weights = {name: torch.from_numpy(rng.standard_normal(size, np.float32)) for name, size in drawn.items()}

    def layer(device: str, rows: int) -> Any:
        model = GraphModel(config, {name: values.to(device) for name, values in weights.items()})
        asked = np.arange(nodes) < rows
        return aggregate(model, 1, x, csr, x, None, None, asked, weighted=False)[:rows]

    some = min(nodes, max(1, nodes // 16 // TILE) * TILE)
    layer(place.device, some)
    seconds = place.seconds(lambda: layer(place.device, nodes))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    by_cpu = layer("cpu", some)
    taken = time.perf_counter() - began
    torch.set_num_threads(before)
    return {
        "nodes": nodes,
        "edges": int(counts.sum()),
        "edges per second": {
            "device": counts.sum() / seconds,
            "one thread": counts[:some].sum() / taken,
        },
        "largest difference": float(np.abs(layer(place.device, some) - by_cpu).max()),
    }


_MEASURED = {"kmeans": _kmeans, "neighbors": _neighbors, "pca": _pca, "graph": _graph}


def _both(place: Place, x: Any, function: Callable[[Any], Any]) -> dict[str, Any]:
    """Time a whole function from arrays to arrays, on the device and by numpy on one thread."""
    seconds, values = {}, {}
    function(x[:64])
    for name, device in (("device", place.device), ("numpy", None)):
        with computing_on(device), threadpool_limits(1):
            began = time.perf_counter()
            values[name] = function(x)
            wait_for(place.device)
            seconds[name] = time.perf_counter() - began
    return {
        "whole function, rows per second": {name: len(x) / taken for name, taken in seconds.items()},
        "equal": bool(np.array_equal(values["device"], values["numpy"])),
    }
