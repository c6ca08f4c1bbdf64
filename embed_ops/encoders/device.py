"""What a replica knows of its device: threads, and the rate of a matrix product."""

from __future__ import annotations

import time

import torch

_SIDE = 2048
_TRIES = 5


def use_threads(threads: int) -> None:
    """Give this process's forward passes so many CPU threads."""
    torch.set_num_threads(threads)


def gemm_flops_per_second(device: str, dtype: str) -> float:
    """Time a 2048-cubed matrix product in the compute dtype: the best of five, in FLOP/s.

    The rate that a forward pass is held against: what this share of the device does at its best.
    """
    kind: torch.dtype = getattr(torch, dtype)
    left = torch.randn(_SIDE, _SIDE, device=device).to(kind)
    best = float("inf")
    for _ in range(_TRIES):
        start = time.perf_counter()
        torch.mm(left, left)
        if device != "cpu":
            torch.cuda.synchronize()  # not run by any test here: needs a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best
