"""On one core, in turns: the machine's matrix product, and what kernels of stages reach of it."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from record import spread
from threadpoolctl import threadpool_info, threadpool_limits

from embed_ops.numerics.exact import blocks
from embed_ops.numerics.summaries import Covariance
from embed_ops.numerics.tiles import TILE_ROWS
from embed_ops.runs.parquet import vector_column, vectors_of
from embed_ops.stages.kmeans.model import KMeansModel
from embed_ops.stages.kmeans.nearest import ClusterSums, nearest, nearest_centers

_GEMM = 2048
_ROWS = 8192
_TILE_ROWS, _TILE_CENTERS = 512, 1024
_UNIT = 16_384

Call = Callable[[], object]
Columns = Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]
Applied = Callable[[Columns], object]


def _gemm(kind: type[Any]) -> tuple[Call, float]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_GEMM, _GEMM)).astype(kind) for _ in range(2))
    return lambda: a @ b, 2.0 * _GEMM**3


def _torch_gemm() -> tuple[Call, float]:
    import torch

    a, b = torch.randn(_GEMM, _GEMM), torch.randn(_GEMM, _GEMM)
    return lambda: a @ b, 2.0 * _GEMM**3


def _torch_nearest(x: npt.NDArray[Any], centers: npt.NDArray[Any]) -> Any:
    """Do what `nearest` does, by torch: the twin that was decided against."""
    import torch

    rows, across = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(centers.T))
    half = -0.5 * (across * across).sum(0)
    found = []
    for first in range(0, len(x), _TILE_ROWS):
        tile = rows[first : first + _TILE_ROWS]
        best, label = torch.full((len(tile),), -torch.inf), torch.zeros(len(tile), dtype=torch.int64)
        for begin in range(0, len(centers), _TILE_CENTERS):
            end = begin + _TILE_CENTERS
            value, place = torch.addmm(half[begin:end], tile, across[:, begin:end]).max(1)
            better = value > best
            best, label = torch.where(better, value, best), torch.where(better, place + begin, label)
        found.append(label)
    return torch.cat(found)


def _assignments() -> dict[str, tuple[Call, float]]:
    found: dict[str, tuple[Call, float]] = {}
    rng = np.random.default_rng(1)
    for dim, k in ((384, 1000), (256, 8192), (768, 1000), (64, 100)):
        x = rng.standard_normal((_ROWS, dim)).astype(np.float32)
        centers = rng.standard_normal((k, dim)).astype(np.float32)
        work, name = 2.0 * _ROWS * k * dim, f"d={dim} k={k}"
        found[f"nearest, {name}"] = (lambda x=x, c=centers: nearest(x, c)), work  # type: ignore[misc]
        found[f"two nearest, {name}"] = (lambda x=x, c=centers: nearest_centers(x, c, 2)), work  # type: ignore[misc]
        found[f"a step's sums, {name}"] = (lambda x=x, c=centers: ClusterSums.of(x, c, None, 0)), work  # type: ignore[misc]
        found[f"nearest by torch, {name}"] = (lambda x=x, c=centers: _torch_nearest(x, c)), work  # type: ignore[misc]
    return found


def _undecided(x: npt.NDArray[Any], centers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Do what applying a k-means model does, by float32 products alone.

    What it costs to decide is measured against this.
    """
    middle = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
    shifted = centers.astype(np.float64) - middle
    half = (0.5 * np.einsum("ij,ij->i", shifted, shifted)).astype(np.float32)
    across, narrow = np.ascontiguousarray(shifted.T.astype(np.float32)), centers.astype(np.float32)
    room, labels = np.empty((TILE_ROWS, len(centers)), np.float32), np.empty((len(x), 2), np.int64)
    for first in range(0, len(x), TILE_ROWS):
        tile = x[first : first + TILE_ROWS] - middle
        score, rows = np.matmul(tile, across, out=room[: len(tile)]), np.arange(len(tile))
        score -= half
        for rank in range(2):
            place = score.argmax(axis=1)
            labels[first : first + len(tile), rank] = place
            score[rows, place] = -np.inf
    squares = np.empty((len(x), 2), np.float32)
    for part in blocks(*x.shape):
        for rank in range(2):
            apart = x[part] - narrow[labels[part, rank]]
            squares[part, rank] = np.vecdot(apart, apart)
    distances = np.sqrt(squares)
    return {
        "cluster": labels[:, 0].astype(np.int32),
        "distance": distances[:, 0],
        "second_distance": distances[:, 1],
    }


