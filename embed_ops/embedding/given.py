"""What a user has in memory becomes a column, as a source would give it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.text.prompts import PROMPTED
from embed_ops.errors import SourceError
from embed_ops.sources.plan import Limits
from embed_ops.sources.tensors import ONE_LIST, tensor_type, value_bytes
from embed_ops.sources.types import is_listed, is_string

IMAGE, TEXT, WORDS, TENSOR = "image", "text", "words", "tensor"
_TYPES = {IMAGE: pa.binary(), TEXT: pa.string(), WORDS: pa.list_(pa.string())}
_PLURALS = {IMAGE: "images", TEXT: "texts", WORDS: "lists of words", TENSOR: "lists of numbers"}
_ROWS_IN_MESSAGE = 80


def column_of(values: Any, takes: Sequence[str]) -> tuple[str, pa.Array]:
    """Make a column of values, and say what it holds, as `source.modality` does.

    Args:
        values: a list, tuple, Arrow array, pandas or Polars series, column of a Hugging Face
            dataset, or numpy array, of texts; of lists of words; of images as bytes, paths, PIL
            images or uint8 arrays (height, width, channels); or of tensors as lists or arrays of
            numbers. None and NaN are null.
        takes: the modalities of the encoder. Text is a path only where it takes images alone.

    Raises:
        SourceError: the values are something else, or not alike.
    """
    if isinstance(values, str | bytes):
        raise SourceError(f"embed takes a list of rows, found one {type(values).__name__}: put it in a list")
    arrow = _as_arrow(values)
    if arrow is not None and takes != (IMAGE,):
        return _modality_of(arrow.type, takes), arrow
    rows = arrow.to_pylist() if arrow is not None else list(values)
    modality = _modality_of_rows(rows, takes)
    converted = [_image(row, place) for place, row in enumerate(rows)] if modality == IMAGE else rows
    converted = [None if _is_nan(row) else row for row in converted]
    if modality == TENSOR:
        # Arrow takes arrays of one axis alone.
        converted = [
            row.tolist() if isinstance(row, np.ndarray) and row.ndim > 1 else row for row in converted
        ]
    try:
        return modality, pa.array(converted, _TYPES.get(modality))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
        wrong = next((place for place, row in enumerate(converted) if not _fits(row, modality)), 0)
        raise SourceError(
            f"row {wrong} is {_shown(converted[wrong])}, and the rows before are {_PLURALS[modality]}: give "
            "rows of one kind"
        ) from error


def prompted(column: pa.Array, prompts: Sequence[str]) -> pa.Array:
    """Put the prompt of each row beside its text: a struct of both.

    Raises:
        SourceError: the column holds no texts, or prompts are not as many, or no texts.
    """
    if not pa.types.is_string(column.type):
        raise SourceError(f"a prompt stands before a text, and the rows are {column.type}: leave it out")
    if len(prompts) != len(column):
        raise SourceError(f"{len(prompts)} prompts for {len(column)} rows: give one for each, or one text")
    try:
        texts = pa.array(prompts, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(f"prompts are texts, or names of the model's: {error}") from error
    return pa.StructArray.from_arrays([texts, column], fields=list(PROMPTED), mask=column.is_null())


def slices_of(column: pa.Array, limits: Limits) -> Iterator[tuple[int, int]]:
    """Cut a column as a run cuts its units: (first, last) row of each."""
    sizes = _sizes(column)
    first = 0
    while first < len(column):
        rows = sizes[first : first + limits.rows]
        held = np.cumsum(rows)
        # The row that goes beyond the limit begins the next unit, unless it stands alone.
        count = max(1, int(np.searchsorted(held, limits.bytes, side="right")))
        yield first, first + min(count, len(rows))
        first += min(count, len(rows))


def _sizes(column: pa.Array) -> Any:
    """Count the bytes of each row, (rows,) int64."""
    if is_listed(column.type) and not pa.types.is_string(column.type.value_type):
        kind = tensor_type(column.type) or ONE_LIST
        return value_bytes(pa.chunked_array([column.cast(kind)]))
    if pa.types.is_list(column.type):
        words = column.fill_null([]) if column.null_count else column
        of_words = pc.fill_null(pc.binary_length(words.flatten()), 0).to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(of_words)])
        offsets = words.offsets.to_numpy()
        return ends[offsets[1:] - offsets[0]] - ends[offsets[:-1] - offsets[0]]
    return pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _as_arrow(values: Any) -> pa.Array | None:
    """Take what knows how to be Arrow as it is."""
    if hasattr(values, "to_arrow"):
        values = values.to_arrow()
    elif not isinstance(values, pa.Array | pa.ChunkedArray) and hasattr(values, "__arrow_c_stream__"):
        values = pa.chunked_array(values)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        return None
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    for wide, narrow in ((pa.types.is_large_string, pa.string()), (pa.types.is_large_binary, pa.binary())):
        if wide(values.type):
            values = values.cast(narrow)
    if pa.types.is_large_list(values.type) and is_string(values.type.value_type):
        values = values.cast(pa.list_(pa.string()))
    if str(values.type) == "string_view":
        values = values.cast(pa.string())
    return values


def _modality_of(kind: pa.DataType, takes: Sequence[str]) -> str:
    if pa.types.is_null(kind):
        return takes[0]
    for modality, wanted in _TYPES.items():
        if kind == wanted and modality in takes:
            return modality
    if TENSOR in takes and tensor_type(kind) is not None:
        return TENSOR
    raise SourceError(f"the column is {kind}, and the model takes {_plural(takes)}")


def _modality_of_rows(rows: Sequence[Any], takes: Sequence[str]) -> str:
    """Tell by the first row that is none of nothing."""
    for place, row in enumerate(rows):
        if row is None or _is_nan(row):
            continue
        if isinstance(row, str):
            modality = IMAGE if takes == (IMAGE,) else TEXT
        elif isinstance(row, list | tuple):
            modality = TENSOR if TENSOR in takes else WORDS
        elif isinstance(row, np.ndarray) and TENSOR in takes and not (IMAGE in takes and _is_picture(row)):
            modality = TENSOR
        else:
            modality = IMAGE
        if modality not in takes:
            raise SourceError(f"row {place} is {_shown(row)}, and the model takes {_plural(takes)}")
        return modality
    return takes[0]


def _fits(row: Any, modality: str) -> bool:
    wanted: dict[str, type | tuple[type, ...]] = {
        TEXT: str,
        IMAGE: bytes,
        WORDS: (list, tuple),
        TENSOR: (list, tuple, np.ndarray),
    }
    return row is None or isinstance(row, wanted[modality])


def _is_nan(row: Any) -> bool:
    return isinstance(row, float) and row != row


def _is_picture(row: npt.NDArray[Any]) -> bool:
    return row.dtype == np.uint8 and row.ndim in (2, 3)


def _image(row: Any, place: int) -> bytes | None:
    """Give an image as the bytes of a file; pixels become a PNG, which loses nothing."""
    if row is None or _is_nan(row) or isinstance(row, bytes):
        return row if isinstance(row, bytes) else None
    if isinstance(row, str | Path):
        try:
            return Path(row).read_bytes()
        except OSError as error:
            raise SourceError(f"row {place}: the image {row} can't be read: {error.strerror}") from error
    if isinstance(row, dict) and isinstance(row.get("bytes"), bytes):
        return bytes(row["bytes"])
    from PIL import Image

    if isinstance(row, np.ndarray):
        if not _is_picture(row):
            raise SourceError(
                f"row {place} is an array of {row.dtype} and shape {row.shape}: give uint8 of (height, "
                "width, channels)"
            )
        row = Image.fromarray(row)
    if not isinstance(row, Image.Image):
        raise SourceError(f"row {place} is {_shown(row)}: give bytes, a path, a PIL image or a uint8 array")
    file = io.BytesIO()
    row.save(file, format="PNG")
    return file.getvalue()


def _plural(takes: Sequence[str]) -> str:
    return " or ".join(_PLURALS[kind] for kind in takes)


def _shown(row: Any) -> str:
    return f"{type(row).__name__} {row!r}"[:_ROWS_IN_MESSAGE]
