"""Column names, reject reasons and footer keys that several parts must agree on.

Legend for shapes: rows = rows of a unit, inputs = distinct inputs of a unit, dim = width of a
vector.
"""

from __future__ import annotations

import enum

import pyarrow as pa

GRAPH = "graph"


SOURCE = "_source"
"""Relative path of the source file, dictionary-encoded."""
ROW = "_row"
"""Position in the source file: row index (Parquet), byte offset (JSONL, text, tar), record index
(CSV), 0 (an image file)."""
REASON = "reason"
MESSAGE = "message"
CONTENT = "_content"
"""What is embedded, inside a unit's table: the text, or an image's bytes."""
INPUT = "_input"
"""Index of a row's distinct input, inside a unit's table."""
RESERVED = frozenset({SOURCE, ROW, REASON, MESSAGE, CONTENT, INPUT})
"""Names that no kept column and no output may have."""

FOOTER_KEY = b"embed_ops"
"""Key of the JSON that every data and reject file carries in its Parquet footer."""

SOURCE_TYPE = pa.dictionary(pa.int32(), pa.string())

VECTOR_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "uint8": pa.uint8()}


class Reason(enum.StrEnum):
    """Why a row is a reject: a stable code, kept in the `reason` column."""

    NULL = "null"
    """The text, the image, the tensor or a number in it, or a node's id or features are null, or a
    field of the template or the prompt is."""
    INVALID_UTF8 = "invalid_utf8"
    """The bytes are not UTF-8."""
    MALFORMED = "malformed"
    """The record can't be parsed, or has the wrong number of fields."""
    UNDECODABLE = "undecodable"
    """The bytes are no image that can be decoded."""
    MISSING = "missing"
    """The file that the row names is not there, or the row may not name it."""
    UNREACHABLE = "unreachable"
    """The file that the row names can't be fetched, and others can."""
    WRONG_TYPE = "wrong_type"
    """The text, or a kept column, is not of the type that the column has elsewhere, or a number of
    a tensor not of the model's type."""
    WRONG_SHAPE = "wrong_shape"
    """The tensor has other lengths than the model takes."""
    TOO_LARGE = "too_large"
    """The record is larger than a reader may hold (64 MiB), the image than `max_pixels`, or memory
    is too small for it alone."""
    UNREADABLE = "unreadable"
    """File-level: from this row on the file can't be decoded; the message says how many rows are
    lost, if known."""
    NON_FINITE = "non_finite"
    """The model gave NaN or infinity, or a tensor or a node's features hold them."""
    DUPLICATE = "duplicate"
    """An earlier row has the same node id."""
    OUT_OF_VOCABULARY = "out_of_vocabulary"
    """No word of the text is in the table of word vectors."""
    NO_TOKEN = "no_token"
    """The tokenizer makes no token of the text, and adds no special ones: no model could see it."""
    UNKNOWN_PROMPT = "unknown_prompt"
    """The row names a prompt that `encoder.prompts` does not have."""
    CRASHED = "crashed"
    """The process that embeds this row dies, each time."""
    HUNG = "hung"
    """Embedding this row does not come to an end."""


FILE_LEVEL = frozenset({Reason.UNREADABLE})
"""Reasons that stand for the rest of a file and not for one row."""
