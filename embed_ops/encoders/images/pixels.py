"""From an image's bytes to the pixels that a model takes.

Decoded, resized and cropped as its processor configuration says.

Equal to transformers' processors to the bit, since both resize by Pillow; the last step, rescaling
and normalising, is a table of 256 values a channel (`levels`) that the replica looks up. Needs no
torch.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from embed_ops.errors import ModelError
from embed_ops.schema import Reason

Pixels = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""What is decoded, whatever the file's name says."""
_DRAFT_FACTOR = 2
"""A JPEG is decoded at no less than so many times the size it is resized to."""


class Refused(Exception):
    """An image that can't be embedded: a reason and a sentence."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class Preprocessing:
    """What a processor configuration asks for.

    Attributes:
        exact: (height, width) to resize to.
        shortest: edge to resize the shorter side to, where `exact` is None; None too: not resized.
        crop: (height, width) cut out of the middle.
        resample: Pillow's filter.
        factor: of rescaling, None: none.
        mean, std: of normalising, a value a channel; None: none.
        on_white: a colour that stands for transparency, as palettes and PNGs may have one, becomes
            white.
    """

    exact: tuple[int, int] | None
    shortest: int | None
    crop: tuple[int, int] | None
    resample: int
    factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    on_white: bool

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self._size()[0]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self._size()[1]

    def _size(self) -> tuple[int, int]:
        size = self.crop or self.exact
        if size is None:
            raise ModelError(
                "the processor's configuration gives images of different sizes (no crop, no fixed size); "
                "set one of the two"
            )
        return size

    def pixels(self, content: bytes, most_pixels: int, *, draft: bool = False) -> Pixels:
        """Give the pixels of an image, (height, width, 3).

        Args:
            content: of the file.
            most_pixels: a larger image is refused.
            draft: let the JPEG decoder shrink it first.

        Raises:
            Refused: it can't be decoded, or is too large.
        """
        image = open_image(content, most_pixels)
        target = self._target(image.height, image.width)
        if target[0] * target[1] > most_pixels:
            raise Refused(
                Reason.TOO_LARGE,
                f"{image.width} x {image.height} pixels would be resized to {target[1]} x {target[0]}",
            )
        edge = max(self.exact) if self.exact is not None else self.shortest
        if draft and edge is not None and image.format in ("JPEG", "MPO"):
            # Whether it is turned is not known yet: both sides keep what the larger one needs.
            image.draft("RGB", (_DRAFT_FACTOR * edge, _DRAFT_FACTOR * edge))
        image = to_rgb(image)
        if self.on_white and image.info.get("transparency") is not None:
            image = Image.alpha_composite(
                Image.new("RGBA", image.size, "white"), image.convert("RGBA")
            ).convert("RGB")
        size = self._target(image.height, image.width)
        if size != (image.height, image.width):
            image = image.resize((size[1], size[0]), resample=self.resample)
        pixels: Pixels = np.asarray(image)
        return pixels if self.crop is None else _center(pixels, *self.crop)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Give (height, width) after resizing."""
        if self.exact is not None:
            return self.exact
        if self.shortest is None:
            return height, width
        longer = int(self.shortest * max(height, width) / min(height, width))
        return (longer, self.shortest) if width <= height else (self.shortest, longer)

    def levels(self) -> npt.NDArray[np.float32]:
        """Give what each of 256 values of a pixel becomes: (3, 256) float32.

        By the arithmetic of transformers' processors.
        """
        values = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
        rescaled = (
            values.astype(np.float32)
            if self.factor is None
            else (values.astype(np.float64) * self.factor).astype(np.float32)
        )
        if self.mean is None or self.std is None:
            return rescaled
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        levels: npt.NDArray[np.float32] = ((rescaled.T - mean) / std).T.astype(np.float32)
        return levels


def open_image(content: bytes, most_pixels: int) -> Image.Image:
    """Read the header of an image; pixels are not decoded yet.

    Raises:
        Refused: it is no image of a known format, or has too many pixels.
    """
    if not content:
        raise Refused(Reason.UNDECODABLE, "the image has no bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below, and refuses by itself what is twice as
            # large.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused(Reason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise Refused(Reason.UNDECODABLE, f"no image of a known format ({', '.join(FORMATS)})") from error
    except MemoryError:
        raise
    except Exception as error:  # readers of headers fail in many ways
        raise Refused(Reason.UNDECODABLE, f"{type(error).__name__}: {error}") from error
    if image.width * image.height > most_pixels:
        raise Refused(
            Reason.TOO_LARGE,
            f"{image.width} x {image.height} pixels are more than encoder.max_pixels = {most_pixels}",
        )
    if image.width == 0 or image.height == 0:
        raise Refused(Reason.UNDECODABLE, f"the image has {image.width} x {image.height} pixels")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame, upright, in RGB.

    Alpha is dropped, and of 16 bits the upper eight are kept.

    Raises:
        Refused: it can't be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            # Both this and `convert` would copy a photograph that has nothing to change.
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):
                return _of_16_bits(image)
            return image if image.mode == "RGB" else image.convert("RGB")
    except (MemoryError, Refused):
        raise
    except Exception as error:  # decoders fail in many ways
        raise Refused(Reason.UNDECODABLE, f"{type(error).__name__}: {error}") from error


def _of_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion would make white of every value above 255.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise Refused(
            Reason.UNDECODABLE,
            f"its values reach from {values.min()} to {values.max()}: only 8 and 16 bits are known",
        )
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _center(image: Pixels, height: int, width: int) -> Pixels:
    """Cut out the middle, with zeros around where the image is smaller."""
    above, left = image.shape[0] - height, image.shape[1] - width
    if above < 0 or left < 0:
        whole = np.zeros((max(height, image.shape[0]), max(width, image.shape[1]), 3), np.uint8)
        top, side = -(-(whole.shape[0] - image.shape[0]) // 2), -(-(whole.shape[1] - image.shape[1]) // 2)
        whole[top : top + image.shape[0], side : side + image.shape[1]] = image
        # As transformers counts: the place in the image, moved by what was put around it.
        first, start = above // 2 + top, left // 2 + side
        return whole[max(0, first) : first + height, max(0, start) : start + width]
    return image[above // 2 : above // 2 + height, left // 2 : left // 2 + width]
