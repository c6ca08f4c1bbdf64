"""What a replica knows of its device: threads, memory, and the rate of a matrix product."""

from __future__ import annotations

import gc
import os
import time

# Hidden states are allocated and freed all the time: in huge pages that is a few per cent faster.
# torch reads it once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

_SIDE = {"cpu": 1024, "cuda": 8192}
"""Large enough for the device's full rate, small enough to cost a start little."""
_TRIES = 5
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def use_threads(threads: int) -> None:
    """Give this process's forward passes so many CPU threads."""
    torch.set_num_threads(threads)


def wait_for(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if device != "cpu":
        torch.cuda.synchronize()  # not run by any test here: needs a GPU


def gemm_flops_per_second(device: str, dtype: str) -> float:
    """Time a matrix product (1024 cubed on a CPU) in the compute dtype.

    The best of five, in FLOP/s.

    The rate that a forward pass is held against: what this share of the device does at its best.
    """
    kind: torch.dtype = getattr(torch, dtype)
    side = _SIDE[device]
    left = torch.randn(side, side, device=device).to(kind)
    best = float("inf")
    for _ in range(_TRIES):
        wait_for(device)
        start = time.perf_counter()
        torch.mm(left, left)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device, or the host's allocator, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release_memory() -> None:
    """Give back what a failed batch left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # not run by any test here: needs a GPU


def memory_share(device: str) -> float:
    """Measure the largest share of a GPU's memory held since the last call.

    0 on a CPU, whose memory is not a replica's own.
    """
    if device == "cpu":
        return 0.0
    share = (
        torch.cuda.max_memory_allocated() / torch.cuda.mem_get_info()[1]
    )  # not run by any test here: needs a GPU
    torch.cuda.reset_peak_memory_stats()
    return share
