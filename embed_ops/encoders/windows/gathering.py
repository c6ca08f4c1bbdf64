"""From the vectors of windows, and of pieces of them, to those of distinct texts and their parts.

Legend: W windows, in the order of their texts; P pieces, each a stretch of one window; N parts of
texts (words, tokens, chunks), of which one may have pieces in several windows; T distinct texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.base import FloatArray
from embed_ops.encoders.windows.parts import BEGIN, DOCUMENT, END, PART, TEXT_TOKENS
from embed_ops.numerics.ragged import Places, Ragged, offsets_of, offsets_of_equal


def read_lists(column: pa.ChunkedArray) -> Ragged:
    """Read a column of lists of whole numbers: a list of int64 for each row."""
    array = column.combine_chunks()
    values = array.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Ragged(values, offsets_of(np.diff(array.offsets.to_numpy())))


def of_texts(pooling: str, inputs: pa.Table, vectors: FloatArray) -> FloatArray:
    """Join the windows of each text: (W, dim) to (T, dim)."""
    windows = Ragged(vectors, offsets_of_equal(_documents(inputs)))  # T lists
    return _joined(pooling, windows, np.maximum(1, inputs.column(TEXT_TOKENS).to_numpy()))


def of_windows(inputs: pa.Table, vectors: FloatArray, documents: int) -> Ragged:
    """List the windows of each text: (W, dim) to T lists."""
    return Ragged(vectors, offsets_of(np.bincount(_documents(inputs), minlength=documents)))


def of_parts(kind: str, pooling: str, inputs: pa.Table, vectors: FloatArray, documents: int) -> Ragged:
    """Join the pieces of each part, and list the parts of each text: (P, dim) to T lists of N."""
    begin = read_lists(inputs.column(kind + BEGIN))  # W lists of P
    tokens = read_lists(inputs.column(kind + END)).values - begin.values  # (P,)
    part = read_lists(inputs.column(kind + PART)).values  # (P,)
    text = np.repeat(_documents(inputs), begin.counts)  # (P,)
    order = np.lexsort((part, text))  # (P,): the pieces of a part side by side
    pieces = Ragged(vectors[order], offsets_of_equal(text[order], part[order]))  # N lists
    text_of_part = Ragged(text[order], pieces.offsets).first()  # (N,)
    return Ragged(
        _joined(pooling, pieces, tokens[order]),
        offsets_of(np.bincount(text_of_part, minlength=documents)),
    )


def _documents(inputs: pa.Table) -> Places:
    """Give the text of each window: (W,) int64."""
    documents: Places = inputs.column(DOCUMENT).to_numpy().astype(np.int64)
    return documents


def _joined(pooling: str, pieces: Ragged, weights: npt.NDArray[Any]) -> FloatArray:
    """Make one vector of each list of pieces: (lists, dim); `weights`: (pieces,) tokens."""
    if len(pieces) == len(pieces.values):
        return pieces.values
    if pooling in ("first", "last", "max"):
        chosen: FloatArray = getattr(pieces, pooling)()
        return chosen
    return pieces.mean(weights)
