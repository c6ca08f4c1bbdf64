"""Turns a text column into its distinct texts. Needs no torch and no tokenizer.

Legend: rows = rows of the column, inputs = distinct texts in order of first appearance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.base import FloatArray, IntArray, Prepared, Rejected
from embed_ops.encoders.text.prompts import PROMPT, PROMPT_TOKENS, TEXT, Prompted
from embed_ops.encoders.text.tokenizer import Tokens
from embed_ops.errors import SourceError
from embed_ops.schema import Reason

NO_TOKEN = "the text has no token: the tokenizer makes none of it, and adds no special ones"


@dataclass(frozen=True)
class Distinct:
    """The distinct texts of a column, those with prompts of their own, or tuples of words.

    Attributes:
        texts: (inputs,) in order of first appearance.
        index: (rows,) int32, the text of each row, -1 for a reject.
        rejects: by row.
    """

    texts: list[Any]
    index: IntArray
    rejects: list[Rejected]

    def to_rows(
        self, vectors: Mapping[str, npt.NDArray[Any]], dims: Mapping[str, int]
    ) -> dict[str, FloatArray]:
        """Give each row the vectors of its text: {output: (rows, dim) float32}, NaN for rejects.

        Args:
            vectors: {output: (inputs, dim)}; may be empty where there are no texts.
            dims: {output: dim} of all outputs.
        """
        rows = {name: np.full((len(self.index), dim), np.nan, np.float32) for name, dim in dims.items()}
        valid = self.index >= 0
        for name, of_texts in vectors.items():
            rows[name][valid] = of_texts[self.index[valid]]
        return rows

    def without(self, bare: npt.NDArray[np.integer[Any]]) -> Distinct:
        """Take out the texts of these numbers, of which the tokenizer makes nothing.

        Their rows become rejects.
        """
        place = np.full(len(self.texts) + 1, -1, np.int32)  # one more entry: index -1 stays -1
        kept = np.setdiff1d(np.arange(len(self.texts)), bare)
        place[kept] = np.arange(len(kept))
        rows = np.flatnonzero(np.isin(self.index, bare))
        rejects = [*self.rejects, *(Rejected(int(row), Reason.NO_TOKEN, NO_TOKEN) for row in rows)]
        texts = [self.texts[number] for number in kept.tolist()]
        return Distinct(texts, place[self.index], sorted(rejects, key=lambda reject: reject.row))


def distinct(column: pa.Array | pa.ChunkedArray) -> Distinct:
    """Find the distinct texts of a column of strings, structs with prompts, or lists of words.

    Strings are string, large_string, string_view or a dictionary of them, chunked or not. Null rows
    and rows that are not UTF-8 become rejects, and lists with such words.

    Raises:
        SourceError: the column is not text at all.
    """
    if pa.types.is_struct(column.type):
        return _distinct_prompted(column)
    if pa.types.is_list(column.type) and (
        pa.types.is_string(column.type.value_type) or pa.types.is_null(column.type.value_type)
    ):
        return _distinct_lists(column)
    array = _as_large_string(column)
    encoded = array.dictionary_encode()
    words = encoded.dictionary
    index = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    rejects = [Rejected(int(row), Reason.NULL, "the text is null") for row in np.flatnonzero(index < 0)]
    try:
        # A Parquet file may hold any bytes in a string column, and Arrow does not look at them by
        # itself.
        words.validate(full=True)
    except pa.ArrowInvalid:
        return _without_invalid(words, index, rejects)
    return Distinct(words.to_pylist(), index, rejects)


def _distinct_prompted(column: pa.Array | pa.ChunkedArray) -> Distinct:
    """Find the distinct pairs of prompt and text."""
    prompts, texts = (distinct(pc.struct_field(column, name)) for name in (PROMPT, TEXT))
    whole = (prompts.index >= 0) & (texts.index >= 0)
    pairs = prompts.index.astype(np.int64) * len(texts.texts) + texts.index
    values, first, inverse = np.unique(pairs[whole], return_index=True, return_inverse=True)
    order = np.argsort(first)  # of the values, as they appear
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    index = np.full(len(column), -1, np.int32)
    index[whole] = place[inverse]
    refused = {reject.row: reject for reject in prompts.rejects}
    refused = {row: replace(item, message=f"its prompt: {item.message}") for row, item in refused.items()}
    refused |= {reject.row: reject for reject in texts.rejects}
    of = [divmod(pair, len(texts.texts)) for pair in values[order].tolist()]
    listed = [Prompted(prompts.texts[prompt], texts.texts[text]) for prompt, text in of]
    return Distinct(listed, index, [refused[row] for row in sorted(refused)])


def _distinct_lists(column: pa.Array | pa.ChunkedArray) -> Distinct:
    places: dict[tuple[str, ...], int] = {}
    index = np.full(len(column), -1, np.int32)
    rejects = []
    for row, scalar in enumerate(column):
        try:
            words = scalar.as_py()
        except UnicodeDecodeError as error:
            rejects.append(
                Rejected(
                    row,
                    Reason.INVALID_UTF8,
                    f"a word of the list is not UTF-8: {error.reason} at byte {error.start}",
                )
            )
            continue
        if words is None or None in words:
            rejects.append(
                Rejected(
                    row,
                    Reason.NULL,
                    "the list of words is null" if words is None else "a word of the list is null",
                )
            )
            continue
        index[row] = places.setdefault(tuple(words), len(places))
    return Distinct(list(places), index, rejects)


def _as_large_string(column: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([column])
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    ):
        raise SourceError(f"the text column is {kind}, expected string; choose a text column")
    # large_string first: joining the chunks of a string column fails above 2 GiB.
    column = column.cast(pa.large_string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.large_string())


def _without_invalid(words: pa.LargeStringArray, index: IntArray, rejects: list[Rejected]) -> Distinct:
    """Take the texts that are not UTF-8 out, and make rejects of the rows that use them."""
    texts: list[str] = []
    problems: dict[int, str] = {}
    place = np.full(len(words) + 1, -1, dtype=np.int32)  # one more entry: index -1, a null, stays -1
    for word, raw in enumerate(words.cast(pa.large_binary()).to_pylist()):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problems[word] = f"the text is not UTF-8: {error.reason} at byte {error.start}"
        else:
            place[word] = len(texts)
            texts.append(text)
    bad = np.flatnonzero(np.isin(index, list(problems)))
    rejects = rejects + [Rejected(int(row), Reason.INVALID_UTF8, problems[int(index[row])]) for row in bad]
    return Distinct(texts, place[index], sorted(rejects, key=lambda reject: reject.row))


TOKENS = "tokens"


def prepare_texts(
    column: pa.Array,
    encode: Callable[[Sequence[Any]], Tokens],
    prompt_lengths: Callable[[Sequence[Any]], pa.Array] | None = None,
) -> Prepared:
    """Tokenize a column of texts, each distinct one once; null and non-UTF-8 rows become rejects.

    Args:
        column: strings, or structs of a prompt and a text.
        encode: tokenizes texts, or such pairs.
        prompt_lengths: counts the tokens of their prompts, where the model asks for that.

    Returns:
        inputs with the column `tokens`, list<int32>, and of such pairs `prompt_tokens`, int32,
        where they are counted.

    Raises:
        SourceError: the column is not text.
    """
    unique = distinct(column)
    if not unique.texts:
        empty = pa.table({TOKENS: pa.array([], pa.list_(pa.int32()))})
        return Prepared(empty, unique.index, np.zeros(0, np.bool_), unique.rejects)
    tokens = encode(unique.texts)
    some = np.diff(tokens.offsets) > 0
    lists = pa.ListArray.from_arrays(pa.array(tokens.offsets), pa.array(tokens.values))
    if not some.all():
        unique, lists = unique.without(np.flatnonzero(~some)), lists.filter(pa.array(some))
    inputs = pa.table({TOKENS: lists})
    if prompt_lengths is not None and isinstance(unique.texts[0], Prompted):
        inputs = inputs.append_column(PROMPT_TOKENS, prompt_lengths(unique.texts))
    return Prepared(inputs, unique.index, tokens.truncated[some], unique.rejects)


def most_texts(modality: str, asked: int) -> int:
    """Take as many rows as are asked for: units of text are cut by their bytes."""
    return asked


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
