"""A column of texts to the tokens of its distinct texts, as all families of texts use them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import IntArray, Prepared
from embed_ops.encoders.column import distinct
from embed_ops.encoders.tokenizer import Tokens

TOKENS = "tokens"


def prepare_texts(column: pa.Array, encode: Callable[[Sequence[str]], Tokens]) -> Prepared:
    """Tokenize a string column, each distinct text once; null and non-UTF-8 rows become rejects.

    Returns:
        inputs with the column `tokens`, list<int32>.

    Raises:
        SourceError: the column is not text.
    """
    found = distinct(column)
    if not found.texts:
        empty = pa.table({TOKENS: pa.array([], pa.list_(pa.int32()))})
        return Prepared(empty, found.index, np.zeros(0, np.bool_), found.rejects)
    tokens = encode(found.texts)
    lists = pa.ListArray.from_arrays(pa.array(tokens.offsets), pa.array(tokens.values))
    return Prepared(pa.table({TOKENS: lists}), found.index, tokens.truncated, found.rejects)


def token_counts(inputs: pa.Table) -> IntArray:
    """Count the tokens of each input, shape (inputs,) int32."""
    parts = [np.diff(chunk.offsets.to_numpy(zero_copy_only=False)) for chunk in inputs.column(TOKENS).chunks]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)


def blank_tokens(inputs: pa.Table, places: Collection[int]) -> pa.Table:
    """Replace the tokens of some inputs, special ones too, by the first of the vocabulary."""
    column = inputs.column(TOKENS).combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).copy()
    offsets = np.concatenate([[0], np.cumsum(token_counts(inputs))]).astype(np.int32)
    for place in places:
        values[offsets[place] : offsets[place + 1]] = 0
    blank = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))
    return inputs.set_column(inputs.schema.get_field_index(TOKENS), TOKENS, blank)
