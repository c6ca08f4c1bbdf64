"""The reference: the same SavedModel, called as its user would, one row at a time.

It is loaded once more, and its own code decodes, resizes and scales. It proves that batches, and
what stands before the model here, change nothing; the model itself is taken at its word.
"""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageOps

from embed_ops.encoders.base import FloatArray, dims_of, finished
from embed_ops.encoders.images.decoding import is_image_column
from embed_ops.encoders.tensorflow.model import TensorflowModel
from embed_ops.encoders.tensorflow.saved_model import FLOATS
from embed_ops.encoders.tensorflow.session import FRONT_SIGNATURE, runtime


def embed_alone(
    model: TensorflowModel, column: pa.Array, refused: Collection[int]
) -> tuple[str, dict[str, FloatArray]]:
    """Embed the rows of a column but those refused: {output: (rows, dim) float32}, NaN for these.

    Returns:
        the reference's name, and the vectors.
    """
    tf = runtime()
    loaded = tf.saved_model.load(str(model.saved.path))
    front = None if model.front is None else tf.saved_model.load(str(model.front.path))
    call = loaded.signatures[model.spec.signature]
    images = is_image_column(column)
    dims = dims_of(model.outputs())
    vectors = {name: np.full((len(column), dim), np.nan, np.float32) for name, dim in dims.items()}
    for row, value in enumerate(column):
        if row in refused:
            continue
        given = _pixels(value.as_py(), model) if images else value.as_py()
        # The axes of images may be open; a tensor may come as one list.
        axes = given.shape if isinstance(given, np.ndarray) else model.taken.axes
        tensor = tf.reshape(tf.constant(given, model.taken.tensor.dtype), (1, *axes))
        feeds: dict[str, Any] = {model.taken.name: tensor}
        if front is not None:
            between = front.signatures[FRONT_SIGNATURE](**feeds)
            names = list(model.signature.inputs)
            feeds = (
                {names[0]: next(iter(between.values()))}
                if len(names) == len(between) == 1
                else {name: between[name] for name in names}
            )
        tensors = call(**feeds)
        for wire in model.wires:
            alone = wire.shortened(tensors[wire.output].numpy(), model.saved.path)[0]
            vectors[wire.column.name][row] = finished(alone.astype(np.float64), wire.column)
    return f"tensorflow {tf.__version__}, one row at a time", vectors


def _pixels(content: bytes, model: TensorflowModel) -> npt.NDArray[Any]:
    """Open an image as a user would: upright, in RGB, on white; resized, and scaled."""
    with Image.open(BytesIO(content)) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        image = Image.new("RGB", whole.size, "white")
        image.paste(whole, mask=whole.getchannel("A"))
    size = model.steps.width, model.steps.height
    resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    if model.taken.tensor.dtype not in FLOATS:
        return pixels
    low, high = model.spec.value_range
    scaled: npt.NDArray[Any] = pixels.astype(np.float64) / 255 * (high - low) + low
    return scaled
