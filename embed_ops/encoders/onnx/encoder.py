"""Texts to vectors by a model in an ONNX file, run by onnxruntime.

Importing this module imports no torch and no onnxruntime: CPU workers tokenize only. Legend: B
inputs, T tokens of the longest input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, Launched, Modality, Prepared, dims_of, no_vectors, not_loaded
from embed_ops.encoders.onnx.model import OnnxModel
from embed_ops.encoders.onnx.session import Ids, Session, runtime
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.encoders.text.tokens import (
    TOKENS,
    blank_tokens,
    distinct,
    most_texts,
    prepare_texts,
    token_counts,
)
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec

if TYPE_CHECKING:
    from embed_ops.encoders.text.heads import Heads


class OnnxEncoder:
    """The onnx family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are the graph's own where it gives one a row, else those of its tokens, pooled as the
    spec or the sentence-transformers folder says.

    Raises:
        ModelError: a part is missing, or the graph takes or gives something else.
        PackageError: onnxruntime is not installed.
    """

    takes: ClassVar[Mapping[str, Modality]] = {
        "text": Modality(200, {"cpu": 4_096, "cuda": 65_536}, frozenset({"token_budget"}))
    }
    most_rows = staticmethod(most_texts)
    lengths = staticmethod(token_counts)
    blank = staticmethod(blank_tokens)

    def __init__(self, spec: OnnxEncoderSpec) -> None:
        self._stand_on(OnnxModel(spec))
        self._session: Session | None = None
        self._heads: Heads | None = None

    def _stand_on(self, model: OnnxModel) -> None:
        self._model = model
        self.outputs, self.flops, self.describe = model.outputs, model.flops, model.describe
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint

    def prompted(self, prompt: str) -> OnnxEncoder:
        """Give the same encoder, session included, with another prompt.

        It is a text, or the name of one of the model's prompts.
        """
        other = copy.copy(self)
        other._stand_on(self._model.prompted(prompt))
        return other

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a string column, each distinct text once.

        Null and non-UTF-8 rows become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>.

        Raises:
            SourceError: the column is not text.
        """
        return prepare_texts(column, partial(self._model.prompts.encode, self._model.tokenizer))

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
        self._heads = self._model.heads()
        self._model.loaded = {"device": device, "provider": self._session.ran_on}
        tried = pa.array([self._model.tried[0]], pa.list_(pa.int32()))
        batch = pa.table({TOKENS: pa.chunked_array([tried])})
        require_repeatable(self._model.spec.model, self.launch(batch)(), self.launch(batch)())

    def launch(self, batch: pa.Table) -> Launched:
        """Embed a batch with the column `tokens`.

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
        parts = [self._vectors(self._session, ids, mask) for ids, mask in self._rectangles(batch)]
        vectors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return lambda: vectors

    def _rectangles(self, batch: pa.Table) -> Iterator[tuple[Ids, Ids]]:
        """Give ids and mask, (B, T) int64, of the whole batch, or of one input after the other."""
        from embed_ops.encoders.text.transformer import pad

        column = batch.column(TOKENS)
        for part in (column.slice(row, 1) for row in range(len(column))) if self._model.alone else [column]:
            ids, mask = pad(part, self._model.files.pad_id())
            yield ids.numpy(), mask.numpy()

    def _vectors(self, session: Session, ids: Ids, mask: Ids) -> dict[str, FloatArray]:
        import torch

        from embed_ops.encoders.text.pooling import finish, pool

        tensors = session.run(ids, mask)
        vectors: dict[str, FloatArray] = {}
        with torch.inference_mode():
            kept = torch.from_numpy(mask)
            for each in self._model.wires:
                array = tensors[each.tensor]
                axes = ids.shape[:1] if each.way == "as it is" else ids.shape
                if array.shape != (*axes, each.width):
                    raise ModelError(
                        f"{self._model.files.file}: {each.tensor} has the shape {array.shape} for "
                        f"{ids.shape[0]} rows of {ids.shape[1]} tokens, and {(*axes, each.width)} was "
                        "expected; name another tensor"
                    )
                hidden = torch.from_numpy(array)
                if each.way == "pooled":
                    hidden = pool(each.column.pooling, hidden, kept)
                elif self._heads is not None and each.way == "modules":
                    hidden = self._heads(hidden, kept, self._model.prompt_tokens)
                vectors[each.column.name] = finish(hidden, each.column).numpy()
        return vectors

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through the same file, un-padded.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.device import threads
        from embed_ops.encoders.onnx.reference import embed_alone

        at, texts = self._model, distinct(column)
        rows = [at.prompts.encode(at.tokenizer, [text]).values.tolist() for text in texts.texts]
        session, heads = at.open(device, threads()), at.heads()
        vectors = embed_alone(session, at.wires, rows, heads, at.prompt_tokens)
        name = f"onnxruntime {runtime().__version__}, one row at a time"
        return name, texts.to_rows(vectors, dims_of(self.outputs()))
