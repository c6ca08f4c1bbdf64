"""Texts to the means of their words' static vectors.

GloVe, word2vec, fastText, or any array with its words.

Importing this module imports no torch: CPU workers look words up only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import (
    BoolArray,
    FloatArray,
    IntArray,
    Prepared,
    Rejected,
    no_vectors,
    not_loaded,
)
from embed_ops.encoders.static.matrices import Matrix
from embed_ops.encoders.static.tables import Facts, Table, open_table
from embed_ops.encoders.static.word_weights import WordCounts, hash_weights, read_counts
from embed_ops.encoders.text.tokens import TOKENS, distinct, token_counts
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import Places, offsets_of
from embed_ops.schema import Reason
from embed_ops.spec.encoder import OutputSpec, StaticEncoderSpec

if TYPE_CHECKING:
    import torch

_TEXTS_AT_ONCE = 1024
_RUN = 32
"""Words that are summed in float32."""


@dataclass(frozen=True)
class LookedUp:
    """Texts as rows of a table.

    Attributes:
        rows: one after the other, without what is unknown.
        counts: (texts,) rows of each; `unknown`: words that the table does not have.
        cut: (texts,) the tokenizer itself left the end out.
    """

    rows: IntArray
    counts: Places
    unknown: Places
    cut: BoolArray


class StaticEncoder:
    """The static family; implements `embed_ops.encoders.base.Encoder`.

    A text's vector is the mean of those of its words, as often as they stand in it, or weighted.
    Words that the table does not have are left out and counted; a text without any other is a
    reject.

    Raises:
        ModelError: there is no table of word vectors, and no model with one.
    """

    def __init__(self, spec: StaticEncoderSpec) -> None:
        self._spec = spec
        self._columns = spec.outputs or (OutputSpec(normalize=self._facts.normalize),)
        self._weights: torch.Tensor | None = None
        self._vectors: torch.Tensor | None = None
        for column in self._columns:
            if column.dim is not None and column.dim > self._width:
                raise ModelError(
                    f"{spec.model}: output {column.name!r}: dim is {column.dim}, and the vectors have "
                    f"{self._width} dimensions"
                )

    @cached_property
    def _table(self) -> Table:
        lowercase = None if self._spec.lowercase == "auto" else bool(self._spec.lowercase)
        return open_table(
            self._spec.model,
            lowercase=lowercase,
            revision=self._spec.revision,
            trust_remote_code=self._spec.trust_remote_code,
        )

    @cached_property
    def _facts(self) -> Facts:
        return self._table.facts()

    @cached_property
    def _width(self) -> int:
        return int(self._table.vectors().shape[1])

    @cached_property
    def words(self) -> int:
        """Rows of the table."""
        return len(self._table.vectors())

    @cached_property
    def _tokenizer(self) -> Any:
        return self._table.tokenizer()

    @cached_property
    def _truncates(self) -> bool:
        return self._tokenizer.truncation is not None

    @cached_property
    def _counts(self) -> WordCounts | None:
        if self._spec.weights is None:
            return None
        return read_counts(self._spec.weights, self.vocabulary(), self.tokenisation())

    def prepare(self, column: pa.Array) -> Prepared:
        """Look up the words of a string column, each distinct text once.

        Null rows, and those without a known word, become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>: rows of the table, without unknown words,
            of which `unknown` has the number.

        Raises:
            SourceError: the column is not text.
        """
        found = distinct(column)
        looked = self.look_up(found.texts)
        known = looked.counts > 0
        # Texts without a known word have no values, so those of the others stay where they are.
        place = np.append(np.where(known, np.cumsum(known) - 1, -1), -1).astype(np.int32)
        index = place[found.index]
        bad = np.flatnonzero((found.index >= 0) & (index < 0))
        why = "no word of the text is in the table of word vectors"
        rejects = [*found.rejects, *(Rejected(int(row), Reason.OUT_OF_VOCABULARY, why) for row in bad)]
        lists = pa.ListArray.from_arrays(
            pa.array(offsets_of(looked.counts[known]), pa.int32()), pa.array(looked.rows, pa.int32())
        )
        rejects.sort(key=lambda item: item.row)
        return Prepared(pa.table({TOKENS: lists}), index, looked.cut[known], rejects, looked.unknown[known])

    def look_up(self, texts: Sequence[str]) -> LookedUp:
        """Find the words of texts in the table, in order.

        Raises:
            ModelError: the tokenizer knows a word that has no vector.
        """
        facts, unknown_id = self._facts, -1 if self._facts.unknown is None else self._facts.unknown
        values: list[IntArray] = []
        counts, unknown = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        cut = np.zeros(len(texts), np.bool_)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = self._tokenizer.encode_batch_fast(
                list(texts[start : start + _TEXTS_AT_ONCE]), add_special_tokens=False
            )
            for text, encoding in enumerate(part, start):
                ids = np.array(encoding.ids, np.int32)
                fine = ids != unknown_id
                unknown[text] = len(ids) - np.count_nonzero(fine)
                kept = ids if facts.keeps_unknown else ids[fine]
                cut[text] = self._truncates and bool(encoding.overflowing)
                counts[text] = len(kept)
                values.append(kept)
        rows = np.concatenate(values) if values else np.zeros(0, np.int32)
        if len(rows) and int(rows.max()) >= self.words:
            raise ModelError(
                f"{self._spec.model}: the tokenizer gives token {int(rows.max())} of {self.words} "
                "vectors; they are not of one model"
            )
        return LookedUp(rows, counts, unknown, cut)

    def count(self, column: pa.Array | pa.ChunkedArray) -> WordCounts:
        """Count the words of a column, each row of the table as often as it stands there, for `fit-weights`."""
        found = distinct(column)
        looked = self.look_up(found.texts)
        times = np.bincount(found.index[found.index >= 0], minlength=len(found.texts)).astype(np.int64)
        of_text = np.repeat(np.arange(len(found.texts)), looked.counts)
        pairs = np.unique(of_text * np.int64(self.words) + looked.rows)
        # Sums of whole numbers in float64 are exact up to 2**53.
        counts = np.bincount(looked.rows, weights=times[of_text], minlength=self.words).astype(np.int64)
        documents = np.bincount(
            pairs % self.words, weights=times[pairs // self.words], minlength=self.words
        ).astype(np.int64)
        return WordCounts(counts, documents, int(times.sum()), int((looked.unknown * times).sum()))

    def vocabulary(self) -> list[str | None]:
        """Name the rows of the table: words, or tokens; None where the tokenizer has none."""
        return [self._tokenizer.id_to_token(row) for row in range(self.words)]

    def vectors(self) -> FloatArray:
        """Map the table: (words, dim) float32."""
        return self._table.vectors()

    def tokenisation(self) -> str:
        """Hash what decides the rows of a text."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def most_rows(self, modality: str, asked: int) -> int:
        """Take what is asked: units of text are cut by their bytes."""
        return asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Count the known words of each input, shape (inputs,) int32."""
        return token_counts(inputs)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Leave inputs as they are: a sum of vectors kills no process, and another sum would be no safer."""
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
        self._vectors = torch.from_numpy(self._table.vectors())
        if self._counts is not None:
            self._weights = torch.from_numpy(self._counts.weights(self._spec.weighting).astype(np.float32))

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
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
            found = {column.name: finish(means, column).numpy() for column in self._columns}
        return lambda: found

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: there is no such output.
        """
        for column in self._columns:
            if column.name == output:
                return column.dim or self._width
        raise ModelError(f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}")

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    def flops(self, lengths: IntArray) -> float:
        """Count the additions."""
        return float(self._width) * float(lengths.sum(dtype=np.int64))

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray]]:
        """Average row by row in numpy, in float64, from the words themselves.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        table, counts, unknown = self._table.vectors(), self._counts, self._facts.unknown
        weights = np.ones(self.words) if counts is None else counts.weights(self._spec.weighting)
        result = {name: np.full((len(column), self.dim(name)), np.nan, np.float32) for name in self.outputs()}
        for row, text in enumerate(distinct_rows(column)):
            ids = [] if text is None else self._tokenizer.encode(text, add_special_tokens=False).ids
            known = [place for place in ids if self._facts.keeps_unknown or place != unknown]
            for output in self._columns if known else ():
                mean = np.average(table[known].astype(np.float64), axis=0, weights=weights[known])[
                    : output.dim
                ]
                result[output.name][row] = (
                    mean / max(float(np.linalg.norm(mean)), 1e-12) if output.normalize else mean
                )
        return f"numpy {np.__version__}", result

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        shapes = {
            column.name: {"dim": self.dim(column.name), "normalize": column.normalize}
            for column in self._columns
        }
        origin = self._table.origin
        told: dict[str, Any] = {
            "model": self._spec.model,
            "commit": origin.folder.revision if isinstance(origin, Matrix) else None,
        }
        told |= {"model_type": "static", "kind": self._facts.kind, "words": self.words, "outputs": shapes}
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
        found = self._table.fingerprint()
        if self._spec.weights is not None:
            found |= {"word weights": hash_weights(self._spec.weights), "weighting": self._spec.weighting}
        return found


def distinct_rows(column: pa.Array) -> list[str | None]:
    """Give the texts of a column row by row, None for a reject."""
    found = distinct(column)
    return [None if place < 0 else found.texts[place] for place in found.index.tolist()]
