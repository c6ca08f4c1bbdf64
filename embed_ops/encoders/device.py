"""What a replica knows of its device: threads, memory, copies, errors, the rate of a product.

What needs a GPU is marked "GPU only": `bench/gpu.py` runs it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Hidden states are allocated and freed all the time: in huge pages that is a few per cent faster.
# torch reads it once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import Tensor

from embed_ops.errors import DeviceError

if TYPE_CHECKING:
    from embed_ops.encoders.base import FloatArray, Launched

_SIDE = {"cpu": 1024, "cuda": 8192}
"""Large enough for the device's full rate, small enough to cost a start little."""
_SLOW_S = 0.5
"""Seconds of a product that no arithmetic unit can have computed."""
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""By which Linux says that a processor multiplies bfloat16 (x86, Arm)."""
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    # Libraries below torch that found no memory for their workspace.
    "_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
)
_MEMORY_OF_SHARE = 0.9
"""Of a replica's share of a GPU: the rest is the context of its process, some 500 MB."""


def use_threads(threads: int) -> None:
    """Give this process's forward passes so many CPU threads."""
    torch.set_num_threads(threads)


def require_device(device: str) -> None:
    """Check that this process can compute where it shall.

    Raises:
        DeviceError: it has no GPU, or a torch that can't use it.
    """
    if device == "cpu" or torch.cuda.is_available():
        return
    why = (
        f"torch {torch.__version__} is built without CUDA; install a build for this GPU's driver"
        if torch.version.cuda is None
        else "torch finds no GPU; see whether `nvidia-smi` lists one on this node"
    )
    raise DeviceError(f"resources.gpus_per_replica: {why}, or set it to 0 to compute on CPUs")


def threads() -> int:
    """Tell how many CPU threads a forward pass has now."""
    return torch.get_num_threads()


def default_device() -> str:
    """Name the device of a process that nobody gave one: a GPU where torch finds it."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_memory_share(device: str, share: float) -> None:
    """Keep a replica that has a share of a GPU within that share of its memory.

    What fits then depends on no neighbour, so batches are halved alike wherever a unit runs.
    """
    if device != "cpu" and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share * _MEMORY_OF_SHARE)  # GPU only


def choose_kernels(device: str) -> None:
    """Choose a GPU's kernels, for this process.

    Float32 products are float32, and not TF32 with its ten bits, which torch allows convolutions.
    Attention is not cuDNN's, which makes a plan for each new shape, keeps it for ever, and promises
    no bits.
    """
    if device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = False  # GPU only
        torch.backends.cudnn.allow_tf32 = False  # GPU only
        torch.backends.cuda.enable_cudnn_sdp(False)  # GPU only


def wait_for(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if device != "cpu":
        torch.cuda.synchronize()  # GPU only


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; to a GPU from pinned memory, without waiting for it."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)  # GPU only


def on_host(tensors: Mapping[str, Tensor]) -> Launched:
    """Give what `launch` gives for a batch whose vectors, {output: a tensor}, are on their way.

    Begins to copy them to the host, and waits for these copies alone: `Tensor.cpu()`
    would wait for all that the GPU was given since, the next batch included.
    """
    if all(vectors.device.type == "cpu" for vectors in tensors.values()):
        return lambda: {name: vectors.numpy() for name, vectors in tensors.items()}
    return _copies_of_gpu(tensors)


def _copies_of_gpu(tensors: Mapping[str, Tensor]) -> Launched:  # GPU only
    copies = {
        name: torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True).copy_(
            vectors, non_blocking=True
        )
        for name, vectors in tensors.items()
    }
    done = _event(timed=False)
    done.record()

    def wait() -> Mapping[str, FloatArray]:
        done.synchronize()
        return {name: vectors.numpy() for name, vectors in copies.items()}

    return wait


def _event(*, timed: bool) -> Any:  # GPU only
    kind: Any = torch.cuda.Event
    return kind(enable_timing=timed)


class BusyClock:
    """Adds up how long a GPU computes, from the first kernel of each batch to its last.

    The time in which it has no batch is the host's; the launching of a batch counts as its own.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, launch: Callable[[], Launched]) -> Launched:  # GPU only
        """Launch a batch between two events; its time is known once it is collected."""
        begun, ended = _event(timed=True), _event(timed=True)
        begun.record()
        launched = launch()
        ended.record()

        def wait() -> Mapping[str, FloatArray]:
            vectors = launched()
            ended.synchronize()
            self.seconds += begun.elapsed_time(ended) / 1000
            return vectors

        return wait


def busy_clock(device: str) -> BusyClock | None:
    """Give a clock where the device computes beside its host."""
    return None if device == "cpu" else BusyClock()


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device may multiply bfloat16, and does not only emulate it."""
    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # GPU only
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return True
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), None)
    return flags is None or not _BFLOAT16_FLAGS.isdisjoint(flags.partition(":")[2].split())


def gemm_flops_per_second(device: str, dtype: str, tries: int = 5) -> float:
    """Time a matrix product (1024 cubed on a CPU) in the compute dtype.

    The best of some, in FLOP/s.

    The rate that a forward pass is held against: what this share of the device does at its best.
    """
    kind: torch.dtype = getattr(torch, dtype)
    side = _SIDE[device]
    left = torch.randn(side, side, device=device).to(kind)
    best = float("inf")
    for _ in range(tries):
        wait_for(device)
        start = time.perf_counter()
        torch.mm(left, left)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
        if best > _SLOW_S:
            # Emulated: no later one would be faster.
            break
    return 2 * side**3 / best


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device, or the host's allocator, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def lost_device(error: BaseException) -> bool:
    """Tell whether this process can't use its GPU any more.

    After an illegal access, a failed assertion or a fault of the hardware every further call
    fails alike; another process may do better.
    """
    if ran_out_of_memory(error):
        return False
    # torch has a class of its own for them since 2.8.
    kind = getattr(torch, "AcceleratorError", None)
    return isinstance(error, RuntimeError) and (
        (kind is not None and isinstance(error, kind)) or str(error).startswith("CUDA error")
    )


def release_memory() -> None:
    """Give back what a failed batch left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # GPU only


def memory_share(device: str, share: float = 1.0) -> float:
    """Measure the largest part of a replica's share of a GPU's memory held since the last call.

    0 on a CPU, whose memory is not a replica's own.
    """
    if device == "cpu":
        return 0.0
    most = torch.cuda.max_memory_allocated() / torch.cuda.mem_get_info()[1]  # GPU only
    torch.cuda.reset_peak_memory_stats()
    return most / share


def device_name(device: str) -> str:
    """Name the device for the summary; a CPU has its processor's name elsewhere."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def forget_peak(device: str) -> None:
    """Let what was measured so far not count as memory of the work."""
    if device != "cpu":
        torch.cuda.empty_cache()  # GPU only
        torch.cuda.reset_peak_memory_stats()  # GPU only


def device_memory(device: str) -> int:
    """Give the most bytes of a GPU's memory that this process has held; 0 on a CPU."""
    return 0 if device == "cpu" else int(torch.cuda.max_memory_reserved())
