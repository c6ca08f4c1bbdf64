"""A network that Keras has loaded on torch: numbers in, the tensors of layers out.

Keras is imported here alone, and always on torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_ops.errors import ModelError, PackageError
from embed_ops.lazy import installed

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = ""
"""In the place of a layer's path: the network's own output."""
_BACKEND, _TORCH = "KERAS_BACKEND", "torch"
_OLDEST = 3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNKNOWN = re.compile(r"(?:Could not (?:locate|deserialize)|Unknown)(?: \w+)?:? '([^']+)'")
_MOST = 300
"""Characters of what Keras says."""


def version() -> str:
    """Give the version of Keras; it is not imported.

    Raises:
        PackageError: it is not installed, or too old to run on torch.
    """
    there = installed("keras", "keras", "family keras")
    if int(there.partition(".")[0]) < _OLDEST:
        raise PackageError(
            f"family keras needs Keras {_OLDEST}, and Keras {there} is installed: pip install "
            "'embed-ops[keras]'"
        )
    return there


@cache
def runtime() -> Any:
    """Import Keras on torch.

    Raises:
        PackageError: it is not installed, or this process runs it on something else.
    """
    version()
    if "keras" not in sys.modules:
        asked = os.environ.get(_BACKEND)
        os.environ[_BACKEND] = _TORCH
        try:
            import keras
        finally:
            # Whatever else this process starts is not ours.
            if asked is None:
                del os.environ[_BACKEND]
            else:
                os.environ[_BACKEND] = asked
    import keras

    if (backend := keras.config.backend()) != _TORCH:
        raise PackageError(
            f"family keras computes by torch, and this process has imported Keras on {backend}; set "
            f"{_BACKEND}=torch before that, or embed in a process of its own"
        )
    return keras


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Let Keras compute on a device ("cpu", "cuda", "meta"), and hand on errors as they are."""
    config, filtered = runtime().config, runtime().config.is_traceback_filtering_enabled()
    config.disable_traceback_filtering()
    try:
        with runtime().device(device):
            yield
    finally:
        if filtered:
            config.enable_traceback_filtering()


def load(file: Path, device: str, saved_by: str) -> Any:
    """Load a network; nothing in the file is run or unpickled.

    Args:
        file: of Keras.
        device: of the weights; "meta": shapes without numbers.
        saved_by: version of Keras that has written the file.

    Raises:
        ModelError: Keras can't load it.
    """
    keras = runtime()
    try:
        with on_device(device):
            return keras.saving.load_model(file, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # layers fail in many ways
        from embed_ops.encoders.device import ran_out_of_memory

        if ran_out_of_memory(error):
            raise
        raise _refused(file, error, saved_by, keras.__version__) from error


def _refused(file: Path, error: Exception, saved_by: str, now: str) -> ModelError:
    if unknown := _UNKNOWN.search(str(error)):
        return ModelError(
            f"{file}: Keras {now} has no {unknown[1]!r}, which a layer is or names (saved by Keras "
            f"{saved_by}); save the network with layers of Keras in its place"
        )
    older = f"; load it by Keras {saved_by}, and save it as .keras" if saved_by.startswith("2.") else ""
    advice = older or "; save it again by this version of Keras"
    return ModelError(
        f"{file}: Keras {now} can't load it (saved by Keras {saved_by}): {reason(error)}{advice}"
    )


def reason(error: Exception) -> str:
    """Give the words of an error of Keras in one line, without colours and configurations."""
    said = _COLOURS.sub("", str(error))
    said = said.rpartition("Exception encountered: ")[2].partition("Full object config")[0]
    return " ".join(said.split())[:_MOST].rstrip(" .") or type(error).__name__


def layer_at(network: Any, path: str) -> Any:
    """Give a layer of a network by its path.

    Raises:
        ValueError: there is none: it is an operation without weights, or inside another layer.
    """
    for name in path.split("/"):
        network = network.get_layer(name)
    return network


class Network:
    """A loaded network, and the layers whose tensors are wanted.

    Args:
        model: of Keras.
        paths: of layers, `WHOLE` for the network's own output.
        device: that it was loaded to.
        file: for messages.
    """

    def __init__(self, model: Any, paths: Sequence[str], device: str, file: Path) -> None:
        self._model, self._device, self._file = model, device, file
        self._given: dict[str, Tensor] = {}
        self._paths = tuple(dict.fromkeys(paths))
        for path in self._paths:
            if path == WHOLE:
                continue
            try:
                layer = layer_at(model, path)
            except ValueError as error:
                raise ModelError(
                    f"{file}: {path} is an operation, or inside a layer that is no network; name a layer "
                    "behind it"
                ) from error
            layer.register_forward_hook(self._keeper(path))

    def _keeper(self, path: str) -> Any:
        def keep(layer: Any, inputs: Any, output: Any) -> None:
            if path in self._given:
                raise ModelError(
                    f"{self._file}: the layer {path} runs several times for a row; name another layer"
                )
            self._given[path] = output

        return keep

    def run(self, values: Tensor) -> Mapping[str, Tensor]:
        """Run a batch, (B, *shape): {path: its tensor}.

        Raises:
            ModelError: a layer runs several times.
        """
        import torch

        self._given = {}
        with on_device(self._device), torch.inference_mode():
            output = self._model(values, training=False)
        given, self._given = self._given, {}
        return {**given, WHOLE: output} if WHOLE in self._paths else given
