"""Texts to the means of their words' static vectors.

GloVe, word2vec, fastText, or any array with its words.

Importing this module imports no torch: CPU workers look words up only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import (
    FloatArray,
    IntArray,
    Launched,
    Modality,
    Output,
    Prepared,
    Rejected,
    dims_of,
    finished,
    no_vectors,
    not_loaded,
    outputs_of,
)
from embed_ops.encoders.static.lookup import Lookup
from embed_ops.encoders.static.matrices import Matrix
from embed_ops.encoders.static.word_weights import WordCounts, hash_weights, read_counts
from embed_ops.encoders.text.tokens import TOKENS, distinct, most_texts, token_counts
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import offsets_of
from embed_ops.schema import Reason
from embed_ops.spec.encoder import OutputSpec, StaticEncoderSpec

if TYPE_CHECKING:
    import torch

_RUN = 32
"""Words that are summed in float32."""


class StaticEncoder:
    """The static family; implements `embed_ops.encoders.base.Encoder`.

    A text's vector is the mean of those of its words, as often as they stand in it, or weighted.
    Words that the table does not have are left out and counted; a text without any other is a
    reject.

    Raises:
        ModelError: there is no table of word vectors, and no model with one.
    """

    # A trial has nothing to choose: sums of rows are taken in float32 on CPUs.
    takes: ClassVar[Mapping[str, Modality]] = {"text": Modality(200, {"cpu": 262_144}, frozenset())}
    most_rows = staticmethod(most_texts)
    lengths = staticmethod(token_counts)

    def __init__(self, spec: StaticEncoderSpec) -> None:
        self._spec = spec
        self.lookup = Lookup(spec)
        self._columns = spec.outputs or (OutputSpec(normalize=self.lookup.facts.normalize),)
        self._weights: torch.Tensor | None = None
        self._vectors: torch.Tensor | None = None
        width = self.lookup.shape[1]
        for column in self._columns:
            if column.dim is not None and column.dim > width:
                raise ModelError(
                    f"{spec.model}: output {column.name!r}: dim is {column.dim}, and the vectors have "
                    f"{width} dimensions"
                )

    @cached_property
    def _counts(self) -> WordCounts | None:
        if self._spec.weights is None:
            return None
        return read_counts(self._spec.weights, self.lookup.vocabulary(), self.lookup.tokenisation())

    def prepare(self, column: pa.Array) -> Prepared:
        """Look up the words of a string column, each distinct text once.

        Null rows, and those without a known word, become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>: rows of the table, without unknown words,
            of which `unknown` has the number.

        Raises:
            SourceError: the column is not text.
        """
        unique = distinct(column)
        looked = self.lookup.look_up(unique.texts)
        known = looked.counts > 0
        # Texts without a known word have no values, so those of the others stay where they are.
        place = np.append(np.where(known, np.cumsum(known) - 1, -1), -1).astype(np.int32)
        index = place[unique.index]
        bad = np.flatnonzero((unique.index >= 0) & (index < 0))
        why = "no word of the text is in the table of word vectors"
        rejects = [*unique.rejects, *(Rejected(int(row), Reason.OUT_OF_VOCABULARY, why) for row in bad)]
        lists = pa.ListArray.from_arrays(
            pa.array(offsets_of(looked.counts[known]), pa.int32()), pa.array(looked.rows, pa.int32())
        )
        rejects.sort(key=lambda item: item.row)
        return Prepared(pa.table({TOKENS: lists}), index, looked.cut[known], rejects, looked.unknown[known])

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Leave inputs as they are: a sum of vectors kills no process."""
        return inputs

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Map the table into memory.

        Raises:
            ModelError: another device or type than what there is: CPU and float32.
        """
        import torch

        if device != "cpu" or dtype != "float32" or compiled:
            raise ModelError(
                f"{self._spec.model}: means of word vectors are computed on CPUs, in float32; leave "
                "dtype, compile and GPUs out"
            )
        self._vectors = torch.from_numpy(self.lookup.vectors())
        if self._counts is not None:
            self._weights = torch.from_numpy(self._counts.weights(self._spec.weighting).astype(np.float32))

    def launch(self, batch: pa.Table) -> Launched:
        """Take the means of a batch with the column `tokens`.

        Each is summed in the order of its words, whatever stands beside it.

        Runs of words are summed in float32, the runs of a text in float64: a long text loses no
        digits.

        Returns:
            a function that gives {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        if self._vectors is None:
            raise not_loaded(self._spec.model)
        import torch
        from torch.nn.functional import embedding_bag

        from embed_ops.encoders.text.pooling import finish

        if batch.num_rows == 0:
            return no_vectors(self)
        lists = batch.column(TOKENS).combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        counts, first = np.diff(offsets), offsets[0]
        parts = -(-counts // _RUN)
        starts = np.repeat(
            offsets[:-1] - first - _RUN * (np.cumsum(parts) - parts), parts
        ) + _RUN * np.arange(parts.sum())
        ids = torch.from_numpy(lists.values.to_numpy()[first : offsets[-1]].astype(np.int64))
        with torch.inference_mode():
            weights = None if self._weights is None else self._weights[ids]
            sums = embedding_bag(
                ids, self._vectors, torch.from_numpy(starts), mode="sum", per_sample_weights=weights
            ).numpy()
            totals = np.add.reduceat(sums, np.cumsum(parts) - parts, axis=0, dtype=np.float64)
            whole = (
                counts
                if weights is None
                else np.add.reduceat(weights.numpy(), offsets[:-1] - first, dtype=np.float64)
            )
            means = torch.from_numpy((totals / whole[:, None]).astype(np.float32))
            vectors = {column.name: finish(means, column).numpy() for column in self._columns}
        return lambda: vectors

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order."""
        return outputs_of(self._spec, self._columns, lambda column: column.dim or self.lookup.shape[1])

    def flops(self, lengths: IntArray) -> float:
        """Count the additions."""
        return float(self.lookup.shape[1]) * float(lengths.sum(dtype=np.int64))

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Average row by row in numpy, in float64, from the words themselves.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        table, counts = self.lookup.vectors(), self._counts
        weights = np.ones(len(table)) if counts is None else counts.weights(self._spec.weighting)
        unique = distinct(column)
        vectors = {
            name: np.full((len(unique.texts), dim), np.nan) for name, dim in dims_of(self.outputs()).items()
        }
        for place, text in enumerate(unique.texts):
            known = self.lookup.ids(text)
            for output in self._columns if known else ():
                mean = np.average(table[known].astype(np.float64), axis=0, weights=weights[known])
                vectors[output.name][place] = finished(mean, output)
        return f"numpy {np.__version__}", unique.to_rows(vectors, dims_of(self.outputs()))

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths, origin = dims_of(self.outputs()), self.lookup.table.origin
        told: dict[str, Any] = {
            "model": self._spec.model,
            "commit": origin.folder.revision if isinstance(origin, Matrix) else None,
            "model_type": "static",
            "kind": self.lookup.facts.kind,
            "words": len(self.lookup),
            "outputs": {
                column.name: {"dim": widths[column.name], "normalize": column.normalize}
                for column in self._columns
            },
        }
        return (
            told
            if self._spec.weights is None
            else told | {"weights": self._spec.weights, "weighting": self._spec.weighting}
        )

    def weight_bytes(self) -> int:
        """Give the size of the vectors, which processes of a node share."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """Hash the files of the table, {file: sha256}, and those of the weights of words."""
        hashes = self.lookup.table.fingerprint()
        if self._spec.weights is not None:
            hashes |= {"word weights": hash_weights(self._spec.weights), "weighting": self._spec.weighting}
        return hashes
