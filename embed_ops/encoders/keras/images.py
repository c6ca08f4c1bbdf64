"""What becomes of an image before a network of Keras sees it.

Decoded as images are everywhere here, resized by Pillow as `keras.utils.load_img` does, and
rescaled as `keras.applications.imagenet_utils.preprocess_input` does: a table of 256 values a
channel, which has the bits of its arithmetic. Needs no torch until `Images.to`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from embed_ops.encoders.base import IntArray, Prepared
from embed_ops.encoders.images.decoding import (
    Normalizer,
    black_image,
    blank_images,
    most_images,
    prepare_images,
)
from embed_ops.encoders.images.pixels import Preprocessing
from embed_ops.encoders.keras.structure import Structure
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import KerasEncoderSpec

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = 3
_EDGE = 16
"""A network counts as having a position for so many pixels squared: it sizes batches."""
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Of red, green and blue; the network is given blue, green and red."""
PREPROCESSINGS = ("tf", "caffe", "torch", "none")
_MODES = (
    '"tf" (from -1 to 1: MobileNet, MobileNetV2, InceptionV3, Xception, NASNet, ResNetV2), '
    '"caffe" (ResNet50, VGG16), "torch" (DenseNet), or "none" (EfficientNet, ConvNeXt and MobileNetV3, whose '
    "own layers do it; or with mean and scale)"
)


def levels_of(
    mode: str, mean: float | tuple[float, ...] | None, scale: float | tuple[float, ...] | None
) -> npt.NDArray[np.float32]:
    """Give what each of 256 values of a pixel becomes, (3, 256) float32: red, green and blue.

    Args:
        mode: of `preprocess_input`, or "none".
        mean: taken off, with "none".
        scale: multiplied by behind that.
    """
    values = np.tile(np.arange(256, dtype=np.float32)[:, np.newaxis], (1, _CHANNELS))
    if mode == "tf":
        values /= 127.5
        values -= 1.0
    elif mode == "torch":
        values /= 255.0
        values -= np.array(_TORCH_MEAN, np.float32)
        values /= np.array(_TORCH_STD, np.float32)
    elif mode == "caffe":
        values -= np.array(_CAFFE_MEAN, np.float32)
    if mean is not None:
        values -= np.array(mean, np.float32)
    if scale is not None:
        values *= np.array(scale, np.float32)
    return np.ascontiguousarray(values.T)


@dataclass(frozen=True)
class Steps(Preprocessing):
    """What a spec asks for, in the place of a processor's configuration."""

    mode: str = "none"
    shift: float | tuple[float, ...] | None = None
    gain: float | tuple[float, ...] | None = None

    def levels(self) -> npt.NDArray[np.float32]:
        """Give what each of 256 values of a pixel becomes: (3, 256) float32."""
        return levels_of(self.mode, self.shift, self.gain)


class Images:
    """The input of a network of images.

    Attributes:
        MODALITY: of sources.
        mode: the preprocessing; `size`: height and width in pixels.

    Raises:
        ModelError: the network takes other images, or nobody says what becomes of pixels.
    """

    MODALITY: ClassVar[str] = "image"

    def __init__(self, spec: KerasEncoderSpec, structure: Structure) -> None:
        self._spec = spec
        self.size = _size(spec, structure)
        self.mode = _mode(spec, structure)
        if self.mode != "none" and not structure.takes.dtype.startswith(("float", "bfloat")):
            raise ModelError(
                f"{structure.file}: takes pixels as {structure.takes.dtype}, and preprocessing "
                f'"{self.mode}" makes floats of them; give preprocessing = "none"'
            )
        self._steps = Steps(
            exact=self.size,
            shortest=None,
            crop=None,
            resample=_FILTERS[spec.interpolation],
            factor=None,
            mean=None,
            std=None,
            mode=self.mode,
            shift=spec.mean,
            gain=spec.scale,
        )

    def prepare(self, column: pa.Array) -> Prepared:
        """Decode and resize a column of images' bytes, each distinct one once.

        Raises:
            SourceError: the column holds no bytes.
        """
        return prepare_images(column, self._steps, self._spec.max_pixels, draft=False)

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Give the most images of a unit; `vector_bytes`: of all vectors of one."""
        return most_images(self._steps, vector_bytes, asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each image, all the same: (inputs,) int32."""
        height, width = self.size
        return np.full(len(inputs), max(1, (height // _EDGE) * (width // _EDGE)), np.int32)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black."""
        return blank_images(inputs, places, self._steps)

    def one(self) -> pa.Table:
        """Give the inputs of one black image."""
        return black_image(self._steps)

    def to(self, device: str) -> Callable[[pa.Table], Tensor]:
        """Give what turns inputs into what the network takes, (B, height, width, 3) float32."""
        import torch

        normalizer = Normalizer(self._steps, torch.device(device), torch.float32)
        flipped = self.mode == "caffe"

        def values(inputs: pa.Table) -> Tensor:
            channels = normalizer(inputs)
            return (channels.flip(1) if flipped else channels).permute(0, 2, 3, 1)

        return values

    def describe(self) -> dict[str, Any]:
        """Say what becomes of an image, for `run.json`."""
        steps = {"preprocessing": self.mode, "interpolation": self._spec.interpolation}
        own = {"mean": self._spec.mean, "scale": self._spec.scale}
        return {
            "pixels": list(self.size),
            **steps,
            **{key: told for key, told in own.items() if told is not None},
        }


def _size(spec: KerasEncoderSpec, structure: Structure) -> tuple[int, int]:
    """Give height and width, which the network tells, or else the spec."""
    file, shape = structure.file, structure.takes.shape
    asked = (spec.size, spec.size) if isinstance(spec.size, int) else spec.size
    own = tuple(edge for edge in shape[:2])
    if asked is None:
        if own[0] is None or own[1] is None:
            raise ModelError(
                f"{file}: takes images of any size; say by encoder.size to which they are resized, as "
                "size = 224"
            )
        return own[0], own[1]
    if any(edge is not None and edge != given for edge, given in zip(own, asked, strict=True)):
        raise ModelError(
            f"{file}: takes images of {own[0]} x {own[1]} pixels, and encoder.size is {asked[0]} x "
            f"{asked[1]}; leave size out"
        )
    return asked


def _mode(spec: KerasEncoderSpec, structure: Structure) -> str:
    """Give the preprocessing, which the spec says, or layers of the network itself do."""
    if spec.preprocessing is not None:
        return spec.preprocessing
    if spec.mean is not None or spec.scale is not None or structure.rescales is not None:
        return "none"
    like = structure.application
    named = f'; its {like[0]} is named like a network of keras.applications with "{like[1]}"' if like else ""
    raise ModelError(
        f"{structure.file}: the file does not say what became of pixels before the network saw them; give "
        f"encoder.preprocessing as it was trained: {_MODES}{named}"
    )
