"""A column of images to the pixels of its distinct images, and their batches to a model's input.

Legend: rows of the column, inputs = distinct images that can be decoded, in order of first
appearance.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.base import Prepared, Rejected
from embed_ops.encoders.images.opening import Refused
from embed_ops.encoders.images.pixels import Pixels, Preprocessing
from embed_ops.errors import SourceError
from embed_ops.schema import Reason

if TYPE_CHECKING:
    import torch

PIXELS = "pixels"
_UNIT_BYTES = 80 << 20
"""Most bytes of the pixels, or of the vectors, of a unit's rows: 512 images of 224 x 224 pixels
have 74 MiB."""


def is_image_column(column: pa.Array | pa.ChunkedArray) -> bool:
    """Tell images from texts by the type of their column."""
    return any(
        test(column.type) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    )


def prepare_images(column: pa.Array, steps: Preprocessing, most_pixels: int, *, draft: bool) -> Prepared:
    """Decode, resize and crop a column of images, each distinct one once.

    Null ones and those that can't be decoded become rejects.

    Raises:
        SourceError: the column holds no bytes.
    """
    if not is_image_column(column) and not pa.types.is_null(column.type):
        raise SourceError(f"the image column is {column.type}, expected bytes; choose an image column")
    encoded = column.cast(pa.large_binary()).dictionary_encode()
    words = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    pixels = np.empty((len(encoded.dictionary), steps.height, steps.width, 3), np.uint8)
    place = np.full(len(encoded.dictionary) + 1, -1, np.int32)  # one more entry: a null stays -1
    refused: dict[int, Refused] = {}
    count = 0
    for word, content in enumerate(encoded.dictionary):
        try:
            pixels[count] = steps.pixels(content.as_py(), most_pixels, draft=draft)
        except Refused as error:
            refused[word] = error
        else:
            place[word], count = count, count + 1
    rejects = []
    for row, word in enumerate(words.tolist()):
        if word < 0:
            rejects.append(Rejected(row, Reason.NULL, "the image is null"))
        elif word in refused:
            rejects.append(Rejected(row, refused[word].reason, refused[word].message))
    return Prepared(_table(pixels[:count]), place[words], np.zeros(count, np.bool_), rejects)


def accepted_images(column: pa.Array, prepared: Prepared) -> pa.Array:
    """Give a column of images' bytes with nulls for those that became rejects.

    Some of them would take a reference more memory than there is.
    """
    refused = np.zeros(len(column), np.bool_)
    refused[[reject.row for reject in prepared.rejects]] = True
    return pc.if_else(pa.array(refused), None, column)


def _table(pixels: Pixels) -> pa.Table:
    """Make the inputs' table of (inputs, height, width, 3) pixels."""
    kind = pa.binary(int(np.prod(pixels.shape[1:])))
    return pa.table(
        {
            PIXELS: pa.FixedSizeBinaryArray.from_buffers(
                kind, len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))]
            )
        }
    )


def _array(inputs: pa.Table, steps: Preprocessing) -> Pixels:
    """Read the pixels back: (inputs, height, width, 3), not to be written to."""
    column = inputs.column(PIXELS).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1 else column
    size = steps.height * steps.width * 3
    pixels: Pixels = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size, column.offset * size)
    return pixels.reshape(-1, steps.height, steps.width, 3)


def pixels_of(inputs: pa.Table, steps: Preprocessing) -> Pixels:
    """Give the pixels of inputs, (inputs, height, width, 3), not to be written to."""
    return _array(inputs, steps)


def black_image(steps: Preprocessing) -> pa.Table:
    """Make the inputs' table of one black image."""
    return _table(np.zeros((1, steps.height, steps.width, 3), np.uint8))


def blank_images(inputs: pa.Table, places: Collection[int], steps: Preprocessing) -> pa.Table:
    """Make some images black."""
    if not places:
        return inputs
    pixels = _array(inputs, steps).copy()
    pixels[list(places)] = 0
    return _table(pixels)


def most_images(steps: Preprocessing, vector_bytes: int, asked: int) -> int:
    """Give the most images of a unit, by their pixels and by the bytes of all their vectors."""
    return max(
        1, min(asked, _UNIT_BYTES // (steps.height * steps.width * 3), _UNIT_BYTES // max(1, vector_bytes))
    )


class Normalizer:
    """Turns pixels into what a model takes, on its device.

    A table of 256 values a channel, which has the processor's own bits.
    """

    def __init__(self, steps: Preprocessing, device: torch.device, dtype: torch.dtype) -> None:
        import torch

        self._steps = steps
        self._levels = torch.from_numpy(steps.levels().copy()).to(device, dtype)

    def __call__(self, inputs: pa.Table) -> torch.Tensor:
        """Give (inputs, 3, height, width)."""
        import torch

        from embed_ops.encoders.device import to_device

        # As they lie in memory, a channel's values apart: the rest is the device's work.
        pixels = to_device(torch.from_numpy(_array(inputs, self._steps)), self._levels.device)
        images, height, width, _ = pixels.shape
        normalized = torch.empty(
            (images, 3, height, width), dtype=self._levels.dtype, device=self._levels.device
        )
        for channel, levels in enumerate(self._levels):
            # Of the ways to look up a table, the fastest by far on a CPU.
            places = pixels[..., channel].int().view(-1)  # (images * height * width,)
            normalized[:, channel] = levels.index_select(0, places).view(images, height, width)
        return normalized
