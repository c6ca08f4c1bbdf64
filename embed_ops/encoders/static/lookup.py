"""The words of texts as rows of a table of word vectors.

Importing this module imports no torch: CPU workers look words up only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import BoolArray, FloatArray, IntArray
from embed_ops.encoders.static.tables import Table, TableFacts, open_table
from embed_ops.encoders.static.word_weights import WordCounts
from embed_ops.encoders.text.tokens import distinct
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import Places
from embed_ops.spec.encoder import StaticEncoderSpec

_TEXTS_AT_ONCE = 1024


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


class Lookup:
    """A table of word vectors and the tokenizer of its words; opened when it is first needed.

    Raises:
        ModelError: there is no table of word vectors, and no model with one.
    """

    def __init__(self, spec: StaticEncoderSpec) -> None:
        self._spec, self._model = spec, spec.model

    @cached_property
    def table(self) -> Table:
        """The table on this node."""
        lowercase = None if self._spec.lowercase == "auto" else bool(self._spec.lowercase)
        return open_table(
            self._spec.model,
            lowercase=lowercase,
            revision=self._spec.revision,
            trust_remote_code=self._spec.trust_remote_code,
        )

    @cached_property
    def facts(self) -> TableFacts:
        """What decides a mean beside the vectors."""
        return self.table.facts()

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Words and dimensions of the table."""
        words, dim = self.table.vectors().shape
        return words, dim

    def __len__(self) -> int:
        """Count the rows of the table."""
        return self.shape[0]

    @cached_property
    def _tokenizer(self) -> Any:
        return self.table.tokenizer()

    @cached_property
    def _truncates(self) -> bool:
        return self._tokenizer.truncation is not None

    def ids(self, text: str) -> list[int]:
        """Give the rows of one text, that of unknown words only where it has a vector."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [row for row in ids if self.facts.keeps_unknown or row != self.facts.unknown]

    def look_up(self, texts: Sequence[str]) -> LookedUp:
        """Find the words of texts in the table, in order.

        Raises:
            ModelError: the tokenizer knows a word that has no vector.
        """
        facts, unknown_id = self.facts, -1 if self.facts.unknown is None else self.facts.unknown
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
        if len(rows) and int(rows.max()) >= len(self):
            raise ModelError(
                f"{self._model}: the tokenizer gives token {int(rows.max())} of {len(self)} "
                "vectors; they are not of one model"
            )
        return LookedUp(rows, counts, unknown, cut)

    def count(self, column: pa.Array | pa.ChunkedArray) -> WordCounts:
        """Count how often each row of the table stands in a column, for `fit-weights`."""
        unique = distinct(column)
        looked = self.look_up(unique.texts)
        times = np.bincount(unique.index[unique.index >= 0], minlength=len(unique.texts)).astype(np.int64)
        of_text = np.repeat(np.arange(len(unique.texts)), looked.counts)
        pairs = np.unique(of_text * np.int64(len(self)) + looked.rows)
        # Sums of whole numbers in float64 are exact up to 2**53.
        counts = np.bincount(looked.rows, weights=times[of_text], minlength=len(self)).astype(np.int64)
        documents = np.bincount(
            pairs % len(self), weights=times[pairs // len(self)], minlength=len(self)
        ).astype(np.int64)
        return WordCounts(counts, documents, int(times.sum()), int((looked.unknown * times).sum()))

    def vocabulary(self) -> list[str | None]:
        """Name the rows of the table: words, or tokens; None where the tokenizer has none."""
        return [self._tokenizer.id_to_token(row) for row in range(len(self))]

    def vectors(self) -> FloatArray:
        """Map the table: (words, dim) float32."""
        return self.table.vectors()

    def tokenisation(self) -> str:
        """Hash what decides the rows of a text."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