def _deciding(repeats: int, folder: Path) -> dict[str, Any]:
    """Give what a decision in float64 adds to the time of applying a k-means model to a unit.

    In pairs of runs in turn: of the kernel alone, and of what a worker does, which reads the unit's
    vectors from Parquet, applies the model and writes the columns.
    """
    rng = np.random.default_rng(3)
    x, centers = rng.standard_normal((_UNIT, 384)).astype(np.float32), rng.standard_normal((1000, 384))
    model = KMeansModel(centers, False, _UNIT, 1, 0.0)
    source, target = folder / "unit.parquet", folder / "columns.parquet"
    pq.write_table(pa.table({"embedding": vector_column(x, "float32")}), source, compression="none")

    def applied(columns: Columns) -> None:
        read = vectors_of(pq.read_table(source, use_threads=False).column("embedding"))
        pq.write_table(pa.table(columns(read)), target)

    alone: Columns = lambda rows: _undecided(rows, centers)  # noqa: E731
    decided: Columns = lambda rows: model.columns(rows, "")  # noqa: E731
    figures: dict[str, Any] = {
        "labels that differ": int((alone(x)["cluster"] != decided(x)["cluster"]).sum())
    }
    kernel: Applied = lambda columns: columns(x)  # noqa: E731
    for name, call in (("kernel", kernel), ("unit", applied)):
        calls = [functools.partial(call, columns) for columns in (alone, decided)]
        pairs = [[1e6 / _rate(turn, _UNIT, 1.0) for turn in calls] for _ in range(repeats)]
        figures[f"{name}, by products alone, us a row"] = spread([before for before, _ in pairs])
        figures[f"{name}, decided in float64, us a row"] = spread([after for _, after in pairs])
        figures[f"{name}, what deciding adds"] = spread([after / before - 1 for before, after in pairs])
    return {f"applying k-means, d=384 k=1000, {_UNIT:,} rows": figures}


def _scatters() -> dict[str, tuple[Call, float]]:
    found: dict[str, tuple[Call, float]] = {}
    for dim in (128, 384, 1024, 2048, 4096):
        x = np.random.default_rng(2).standard_normal((_ROWS, dim)).astype(np.float32)
        exact = "float64" if dim <= 1024 else "float32"
        found[f"scatter, d={dim}, {exact} products"] = (lambda x=x: Covariance.of(x)), 2.0 * _ROWS * dim * dim  # type: ignore[misc]
        if exact == "float64":
            narrow = lambda x=x: Covariance.of(x, exact=False)  # noqa: E731
            found[f"scatter, d={dim}, float32 products"] = narrow, 2.0 * _ROWS * dim * dim
    return found


def _rate(call: Call, work: float, least_s: float = 0.2) -> float:
    """Time a call on this process's own processor clock.

    So that other programs on the machine do not count: FLOP/s.
    """
    calls, began = 0, time.process_time()
    while calls == 0 or time.process_time() - began < least_s:
        call()
        calls += 1
    return work * calls / (time.process_time() - began)


def kernels(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Give the rate of each kernel, and its share of the product that ran in the same turn.

    That is a float32 product of 2048 cubed.
    """
    import torch

    torch.set_num_threads(1)
    products = {
        "product, float32": _gemm(np.float32),
        "product, float64": _gemm(np.float64),
        "product by torch, float32": _torch_gemm(),
    }
    cases = {**products, **_assignments(), **_scatters()}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    with threadpool_limits(1):
        for call, _ in cases.values():
            call()
        for _ in range(options.repeats):
            for name, (call, work) in cases.items():
                rates[name].append(_rate(call, work))
        decided = _deciding(options.repeats, folder)
    best = statistics.median(rates["product, float32"])
    figures: dict[str, Any] = {
        "counting": "FLOP = 2 n k d and 2 n d d over the call's processor time. "
        "numpy computes x.T @ x by SYRK, half the operations of a "
        "product, so a scatter may exceed 100 %; its share at n d d is given too",
        "products of 2048 cubed, GFLOP/s": {
            name: spread([rate / 1e9 for rate in rates[name]]) for name in products
        },
        **decided,
        "BLAS": [
            f"{found['internal_api']} {found['version']} {found.get('architecture', '')}"
            for found in threadpool_info()
        ],
    }
    for name in cases:
        if name not in products:
            shares = [rate / own for rate, own in zip(rates[name], rates["product, float32"], strict=True)]
            figures[name] = {
                "GFLOP/s": spread([rate / 1e9 for rate in rates[name]]),
                "share of the float32 product": spread(shares),
            }
            if name.startswith("scatter"):
                figures[name]["share at n d d"] = statistics.median(shares) / 2
    figures["float32 product, GFLOP/s, median"] = best / 1e9
    return figures
