"""A SavedModel that TensorFlow has loaded: rows in, arrays out, each failure in one sentence.

Importing this module imports no TensorFlow; making a `Session` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.tensorflow.files import SavedModel
from embed_ops.encoders.tensorflow.saved_model import Tensor
from embed_ops.encoders.tensorflow.wiring import Input, fed
from embed_ops.errors import ModelError
from embed_ops.lazy import installed

FRONT_SIGNATURE = "serving_default"
"""The signature of what stands in front."""
_UNKNOWN = re.compile(r"Op type not registered '([\w>]+)'")
_OPERATORS = "tensorflow_text"
"""A package that brings operators."""
_RANDOM = "random ops"
"""What TensorFlow says of what would differ from one call to the next."""
_ADVICE = "You may be trying to load"
"""Where TensorFlow goes on to guess."""
_NO_REASON = ("Graph execution error", "Detected at node", "Hint:", "Stack trace", "File ")
"""How lines begin that tell where something was met, and not what."""
_MOST = 300
"""Characters of what TensorFlow says."""


def runtime() -> Any:
    """Import TensorFlow, without what it writes to the terminal.

    Raises:
        PackageError: it is not installed.
    """
    from embed_ops.encoders.tensorflow.device import tf

    return tf


def require_runtime() -> None:
    """Check that TensorFlow is installed, without importing it.

    Raises:
        PackageError: it is not.
    """
    installed("tensorflow", "tensorflow", "family tensorflow")


class Session:
    """A loaded SavedModel, and what stands in front of it.

    Args:
        saved: where it is; `signature`: of it; `taken`: what it, or what stands in front, takes.
        wanted: names of outputs.
        front: the SavedModel in front.

    Raises:
        ModelError: TensorFlow can't load it.
        PackageError: TensorFlow is not installed.
    """

    def __init__(
        self,
        saved: SavedModel,
        signature: str,
        taken: Input,
        wanted: Sequence[str],
        front: SavedModel | None = None,
    ) -> None:
        self._saved, self._taken, self._wanted = saved, taken, tuple(dict.fromkeys(wanted))
        # Variables live as long as what was loaded.
        self._kept = [_load(saved), *([] if front is None else [_load(front)])]
        self._call = self._kept[0].signatures[signature]
        self._front = None if front is None else self._kept[1].signatures[FRONT_SIGNATURE]
        takes = saved.contents.signatures[signature].inputs
        gives: Mapping[str, Tensor] = {}
        if front is not None:
            gives = front.contents.signatures[FRONT_SIGNATURE].outputs
        self._fed = fed(gives, takes)

    def run(self, rows: Sequence[str] | npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        """Run rows, B texts or an array (B, ...): {output: (B, width) float32}.

        Raises:
            ModelError: TensorFlow fails, or gives something else than its signature says.
            MemoryError: there was no memory for it.
        """
        if self._taken.alone and len(rows) > 1:
            parts = [self._run(rows[row : row + 1]) for row in range(len(rows))]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self._run(rows)

    def _run(self, rows: Sequence[str] | npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        tf = runtime()
        try:
            given = tf.constant(rows, self._taken.tensor.dtype)
            axes = self._taken.axes
            if isinstance(rows, list) and axes:
                given = tf.reshape(given, (-1, *axes))
            feeds = {self._taken.name: given}
            if self._front is not None:
                between = self._front(**feeds)
                feeds = {name: between[output] for name, output in self._fed.items()}
            tensors = self._call(**feeds)
            arrays = {name: np.asarray(tf.cast(tensors[name], tf.float32)) for name in self._wanted}
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise MemoryError(_reason(error)) from error
        except (tf.errors.OpError, ValueError, TypeError, RuntimeError) as error:
            if _RANDOM in str(error).lower():
                raise ModelError(
                    f"{self._saved.path}: draws at random, so that the same input would have another vector "
                    "each time; save it for inference (training=False)"
                ) from error
            raise ModelError(
                f"{self._saved.path}: TensorFlow can't run it on {len(rows)} rows of "
                f"{self._taken.tensor} ({_reason(error)}); choose another signature, or save the model again"
            ) from error
        for name, array in arrays.items():
            if array.ndim != 2 or len(array) != len(rows):
                raise ModelError(
                    f"{self._saved.path}: its output {name} has the shape {array.shape} for {len(rows)} "
                    "rows, and (rows, width) was expected; name another output (tensor)"
                )
        return arrays


def _load(saved: SavedModel) -> Any:
    """Load a SavedModel; once more with a package of operators where it needs some of that."""
    tf = runtime()
    try:
        return tf.saved_model.load(str(saved.path))
    except Exception as error:  # TensorFlow's own have no common class
        lacking = _UNKNOWN.search(str(error))
        if lacking is None:
            raise _refused(saved, error) from error
        if importlib.util.find_spec(_OPERATORS) is None:
            raise ModelError(
                f"{saved.path}: needs the operator {lacking[1]}, which TensorFlow {tf.__version__} itself "
                "does not have; where it is one of TensorFlow Text, as of models with a tokenizer inside: "
                "pip install tensorflow-text"
            ) from error
    importlib.import_module(_OPERATORS)
    try:
        return tf.saved_model.load(str(saved.path))
    except Exception as error:  # as above
        raise _refused(saved, error) from error


def _refused(saved: SavedModel, error: Exception) -> ModelError:
    return ModelError(
        f"{saved.path}: TensorFlow {runtime().__version__} can't load it ({_reason(error)}); fetch the model "
        "again, whole, or save it again"
    )


def _reason(error: BaseException) -> str:
    """Give what TensorFlow says in one line, without where in whose code."""
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if not line.startswith((" ", "\t")) and not line.startswith(_NO_REASON)
    ]
    said = " ".join(" ".join(lines).split()).partition(_ADVICE)[0]
    return re.sub(r"\{\{[^}]*\}\}|\[\[[^\]]*\]\]|\[Op:[^\]]*\]", "", said)[:_MOST].strip()
