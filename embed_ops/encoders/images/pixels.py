"""From an image's bytes to the pixels that a model takes.

Decoded, resized and cropped as its processor configuration says.

Equal to transformers' processors to the bit, since both resize by Pillow; the last step, rescaling
and normalising, is a table of 256 values a channel (`levels`) that the replica looks up. Needs no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.images.opening import Refused, open_image, to_rgb
from embed_ops.errors import ModelError
from embed_ops.schema import Reason

Pixels = npt.NDArray[np.uint8]
_DRAFT_FACTOR = 2
"""A JPEG is decoded at no less than so many times the size it is resized to."""


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
    """

    exact: tuple[int, int] | None
    shortest: int | None
    crop: tuple[int, int] | None
    resample: int
    factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

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
        self._check_target(image.height, image.width, most_pixels)
        edge = max(self.exact) if self.exact is not None else self.shortest
        if draft and edge is not None and image.format in ("JPEG", "MPO"):
            # Whether it is turned is not known yet: both sides keep what the larger one needs.
            image.draft("RGB", (_DRAFT_FACTOR * edge, _DRAFT_FACTOR * edge))
        image = to_rgb(image, most_pixels)
        size = self._check_target(image.height, image.width, most_pixels)
        if size != (image.height, image.width):
            image = image.resize((size[1], size[0]), resample=self.resample)
        pixels: Pixels = np.asarray(image)
        return pixels if self.crop is None else _center(pixels, *self.crop)

    def _check_target(self, height: int, width: int, most_pixels: int) -> tuple[int, int]:
        """Give (height, width) after resizing; refuse what is so narrow that these are large."""
        target = self._target(height, width)
        if target[0] * target[1] > most_pixels:
            raise Refused(
                Reason.TOO_LARGE, f"{width} x {height} pixels would be resized to {target[1]} x {target[0]}"
            )
        return target

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
