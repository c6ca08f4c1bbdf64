"""A graph that onnxruntime has loaded: arrays in, arrays out, each failure in one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.onnx.graph import FLOATS, Graph, listed
from embed_ops.encoders.protobuf import field
from embed_ops.errors import DeviceError, ModelError
from embed_ops.lazy import require

if TYPE_CHECKING:
    from torch import Tensor

Ids = npt.NDArray[np.int64]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_GRAPH, _OUTPUT, _NAME = 7, 12, 1
_FATAL = 4
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY")
_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)( const)? ")
"""A line of onnxruntime's own source, and the function there."""
_MOST = 300
"""Characters of what onnxruntime says."""
_LACKS = ("Could not find an implementation", "No Op registered", "is not a registered function/op")
_TOO_NEW = ("under development", "till opset", "Unsupported model IR version", "no registered schema")


def runtime() -> Any:
    """Import onnxruntime.

    Raises:
        PackageError: it is not installed.
    """
    return require("onnxruntime", "onnx", "family onnx")


@dataclass(frozen=True)
class Batch:
    """Rows as a graph takes them.

    Attributes:
        feeds: {input: an array, its first axis the rows}.
        shown: what they are, for messages; `remedy`: what to do where the graph can't take them.
        prompts: tokens of the prompt before each text, or (B, 1) of those of rows.
    """

    feeds: Mapping[str, npt.NDArray[Any]]
    shown: str
    remedy: str
    prompts: int | Tensor = 0

    @property
    def rows(self) -> int:
        """Count the rows."""
        return len(next(iter(self.feeds.values())))


class Session:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: what it says of itself.
        wanted: names of the tensors to give, outputs or inside the graph.
        device: "cpu" or "cuda"; `threads`: of its operators.

    Raises:
        ModelError: onnxruntime can't load it, or a tensor is not in it.
        DeviceError: this onnxruntime has no such device.
        PackageError: onnxruntime is not installed.
    """

    def __init__(
        self, file: Path, graph: Graph, wanted: Collection[str], device: str = "cpu", threads: int = 1
    ) -> None:
        ort = runtime()
        provider = _PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise DeviceError(
                f"resources.gpus_per_replica: onnxruntime {ort.__version__} here is built without CUDA; "
                "install onnxruntime-gpu in its place, or set it to 0 to compute on CPUs"
            )
        self._file, self._wanted = file, tuple(wanted)
        self._types = {tensor.name: np.dtype(tensor.kind) for tensor in graph.inputs}
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute = True
        options.enable_mem_pattern = False  # lengths differ from batch to batch
        options.log_severity_level = _FATAL  # errors come as exceptions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        outputs = [tensor.name for tensor in graph.outputs]
        try:
            self._session = ort.InferenceSession(
                _source(file, [name for name in wanted if name not in outputs], options),
                options,
                providers=[provider],
            )
        except Exception as error:  # onnxruntime's own have no common class
            raise _refused(file, error, graph, ort.__version__) from error
        self.ran_on = self._session.get_providers()[0]
        if self.ran_on != provider:
            raise DeviceError(
                f"resources.gpus_per_replica: onnxruntime {ort.__version__} falls back to {self.ran_on}; see "
                "whether its CUDA libraries are installed on this node, or set it to 0"
            )
        for tensor in self._session.get_outputs():
            if tensor.name in self._wanted and tensor.type not in _FLOAT_TYPES:
                raise ModelError(
                    f"{file}: {tensor.name} holds {tensor.type}, and vectors are floats; name another tensor"
                )

    def run(self, batch: Batch) -> dict[str, npt.NDArray[np.float32]]:
        """Run a batch: {tensor: an array, its first axis the rows, float32}.

        Raises:
            ModelError: onnxruntime fails.
            MemoryError: there was no memory for it.
        """
        feeds = {name: np.ascontiguousarray(batch.feeds[name], kind) for name, kind in self._types.items()}
        try:
            arrays = self._session.run(list(self._wanted), feeds)
        except Exception as error:  # onnxruntime's own have no common class
            if any(words in str(error) for words in _NO_MEMORY):
                raise MemoryError(_reason(error)) from error
            raise ModelError(
                f"{self._file}: onnxruntime can't run it on {batch.shown} ({_reason(error)}); {batch.remedy}"
            ) from error
        return {name: np.asarray(array, np.float32) for name, array in zip(self._wanted, arrays, strict=True)}


_FLOAT_TYPES = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})


def _source(file: Path, inner: Sequence[str], options: Any) -> str | bytes:
    """Give what onnxruntime loads: the file, or its bytes with tensors inside it as outputs.

    Messages of protobuf that stand behind one another are one message, so more outputs are
    a graph with nothing but these, behind the one that is there.
    """
    if not inner:
        return str(file)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    named = b"".join(field(_OUTPUT, field(_NAME, name.encode())) for name in inner)
    return file.read_bytes() + field(_GRAPH, named)


def _refused(file: Path, error: Exception, graph: Graph, version: str) -> ModelError:
    """Say why onnxruntime can't load a file."""
    said = str(error)
    if "does not exist in the graph" in said:
        return ModelError(
            f"{file}: has no tensor {said.partition('Graph output (')[2].partition(')')[0]!r}; its outputs: "
            f"{listed(shapes_of(graph))}; name one of them, or of the tensors inside"
        )
    if any(words in said for words in _LACKS):
        return ModelError(
            f"{file}: onnxruntime {version} lacks an operator of it ({_reason(error)}); install a newer "
            "onnxruntime, or export with another opset"
        )
    if any(words in said for words in _TOO_NEW):
        return ModelError(
            f"{file}: is newer than onnxruntime {version} ({_reason(error)}); install a newer onnxruntime, "
            "or export with a lower opset"
        )
    return ModelError(f"{file}: onnxruntime can't load it ({_reason(error)}); fetch or export it again")


def _reason(error: Exception) -> str:
    """Give the words of an error, without its code and without addresses of source files."""
    said = _PLACE.sub("", " ".join(str(error).split()))
    said = said.rpartition("Status Message: ")[2].rpartition(" failed:")[2]
    return (said.rpartition("] : ")[2].partition(" : ")[2].partition(" : ")[2] or said)[:_MOST]


def shapes_of(graph: Graph) -> Mapping[str, tuple[int | None, ...] | None]:
    """Give the outputs that hold floats, {name: shape}; all where none does."""
    floats = {tensor.name: tensor.shape for tensor in graph.outputs if tensor.kind in FLOATS}
    return floats or {tensor.name: tensor.shape for tensor in graph.outputs}
