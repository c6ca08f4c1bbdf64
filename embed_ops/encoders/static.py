"""Texts to the means of their words' static vectors: GloVe, word2vec, fastText, or any array with its words.

Importing this module imports no torch: CPU workers look words up only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.encoder_spec import EncoderSpec, OutputSpec
from embed_ops.encoders.base import FloatArray, IntArray, Prepared, Rejected, no_vectors, not_loaded
from embed_ops.encoders.column import distinct
from embed_ops.encoders.tables import Table, open_table, words_beside
from embed_ops.encoders.tokenized import TOKENS, token_counts
from embed_ops.errors import ModelError
from embed_ops.schema import Reason

if TYPE_CHECKING:
    import torch

_TEXTS_AT_ONCE = 1024
_RUN = 32
"""Words that are summed in float32."""


class StaticEncoder:
    """The static family; implements `embed_ops.encoders.base.Encoder`.

    A text's vector is the mean of those of its words, as often as they stand in it. Words that the table does not have are left
    out and counted; a text without any other is a reject.

    Raises:
        ModelError: the file is no table of word vectors.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self._spec = spec
        self._columns = spec.outputs or (OutputSpec(),)
        self._vectors: torch.Tensor | None = None
        for column in self._columns:
            if column.dim is not None and column.dim > self._width:
                raise ModelError(
                    f"{spec.model}: output {column.name!r}: dim is {column.dim}, and the vectors have {self._width} dimensions"
                )

    @cached_property
    def _table(self) -> Table:
        return open_table(self._spec.model, lowercase=None if self._spec.lowercase == "auto" else bool(self._spec.lowercase))

    @cached_property
    def _width(self) -> int:
        return int(self._table.vectors().shape[1])

    @cached_property
    def _words(self) -> int:
        return len(self._table.vectors())

    @cached_property
    def _tokenizer(self) -> Any:
        return self._table.tokenizer()

    def prepare(self, column: pa.Array) -> Prepared:
        """Look up the words of a string column, each distinct text once; null rows, and those without a known word, become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>: rows of the table, without unknown words, of which `unknown` has the number.

        Raises:
            SourceError: the column is not text.
        """
        found = distinct(column)
        offsets: list[int] = [0]
        values: list[IntArray] = []
        unknown: list[int] = []
        place = np.full(len(found.texts) + 1, -1, np.int32)
        for start in range(0, len(found.texts), _TEXTS_AT_ONCE):
            for text, encoding in enumerate(self._tokenizer.encode_batch_fast(found.texts[start : start + _TEXTS_AT_ONCE]), start):
                ids = np.array(encoding.ids, np.int32)
                known = ids[ids < self._words]
                if len(known):
                    place[text] = len(unknown)
                    values.append(known)
                    offsets.append(offsets[-1] + len(known))
                    unknown.append(len(ids) - len(known))
        index = place[found.index]
        bad = np.flatnonzero((found.index >= 0) & (index < 0))
        why = "no word of the text is in the table of word vectors"
        rejects = [*found.rejects, *(Rejected(int(row), Reason.OUT_OF_VOCABULARY, why) for row in bad)]
        joined = np.concatenate(values) if values else np.zeros(0, np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(joined, pa.int32()))
        told = np.array(unknown, np.int64)
        return Prepared(pa.table({TOKENS: lists}), index, np.zeros(len(told), np.bool_), sorted(rejects, key=lambda item: item.row), told)

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
                f"{self._spec.model}: means of word vectors are computed on CPUs, in float32; leave dtype, compile and GPUs out"
            )
        self._vectors = torch.from_numpy(self._table.vectors())

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Take the means of a batch with the column `tokens`: each is summed in the order of its words, whatever stands beside it.

        Runs of words are summed in float32, the runs of a text in float64: a long text loses no digits.

        Returns:
            a function that gives {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        if self._vectors is None:
            raise not_loaded(self._spec.model)
        import torch
        from torch.nn.functional import embedding_bag

        from embed_ops.encoders.pooling import finish

        if batch.num_rows == 0:
            return no_vectors(self)
        lists = batch.column(TOKENS).combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        counts, first = np.diff(offsets), offsets[0]
        parts = -(-counts // _RUN)
        starts = np.repeat(offsets[:-1] - first - _RUN * (np.cumsum(parts) - parts), parts) + _RUN * np.arange(parts.sum())
        ids = torch.from_numpy(lists.values.to_numpy()[first : offsets[-1]].astype(np.int64))
        with torch.inference_mode():
            sums = embedding_bag(ids, self._vectors, torch.from_numpy(starts), mode="sum").numpy()
            totals = np.add.reduceat(sums, np.cumsum(parts) - parts, axis=0, dtype=np.float64)
            means = torch.from_numpy((totals / counts[:, None]).astype(np.float32))
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
        table, vocabulary = self._table.vectors(), self._tokenizer.get_vocab()
        result = {name: np.full((len(column), self.dim(name)), np.nan, np.float32) for name in self.outputs()}
        for row, text in enumerate(distinct_rows(column)):
            words = [] if text is None else self._tokenizer.encode(text).tokens
            rows = [table[place] for word in words if (place := vocabulary[word]) < self._words]
            for output in self._columns if rows else ():
                mean = np.mean(np.stack(rows).astype(np.float64), axis=0)[: output.dim]
                result[output.name][row] = mean / max(float(np.linalg.norm(mean)), 1e-12) if output.normalize else mean
        return f"numpy {np.__version__}", result

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        shapes = {column.name: {"dim": self.dim(column.name), "normalize": column.normalize} for column in self._columns}
        return {"model": self._spec.model, "commit": None, "model_type": "static", "words": self._words, "outputs": shapes}

    def weight_bytes(self) -> int:
        """Give the size of the vectors, which processes of a node share."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """Hash the table, and the words where they are in a file of their own: {file: sha256}."""
        file = self._table.file
        files = [file, words_beside(file)] if file.suffix == ".npy" else [file]
        hashes = {}
        for path in files:
            with path.open("rb") as stream:
                hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return hashes


def distinct_rows(column: pa.Array) -> list[str | None]:
    """Give the texts of a column row by row, None for a reject."""
    found = distinct(column)
    return [None if place < 0 else found.texts[place] for place in found.index.tolist()]
