"""The reference: Keras called plainly, one row at a time, of an image from its file on.

`keras.utils.load_img` opens and resizes, `keras.applications.imagenet_utils.preprocess_input`
rescales, and `Model.predict` runs a network that ends with the layer that is asked for.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.images.reference import each_image
from embed_ops.encoders.keras.images import Images
from embed_ops.encoders.keras.model import KerasModel
from embed_ops.encoders.keras.network import WHOLE, on_device, runtime
from embed_ops.encoders.keras.taps import Tap
from embed_ops.spec.encoder import KerasEncoderSpec

Vector = npt.NDArray[np.float64]


def embed_alone(model: KerasModel, column: pa.Array, device: str) -> dict[str, FloatArray]:
    """Embed a column of images' bytes, or of lists of numbers: {output: (rows, dim) float32}.

    NaN where a row is null.
    """
    with on_device(device):
        whole = model.whole(device)
        networks = {each.path: _ending_at(whole, each.path) for each in model.taps}

        def embed(values: npt.NDArray[Any]) -> dict[str, Vector]:
            rows = values[np.newaxis]
            given = {path: network.predict(rows, verbose=0)[0] for path, network in networks.items()}
            return {each.column.name: _vector(each, given[each.path]) for each in model.taps}

        taken = model.input
        if isinstance(taken, Images):
            return each_image(column, lambda image: embed(_values(image, taken, model.spec)))
        arrays = [
            None if row is None else np.array(row, taken.taken.dtype).reshape(taken.taken.shape)
            for row in column.to_pylist()
        ]
        nothing = {each.column.name: np.full(each.width, np.nan) for each in model.taps}
        rows = [nothing if array is None else embed(array) for array in arrays]
        return {name: np.stack([row[name] for row in rows]).astype(np.float32) for name in nothing if rows}


def _values(image: Image.Image, taken: Images, spec: KerasEncoderSpec) -> npt.NDArray[np.float32]:
    """Make what the network takes of an upright image: (height, width, 3)."""
    keras = runtime()
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        shown = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.paste(shown, mask=shown)
        image = white.convert("RGB")
    file = BytesIO()
    image.convert("RGB").save(file, "PNG")
    pixels = keras.utils.img_to_array(
        keras.utils.load_img(file, target_size=taken.size, interpolation=spec.interpolation),
        data_format="channels_last",
        dtype="float32",
    )
    return _rescaled(keras, pixels, taken.mode, spec)


def _rescaled(keras: Any, pixels: Any, mode: str, spec: KerasEncoderSpec) -> npt.NDArray[np.float32]:
    if mode != "none":
        rescaled: npt.NDArray[np.float32] = keras.applications.imagenet_utils.preprocess_input(
            pixels, data_format="channels_last", mode=mode
        )
        return rescaled
    mean = np.array(0.0 if spec.mean is None else spec.mean, np.float32)
    scale = np.array(1.0 if spec.scale is None else spec.scale, np.float32)
    own: npt.NDArray[np.float32] = (pixels - mean) * scale
    return own


def _ending_at(model: Any, path: str) -> Any:
    """Make the network that ends with a layer, also with one of a network inside."""
    if path == WHOLE:
        return model
    keras = runtime()
    name, _, inner = path.partition("/")
    layer = model.get_layer(name)
    if not isinstance(layer, keras.Model):
        return keras.Model(model.inputs, layer.output)
    # Its own `input` and `output` are those of its layers; these are what it is given and gives.
    used = layer._inbound_nodes[0]
    given = _ending_at(layer, inner)(used.input_tensors[0]) if inner else used.output_tensors[0]
    return keras.Model(model.inputs, given)


def _vector(each: Tap, tensor: Any) -> Vector:
    hidden = np.asarray(tensor, np.float64)
    if each.column.pooling != "auto":
        positions = hidden.reshape(-1, hidden.shape[-1])
        hidden = positions.max(axis=0) if each.column.pooling == "max" else positions.mean(axis=0)
    return finished(hidden, each.column)
