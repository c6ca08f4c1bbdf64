"""What a device's errors mean, and what a process without a GPU says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from embed_ops.encoders import device
from embed_ops.encoders.text.compiled import compiler_missing
from embed_ops.errors import DeviceError

ACCELERATOR: Any = getattr(torch, "AcceleratorError", RuntimeError)


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), True, False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            True,
            False,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
            False,
        ),
        (ACCELERATOR("CUDA error: out of memory"), True, False),
        (ACCELERATOR("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error: not torch's"), False, False),
    ],
)
def test_errors(error: Exception, memory: bool, lost: bool) -> None:
    """Memory errors are told apart first: they are halved, and nothing is lost."""
    assert device.ran_out_of_memory(error) is memory
    assert device.lost_device(error) is lost


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu() -> None:
    """A worker without a GPU says so in a sentence; on a CPU nothing is asked."""
    device.require_device("cpu")
    with pytest.raises(DeviceError, match=r"resources.gpus_per_replica: torch .*or set it to 0"):
        device.require_device("cuda")


def test_a_cpu_needs_nothing() -> None:
    """What is there for GPUs leaves a CPU alone."""
    device.use_memory_share("cpu", 0.5)
    device.choose_kernels("cpu")
    assert device.busy_clock("cpu") is None
    assert (device.device_name("cpu"), device.device_memory("cpu"), device.memory_share("cpu")) == (
        "cpu",
        0,
        0.0,
    )


def test_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU needs a C++ compiler, a GPU a C compiler, which Triton calls."""
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "no-such-compiler")
    assert compiler_missing("cpu") == "no C++ compiler (no-such-compiler) on this machine"
    assert compiler_missing("cuda") == "no C compiler (no-such-compiler) on this machine"
