"""Who computes for a family: what is asked of a device is asked of the runtime that has it.

torch is one, and so are others that compute in its place (`EncoderSpec.RUNTIME`): a worker then
loads no torch beside them. A runtime is a module, imported only where a model is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from embed_ops.spec.encoder import EncoderSpec

TORCH = "embed_ops.encoders.device"
_MODULES = {"tensorflow": "embed_ops.encoders.tensorflow.device"}
"""Of runtimes that do without torch; onnxruntime and keras have it beside them, which pools."""
_PRELOADED = {
    None: ("torch", "transformers.models.auto.modeling_auto"),
    "tensorflow": (_MODULES["tensorflow"],),
}


class Runtime(Protocol):
    """What a process that computes asks, as `device.py` answers it for torch."""

    def require_device(self, device: str) -> None:
        """Check that this process can compute there, or raise `DeviceError`."""
        ...

    def default_device(self) -> str:
        """Name the device of a process that nobody gave one."""
        ...

    def use_threads(self, threads: int) -> None:
        """Give forward passes so many CPU threads."""
        ...

    def threads(self) -> int:
        """Tell how many they have now."""
        ...

    def choose_kernels(self, device: str) -> None:
        """Choose those whose sums do not depend on the moment."""
        ...

    def use_memory_share(self, device: str, share: float) -> None:
        """Keep a replica within its share of a GPU's memory."""
        ...

    def memory_share(self, device: str, share: float = 1.0) -> float:
        """Measure the largest part of that share which was held."""
        ...

    def device_memory(self, device: str) -> int:
        """Give the most bytes of a GPU's memory that were held."""
        ...

    def device_name(self, device: str) -> str:
        """Name the device."""
        ...

    def forget_peak(self, device: str) -> None:
        """Let what was measured so far not count."""
        ...

    def busy_clock(self, device: str) -> Any:
        """Give a clock where the device computes beside its host, else None."""
        ...

    def computes_bfloat16(self, device: str) -> bool:
        """Tell whether a device has arithmetic for it."""
        ...

    def gemm_flops_per_second(self, device: str, dtype: str, tries: int = 5) -> float:
        """Time a matrix product."""
        ...

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """Tell whether an error says that memory ran out."""
        ...

    def lost_device(self, error: BaseException) -> bool:
        """Tell whether this process can't use its device any more."""
        ...

    def release_memory(self) -> None:
        """Give back what a failed batch left behind."""
        ...


def runtime_of(spec: EncoderSpec | None) -> Runtime:
    """Give the runtime of a family, torch where it names no other; `None` stands for torch too.

    Raises:
        PackageError: its package is not installed.
    """
    named = None if spec is None else spec.RUNTIME
    return cast(Runtime, importlib.import_module(_MODULES.get(str(named), TORCH)))


def preloaded(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the modules that a server imports whose forked children load such a model.

    None of them starts a thread that computes.
    """
    return _PRELOADED.get(spec.RUNTIME, ("torch",))
