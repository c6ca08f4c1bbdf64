"""Texts, images and tensors to vectors by a SavedModel, run by TensorFlow.

Importing this module imports no TensorFlow, nor torch: CPU workers prepare only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.base import (
    FloatArray,
    IntArray,
    Launched,
    Modality,
    Prepared,
    dims_of,
    no_vectors,
    not_loaded,
)
from embed_ops.encoders.images.decoding import (
    PIXELS,
    black_image,
    blank_images,
    is_image_column,
    most_images,
    pixels_of,
    prepare_images,
)
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.encoders.tensorflow.model import TensorflowModel
from embed_ops.encoders.tensorflow.session import Session
from embed_ops.encoders.tensorflow.wiring import levels
from embed_ops.encoders.tensors import (
    NUMBERS_A_POSITION,
    TENSOR,
    TENSORS,
    blank_tensors,
    most_tensors,
    prepare_tensors,
    tensor_positions,
    tensors_of,
)
from embed_ops.encoders.text.tokens import distinct
from embed_ops.errors import ModelError
from embed_ops.numerics.norms import normalized
from embed_ops.spec.encoder import TensorflowEncoderSpec

TEXTS = "text"
_BYTES_A_POSITION = 4
"""So many bytes of a text count as one position: about a token."""
_CHOICES = frozenset({"token_budget"})
_TRIED = "A few words, to see what the model gives."


class TensorflowEncoder:
    """The tensorflow family; implements `embed_ops.encoders.base.Encoder`.

    Raises:
        ModelError: there is no such SavedModel, or it takes or gives something else.
        PackageError: TensorFlow is not installed.
    """

    takes: ClassVar[Mapping[str, Modality]] = {
        "text": Modality(200, {"cpu": 4_096}, _CHOICES),
        "image": Modality(20_000, {"cpu": 2_048}, _CHOICES),
        "tensor": replace(TENSOR, token_budgets={"cpu": TENSOR.token_budgets["cpu"]}),
    }

    def __init__(self, spec: TensorflowEncoderSpec) -> None:
        self._model = model = TensorflowModel(spec)
        self._session: Session | None = None
        self.outputs, self.describe = model.outputs, model.describe
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint

    def prepare(self, column: pa.Array) -> Prepared:
        """Make what the model takes of a column of texts, images or tensors, each distinct once.

        Returns:
            inputs with the column `text` (strings), `pixels` (fixed-size binary of height x width
            x 3) or `tensor` (fixed-size lists).

        Raises:
            SourceError: the column holds something else.
            ModelError: the model takes no such rows.
        """
        spec = self._model.spec
        if is_image_column(column):
            return prepare_images(column, self._model.steps, spec.max_pixels, draft=spec.draft is True)
        if self._model.takes_texts:
            texts = distinct(column)
            table = pa.table({TEXTS: pa.array(texts.texts, pa.string())})
            return Prepared(table, texts.index, np.zeros(len(texts.texts), np.bool_), texts.rejects)
        if pa.types.is_string(column.type):
            self._model.require("text")
        return prepare_tensors(column, self._model.tensors)

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit.

        Raises:
            ModelError: the model takes no rows of this modality.
        """
        self._model.require(modality)
        vectors = 4 * sum(dims_of(self.outputs()).values())
        if modality == "image":
            return most_images(self._model.steps, vectors, asked)
        return asked if modality == "text" else most_tensors(self._model.tensors, vectors, asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each input, (inputs,) int32: texts by their bytes."""
        names = inputs.schema.names
        if TEXTS in names:
            size = pc.binary_length(inputs.column(TEXTS)).to_numpy()
            return np.asarray(size // _BYTES_A_POSITION + 1, np.int32)
        if TENSORS in names:
            return tensor_positions(inputs, self._model.tensors)
        steps = self._model.steps
        return np.full(len(inputs), -(-steps.height * steps.width // NUMBERS_A_POSITION), np.int32)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace some inputs by texts of letters, black images or zeros of the same length."""
        if TENSORS in inputs.schema.names:
            return blank_tensors(inputs, places, self._model.tensors)
        if PIXELS in inputs.schema.names:
            return blank_images(inputs, places, self._model.steps)
        texts = inputs.column(TEXTS).to_pylist()
        blank = ["a" * len(text.encode()) if place in places else text for place, text in enumerate(texts)]
        return pa.table({TEXTS: pa.array(blank, pa.string())})

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the model; its types are its own.

        Raises:
            ModelError: another type than float32, or what `Session` raises.
        """
        if dtype != "float32" or compiled:
            raise ModelError(
                f"{self._model.spec.model}: a SavedModel is run as it is, in its own types; leave dtype and "
                "compile out"
            )
        self._session = self._model.open()
        self._model.loaded = {"device": device}
        tried = self._tried()
        require_repeatable(self._model.spec.model, self.launch(tried)(), self.launch(tried)())

    def _tried(self) -> pa.Table:
        """Make an input to see what the model gives."""
        if self._model.takes_texts:
            return pa.table({TEXTS: [_TRIED]})
        axes = self._model.taken.axes
        if len(axes) == 3 and axes[-1] == 3:
            return black_image(self._model.steps)
        taken = self._model.tensors
        zeros = pa.array(np.zeros(taken.numbers, taken.dtype))
        return pa.table({TENSORS: pa.FixedSizeListArray.from_arrays(zeros, type=taken.arrow)})

    def launch(self, batch: pa.Table) -> Launched:
        """Embed a batch with one of the columns that `prepare` gives.

        Returns:
            a function that gives {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called, or the model gives something else than it says.
            MemoryError: the batch does not fit.
        """
        if self._session is None:
            raise not_loaded(self._model.spec.model)
        if batch.num_rows == 0:
            return no_vectors(self)
        arrays = self._session.run(self._rows(batch))
        vectors = {
            wire.column.name: _finished(
                wire.shortened(arrays[wire.output], self._model.saved.path), wire.column.normalize
            )
            for wire in self._model.wires
        }
        return lambda: vectors

    def _rows(self, batch: pa.Table) -> Sequence[str] | npt.NDArray[Any]:
        """Give a batch as TensorFlow takes it: texts, or an array (B, ...)."""
        if TEXTS in batch.schema.names:
            texts: list[str] = batch.column(TEXTS).to_pylist()
            return texts
        if TENSORS in batch.schema.names:
            return tensors_of(batch, self._model.tensors)
        table = levels(self._model.taken.tensor.dtype, self._model.spec.value_range)
        return np.take(table, pixels_of(batch, self._model.steps))

    def flops(self, lengths: IntArray) -> float:
        """Give 0: a graph does not tell them."""
        return 0.0

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time by TensorFlow, called as a user would.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.tensorflow.reference import embed_alone

        refused = {reject.row for reject in self.prepare(column).rejects}
        return embed_alone(self._model, column, refused)


def _finished(vectors: FloatArray, normalize: bool) -> FloatArray:
    """Normalise vectors, (B, dim), where an output asks for it."""
    return normalized(vectors).astype(np.float32) if normalize else np.ascontiguousarray(vectors)
