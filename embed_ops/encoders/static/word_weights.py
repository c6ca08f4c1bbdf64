"""Weights of words: what `fit-weights` has counted in a corpus, and what it makes of a word.

    sif      a / (a + p(w)), p the word's share of all words, a = 0.001 (Arora, Liang and Ma, 2017)
    tfidf    ln((1 + n) / (1 + df)) + 1, as scikit-learn's TfidfVectorizer has it; a word that
             stands twice in a text counts twice

A word that the corpus did not have has frequency 0: 1 by sif, ln(1 + n) + 1 by tfidf.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.errors import ModelError

A = 1e-3
FACTS, WORDS = "weights.json", "words.parquet"
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WordCounts:
    """How often each row of a table stands in a corpus.

    Attributes:
        counts: (rows,) how often.
        documents: (rows,) in how many texts.
        texts: of the corpus.
        unknown: words that are not in the table.
    """

    counts: Counts
    documents: Counts
    texts: int
    unknown: int

    @property
    def sif(self) -> Floats:
        """Weights by smooth inverse frequency, (rows,)."""
        return A / (A + self.counts / max(1, int(self.counts.sum())))

    @property
    def idf(self) -> Floats:
        """Weights by inverse document frequency, (rows,)."""
        return np.log((1 + self.texts) / (1 + self.documents)) + 1

    def weights(self, weighting: str) -> Floats:
        """Give the weights of a spec's `weighting`."""
        return self.sif if weighting == "sif" else self.idf

    def table(self, words: Sequence[str | None]) -> pa.Table:
        """List the words that stand in the corpus: word, count, documents, sif, idf."""
        rows = np.flatnonzero(self.counts)
        named = pa.array([words[row] for row in rows.tolist()], pa.string())
        numbers = {"count": self.counts, "documents": self.documents, "sif": self.sif, "idf": self.idf}
        return pa.table({"word": named, **{name: values[rows] for name, values in numbers.items()}})


def read_counts(folder: str, words: Sequence[str | None], tokenisation: str | None) -> WordCounts:
    """Read what `fit-weights` has written, by row of a table.

    Args:
        folder: of the weights.
        words: of the table's rows.
        tokenisation: what the counts must be of; None for any.

    Raises:
        ModelError: there are no weights, they can't be read, or another tokenisation was counted.
    """
    place = Path(folder).expanduser()
    try:
        told: dict[str, Any] = json.loads((place / FACTS).read_text(encoding="utf-8"))
        table = pq.read_table(place / WORDS)
        texts, unknown, of = int(told["texts"]), int(told["unknown"]), str(told["tokenisation"])
        counted = {name: table.column(name).to_pylist() for name in ("word", "count", "documents")}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ModelError(
            f"{place}: no weights that can be read ({error}); give the folder that `embed-ops "
            "fit-weights` has written"
        ) from error
    if tokenisation is not None and of != tokenisation:
        raise ModelError(
            f"{place}: fitted over another tokenisation (of {told.get('model')}): another vocabulary or "
            "tokenizer, or lowercase differs; "
            "run `embed-ops fit-weights` with this model"
        )
    rows = {word: row for row, word in enumerate(words)}
    counts, documents = np.zeros(len(words), np.int64), np.zeros(len(words), np.int64)
    for word, count, texts_with in zip(counted["word"], counted["count"], counted["documents"], strict=True):
        if word in rows:
            counts[rows[word]], documents[rows[word]] = count, texts_with
    return WordCounts(counts, documents, texts, unknown)


def hash_weights(folder: str) -> str:
    """Hash the files of weights.

    Raises:
        ModelError: there are none.
    """
    digest = hashlib.sha256()
    for name in (FACTS, WORDS):
        file = Path(folder).expanduser() / name
        if not file.is_file():
            raise ModelError(
                f"encoder.weights {folder}: has no {name}; give the folder that `embed-ops fit-weights` "
                "has written"
            )
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
