"""What a replica asks of its runtime (`encoders/runtimes.py`), of TensorFlow on CPUs."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from embed_ops.errors import DeviceError
from embed_ops.lazy import require

_SIDE = 1024
"""Of the product that is timed: large enough for the full rate, and soon done."""


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what TensorFlow's native code writes to the terminal away while it starts.

    It tells of instructions that it uses, before any setting of its log is read.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _silent():
    tf: Any = require("tensorflow", "tensorflow", "family tensorflow")


def require_device(device: str) -> None:
    """Check that this process can compute where it shall.

    Raises:
        DeviceError: it is asked for a GPU.
    """
    if device != "cpu":
        raise DeviceError(
            "family tensorflow computes on CPUs: leave resources.gpus_per_replica, or device, out"
        )


def default_device() -> str:
    """Name the device of a process that nobody gave one."""
    return "cpu"


def use_threads(threads: int) -> None:
    """Give this process's forward passes so many CPU threads.

    Raises:
        DeviceError: TensorFlow is at work in this process already, with others.
    """
    settings = tf.config.threading
    if _now() != threads:
        try:
            settings.set_inter_op_parallelism_threads(1)
            settings.set_intra_op_parallelism_threads(threads)
        except RuntimeError as error:
            raise DeviceError(
                f"TensorFlow is at work in this process with {_now()} threads, and keeps them until it "
                f"ends; {threads} were asked for: set them before its first use, or leave threads out"
            ) from error
    with _silent():
        tf.constant(0)


def _now() -> int:
    """Count the threads; 0 stands for one each core."""
    return int(tf.config.threading.get_intra_op_parallelism_threads()) or os.cpu_count() or 1


def threads() -> int:
    """Tell how many CPU threads a forward pass has now."""
    return _now()


def choose_kernels(device: str) -> None:
    """Choose kernels whose sums have one order, for this process."""
    tf.config.experimental.enable_op_determinism()


def use_memory_share(device: str, share: float) -> None:
    """Do nothing: a CPU's memory is not a replica's own."""


def memory_share(device: str, share: float = 1.0) -> float:
    """Give 0, as of every CPU."""
    return 0.0


def device_memory(device: str) -> int:
    """Give 0, as of every CPU."""
    return 0


def device_name(device: str) -> str:
    """Name the device for the summary."""
    return device


def forget_peak(device: str) -> None:
    """Do nothing: nothing was measured."""


def busy_clock(device: str) -> None:
    """Give none: a CPU is its own host."""


def computes_bfloat16(device: str) -> bool:
    """Tell that types are the model's own."""
    return False


def gemm_flops_per_second(device: str, dtype: str, tries: int = 5) -> float:
    """Time a float32 matrix product, the best of some, in FLOP/s."""
    left = tf.ones((_SIDE, _SIDE), dtype)
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        tf.linalg.matmul(left, left).numpy()
        best = min(best, time.perf_counter() - start)
    return 2.0 * _SIDE**3 / best


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    return isinstance(error, MemoryError | tf.errors.ResourceExhaustedError)


def lost_device(error: BaseException) -> bool:
    """Tell that no CPU is lost."""
    return False


def release_memory() -> None:
    """Give back what a failed batch left behind."""
    gc.collect()
