"""Texts or images to vectors by a model in an ONNX file, run by onnxruntime.

Importing this module imports no torch and no onnxruntime: CPU workers prepare only. `inputs.py`
says what texts (`texts.py`) and images (`images.py`) have of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, Launched, Modality, dims_of, no_vectors, not_loaded
from embed_ops.encoders.onnx.model import OnnxModel
from embed_ops.encoders.onnx.session import Batch, Session, runtime
from embed_ops.encoders.optional import Original
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec

_BUDGET = frozenset({"token_budget"})


class OnnxEncoder:
    """The onnx family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are the graph's own where it gives one a row, else those of its tokens or patches,
    pooled as the spec or the model's folder says.

    Raises:
        ModelError: a part is missing, or the graph takes or gives something else.
        PackageError: onnxruntime is not installed.
    """

    takes: ClassVar[Mapping[str, Modality]] = {
        "text": Modality(200, {"cpu": 4_096, "cuda": 65_536}, _BUDGET),
        "image": Modality(20_000, {"cpu": 2_048, "cuda": 65_536}, _BUDGET),
    }

    def __init__(self, spec: OnnxEncoderSpec) -> None:
        self._stand_on(OnnxModel(spec))
        self._session: Session | None = None

    def _stand_on(self, model: OnnxModel) -> None:
        self._model, inputs = model, model.inputs
        self.prepare, self.lengths, self.blank = inputs.prepare, inputs.lengths, inputs.blank
        self.outputs, self.flops, self.describe = model.outputs, model.flops, model.describe
        self.most_rows, self.weight_bytes = model.most_rows, model.weight_bytes
        self.fingerprint = model.fingerprint

    @property
    def modality(self) -> str:
        """What the graph takes: texts or images."""
        return self._model.inputs.modality

    def prompted(self, prompt: str) -> OnnxEncoder:
        """Give the same encoder, session included, with another prompt.

        It is a text, or the name of one of the model's prompts.

        Raises:
            ModelError: the graph takes images.
        """
        other = copy.copy(self)
        other._stand_on(self._model.prompted(prompt))
        return other

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the graph to `device`; its types are those of the file.

        Raises:
            ModelError: another type than float32, or what `Session` raises.
        """
        from embed_ops.encoders.device import threads

        if dtype != "float32" or compiled:
            raise ModelError(
                f"{self._model.spec.model}: a file is run as it is, in its own types; leave dtype "
                "and compile out"
            )
        self._session = self._model.open(device, threads())
        self._model.inputs.begin(self._model.wires)
        self._model.loaded = {"device": device, "provider": self._session.ran_on}
        batch = self._model.inputs.trial()
        require_repeatable(self._model.spec.model, self.launch(batch)(), self.launch(batch)())

    def launch(self, batch: pa.Table) -> Launched:
        """Embed a batch of inputs.

        Returns:
            a function that gives {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called, or the graph gives something else than it says.
            MemoryError: the batch does not fit.
        """
        if self._session is None:
            raise not_loaded(self._model.spec.model)
        if batch.num_rows == 0:
            return no_vectors(self)
        parts = [self._vectors(self._session, part) for part in self._model.inputs.batches(batch)]
        vectors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return lambda: vectors

    def _vectors(self, session: Session, batch: Batch) -> dict[str, FloatArray]:
        import torch

        from embed_ops.encoders.text.pooling import finish

        tensors = session.run(batch)
        with torch.inference_mode():
            return {
                wire.column.name: finish(
                    self._model.inputs.pooled(wire, torch.from_numpy(tensors[wire.tensor]), batch),
                    wire.column,
                ).numpy()
                for wire in self._model.wires
            }

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through the same file, un-padded.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.device import threads

        at = self._model
        session, dims = at.open(device, threads()), dims_of(self.outputs())
        vectors = at.inputs.one_by_one(session, at.wires, column, dims)
        return f"onnxruntime {runtime().__version__}, one row at a time", vectors

    def original(self, column: pa.Array, device: str = "cpu") -> Original | None:
        """Embed rows by the model that the file was made of; None where the spec names none.

        Raises:
            ModelError: it can't be used, or is another model.
        """
        original = self._model.original
        return None if original is None else original.embed(column, device)
