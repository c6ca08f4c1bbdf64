"""On one core, in turns: the machine's matrix product, and what kernels of stages reach of it."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from record import spread
from threadpoolctl import threadpool_info, threadpool_limits

from embed_ops.numerics.summaries import Covariance
from embed_ops.stages.kmeans.nearest import ClusterSums, nearest, two_nearest

_GEMM = 2048
_ROWS = 8192
_TILE_ROWS, _TILE_CENTERS = 512, 1024

Call = Callable[[], object]


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
        found[f"two nearest, {name}"] = (lambda x=x, c=centers: two_nearest(x, c)), work  # type: ignore[misc]
        found[f"a step's sums, {name}"] = (lambda x=x, c=centers: ClusterSums.of(x, c, None, 0)), work  # type: ignore[misc]
        found[f"nearest by torch, {name}"] = (lambda x=x, c=centers: _torch_nearest(x, c)), work  # type: ignore[misc]
    return found


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


def kernels(options: argparse.Namespace, folder: object) -> dict[str, Any]:
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
    best = statistics.median(rates["product, float32"])
    figures: dict[str, Any] = {
        "counting": "FLOP = 2 n k d and 2 n d d over the call's processor time. "
        "numpy computes x.T @ x by SYRK, half the operations of a "
        "product, so a scatter may exceed 100 %; its share at n d d is given too",
        "products of 2048 cubed, GFLOP/s": {
            name: spread([rate / 1e9 for rate in rates[name]]) for name in products
        },
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
