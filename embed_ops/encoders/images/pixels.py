"""From an image's bytes to the pixels that a model takes.

Decoded, resized and cropped as its processor configuration says.

Equal to transformers' processors to the bit, since both resize by Pillow; the last step, rescaling
and normalising, is a table of 256 values a channel (`levels`) that the replica looks up. Needs no
torch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from embed_ops.encoders.hub.files import read_json
from embed_ops.errors import ModelError
from embed_ops.schema import Reason

Pixels = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""What is decoded, whatever the file's name says."""
CONFIGURATIONS = ("preprocessor_config.json", "processor_config.json")
_DRAFT_FACTOR = 2
"""A JPEG is decoded at no less than so many times the size it is resized to."""
_SQUASHED_FROM = 384
"""Edge from which ConvNeXt's processor resizes without cropping."""


class Refused(Exception):
    """An image that can't be embedded: a reason and a sentence."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class _Defaults:
    """What a processor does where its configuration does not say."""

    size: int | Mapping[str, int]
    square: bool
    resample: int = Image.Resampling.BICUBIC
    crop: int | None = None
    on_white: bool = False
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_KNOWN = {
    "vit": _Defaults(224, True, Image.Resampling.BILINEAR),
    "deit": _Defaults(256, True, crop=224),
    "beit": _Defaults(224, True),
    "siglip": _Defaults(224, True, on_white=True),
    "clip": _Defaults(224, False, crop=224, on_white=True, **_CLIP),  # type: ignore[arg-type]
    "bit": _Defaults(224, False, crop=224, on_white=True, **_CLIP),  # type: ignore[arg-type]
    "convnext": _Defaults(384, False),
}


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
        found = self.crop or self.exact
        if found is None:
            raise ModelError(
                "the processor's configuration gives images of different sizes (no crop, no fixed size); "
                "set one of the two"
            )
        return found

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
        found: Pixels = np.asarray(image)
        return found if self.crop is None else _center(found, *self.crop)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Give (height, width) after resizing."""
        if self.exact is not None:
            return self.exact
        if self.shortest is None:
            return height, width
        longer = int(self.shortest * max(height, width) / min(height, width))
        return (longer, self.shortest) if width <= height else (self.shortest, longer)

    def levels(self) -> npt.NDArray[np.float32]:
        """Give what each of 256 values of a pixel becomes, (3, 256) float32, by the arithmetic of transformers' processors."""
        values = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
        rescaled = (
            values.astype(np.float32)
            if self.factor is None
            else (values.astype(np.float64) * self.factor).astype(np.float32)
        )
        if self.mean is None or self.std is None:
            return rescaled
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        found: npt.NDArray[np.float32] = ((rescaled.T - mean) / std).T.astype(np.float32)
        return found


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


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the processor configuration of a model folder.

    Raises:
        ModelError: there is none, or it asks for what is not supported.
    """
    config = next((found for name in CONFIGURATIONS if (found := _own(read_json(folder / name)))), None)
    if config is None:
        raise ModelError(f"{folder}: no {CONFIGURATIONS[0]}; save the model's image processor there too")
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    kind = (
        name.lower()
        .removesuffix("fast")
        .removesuffix("pil")
        .removesuffix("imageprocessor")
        .removesuffix("featureextractor")
    )
    if kind not in _KNOWN:
        raise ModelError(
            f"{folder}: image processor {name!r} is not supported; supported: {', '.join(_KNOWN)}"
        )
    known = _KNOWN[kind]
    size = _size(config.get("size", known.size), square=known.square)
    shortest = size.get("shortest_edge")
    exact = (size["height"], size["width"]) if "height" in size else None
    crop = None
    if config.get("do_center_crop", known.crop is not None):
        cut = _size(config.get("crop_size", known.crop or 224), square=True)
        crop = (cut["height"], cut["width"])
    if kind == "convnext" and shortest is not None:
        crop = None if shortest >= _SQUASHED_FROM else (shortest, shortest)
        exact = (shortest, shortest) if shortest >= _SQUASHED_FROM else None
        shortest = int(shortest / config.get("crop_pct", 224 / 256))
    if odd := set(size) - {"height", "width", "shortest_edge"}:
        raise ModelError(
            f"{folder}: the processor's size asks for {', '.join(sorted(odd))}, which is not supported"
        )
    if not config.get("do_resize", True):
        exact = shortest = None
    normalized = config.get("do_normalize", True)
    steps = Preprocessing(
        exact,
        shortest,
        crop,
        int(config.get("resample", known.resample)),
        float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else None,
        tuple(config.get("image_mean", known.mean)) if normalized else None,
        tuple(config.get("image_std", known.std)) if normalized else None,
        bool(config.get("do_convert_rgb", known.on_white)),
    )
    _ = steps.height
    return steps


def _own(config: dict[str, Any]) -> dict[str, Any]:
    """Give an image processor's part of a configuration: all of it, or a section."""
    if "image_processor" in config:
        return dict(config["image_processor"])
    return config if {"image_processor_type", "feature_extractor_type"} & set(config) else {}


def _size(asked: Any, *, square: bool) -> dict[str, int]:
    if isinstance(asked, int):
        return {"height": asked, "width": asked} if square else {"shortest_edge": asked}
    if isinstance(asked, list | tuple) and len(asked) == 2:
        return {"height": int(asked[0]), "width": int(asked[1])}
    return {name: int(value) for name, value in dict(asked).items() if value is not None}
