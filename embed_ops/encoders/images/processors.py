"""The processor configuration of a model of images: what it asks for, as `Preprocessing`.

What a configuration leaves out is as transformers' processor of that name has it; a null switches a
step off, and is no value for one that is on. Keys that a processor does not know are nothing to
transformers either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.pixels import Preprocessing
from embed_ops.errors import ModelError

CONFIGURATION, NESTED = "preprocessor_config.json", "processor_config.json"
_SQUASHED_FROM = 384
"""Edge from which ConvNeXt's processor resizes without cropping."""
_CHANNELS = 3


@dataclass(frozen=True)
class _Defaults:
    """What a processor does where its configuration does not say.

    `square` tells what a size of one number means.
    """

    size: int | Mapping[str, int]
    square: bool
    resample: int = Image.Resampling.BICUBIC
    crop: int | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


_OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CLIP = _Defaults({"shortest_edge": 224}, False, crop=224, **_OPENAI)  # type: ignore[arg-type]
_MOBILE = _Defaults({"shortest_edge": 256}, False, Image.Resampling.BILINEAR, crop=224)
_SQUARE = {"height": 224, "width": 224}
_KNOWN = {
    "vit": _Defaults(_SQUARE, True, Image.Resampling.BILINEAR),
    "deit": _Defaults({"height": 256, "width": 256}, True, crop=224),
    "beit": _Defaults(_SQUARE, True),
    "siglip": _Defaults(_SQUARE, False),
    "clip": _CLIP,
    "chineseclip": _CLIP,
    "bit": _CLIP,
    "convnext": _Defaults({"shortest_edge": 384}, False),
    "blip": _Defaults({"height": 384, "width": 384}, True, **_OPENAI),  # type: ignore[arg-type]
    "mobilenetv1": _MOBILE,
    "mobilenetv2": _MOBILE,
}
_OF_MODELS = {
    "vit": "vit dinat ijepa swin swinv2 vit_mae vit_msn",
    "deit": "deit",
    "beit": "beit data2vec-vision",
    "siglip": "siglip",
    "clip": "clip aimv2 aimv2_vision_model altclip metaclip_2 mlcd",
    "chineseclip": "chinese_clip",
    "bit": "bit dinov2 focalnet hiera pixio",
    "convnext": "convnext convnextv2 cvt regnet resnet",
    "blip": "blip",
    "mobilenetv1": "mobilenet_v1",
    "mobilenetv2": "mobilenet_v2",
}
"""Processors of models whose configuration names none, by `model_type`, as in transformers."""
_NOT_BY_PILLOW = {
    "dinov3vit": "it resizes by torchvision, and here Pillow does",
    "siglip2": "it cuts each image to patches of its own number (NaFlex); SigLIP 2 of a fixed size has "
    "SiglipImageProcessor",
    "timmwrapper": "it is that of timm, which is not used here",
}
"""Why well-known ones are refused."""


@dataclass(frozen=True)
class _Asked:
    """A processor's configuration, and the file that it stands in."""

    file: Path
    values: Mapping[str, Any]

    def refuse(self, field: str, wanted: str) -> ModelError:
        """Say that a field is not understood."""
        return ModelError(
            f"{self.file}: {field} is {self.values.get(field)!r}, and {wanted}; correct it, or choose "
            "another model"
        )

    def flag(self, field: str, default: bool) -> bool:
        """Read a field that is true or false."""
        value = self.values.get(field, default)
        if not isinstance(value, bool | int | None):
            raise self.refuse(field, "true or false is expected")
        return bool(value)

    def number(self, field: str, default: float) -> float:
        """Read a field that is a number above 0."""
        value = self.values.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.refuse(field, "a number above 0 is expected")
        return float(value)

    def channels(self, field: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Read a value for each channel: as many, or one for all."""
        value = self.values.get(field, default)
        listed = [value] * _CHANNELS if isinstance(value, int | float) else value
        numbers = isinstance(listed, list | tuple) and all(isinstance(one, int | float) for one in listed)
        if not numbers or len(listed) != _CHANNELS:
            raise self.refuse(field, f"a number, or {_CHANNELS} of them, is expected: images are made RGB")
        return tuple(map(float, listed))

    def size(self, field: str, default: Any, *, square: bool) -> dict[str, int]:
        """Read a size: {side: pixels} of `height` and `width`, or of `shortest_edge`."""
        asked = self.values.get(field, default)
        if isinstance(asked, int) and not isinstance(asked, bool):
            asked = {"height": asked, "width": asked} if square else {"shortest_edge": asked}
        elif isinstance(asked, list | tuple) and len(asked) == 2:
            asked = {"height": asked[0], "width": asked[1]}
        sides = asked if isinstance(asked, dict) else {}
        whole = all(isinstance(value, int | float) and value >= 1 for value in sides.values())
        if not whole or set(sides) not in ({"height", "width"}, {"shortest_edge"}):
            raise self.refuse(field, "a number, or height and width, or shortest_edge, is expected")
        return {name: int(value) for name, value in sides.items()}

    def resample(self, default: int) -> int:
        """Read the number of Pillow's filter."""
        value = self.values.get("resample", default)
        numbers = {int(filter_): filter_.name.lower() for filter_ in Image.Resampling}
        if not isinstance(value, int) or isinstance(value, bool) or value not in numbers:
            listed = ", ".join(f"{number} {name}" for number, name in sorted(numbers.items()))
            raise self.refuse("resample", f"the number of a filter of Pillow is expected ({listed})")
        return int(value)


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the processor configuration of a model folder.

    Raises:
        ModelError: there is none, or it asks for what is not supported.
    """
    asked = _read(folder)
    kind = _kind(folder, asked)
    known = _KNOWN[kind]
    if asked.values.get("use_square_size") and kind == "clip":
        asked = _Asked(asked.file, {**asked.values, "size": _SQUARE})
    exact, shortest = _resized(asked, known) if asked.flag("do_resize", True) else (None, None)
    crop = None
    if asked.flag("do_center_crop", known.crop is not None):
        cut = asked.size("crop_size", known.crop or 224, square=True)
        if "height" not in cut:
            raise asked.refuse("crop_size", "height and width are expected")
        crop = (cut["height"], cut["width"])
    if kind == "convnext" and asked.flag("do_resize", True):
        if shortest is None:
            raise asked.refuse("size", "shortest_edge is expected")
        if crop is not None:
            raise asked.refuse("do_center_crop", "this processor crops by itself: leave it out")
        exact, shortest, crop = _of_convnext(asked, shortest)
    if asked.flag("do_pad", False) and asked.values.get("pad_size") is not None:
        raise asked.refuse("do_pad", "images that are padded are not supported")
    normalized = asked.flag("do_normalize", True)
    steps = Preprocessing(
        exact=exact,
        shortest=shortest,
        crop=crop,
        resample=asked.resample(known.resample),
        factor=asked.number("rescale_factor", 1 / 255) if asked.flag("do_rescale", True) else None,
        mean=asked.channels("image_mean", known.mean) if normalized else None,
        std=asked.channels("image_std", known.std) if normalized else None,
    )
    if steps.std is not None and 0 in steps.std:
        raise asked.refuse("image_std", "pixels are divided by it")
    if steps.crop is None and steps.exact is None:
        raise ModelError(
            f"{asked.file}: gives images of different sizes (no crop, no fixed size); set one of the two"
        )
    return steps


def _resized(asked: _Asked, known: _Defaults) -> tuple[tuple[int, int] | None, int | None]:
    """Give the exact size, (height, width), or the shorter side's."""
    size = asked.size("size", known.size, square=asked.flag("default_to_square", known.square))
    return ((size["height"], size["width"]), None) if "height" in size else (None, size["shortest_edge"])


def _of_convnext(
    asked: _Asked, shortest: int
) -> tuple[tuple[int, int] | None, int | None, tuple[int, int] | None]:
    """Give exact size, shortest edge and crop: small images are resized to more, and cropped."""
    if shortest >= _SQUASHED_FROM:
        return (shortest, shortest), None, None
    return None, int(shortest / asked.number("crop_pct", 224 / 256)), (shortest, shortest)


def _read(folder: Path) -> _Asked:
    """Find the configuration, in the order in which transformers looks for it."""
    nested = read_json(folder / NESTED).get("image_processor")
    file, values = (folder / NESTED, nested) if nested is not None else (folder / CONFIGURATION, None)
    if values is None:
        if not file.is_file():
            raise ModelError(f"{folder}: no {CONFIGURATION}; save the model's image processor there too")
        values = read_json(file)
    if not isinstance(values, dict):
        raise ModelError(f"{file}: image_processor is no object; fetch the model again")
    return _Asked(file, values)


def _kind(folder: Path, asked: _Asked) -> str:
    """Tell which processor it is: by its name, or by the model where it has none."""
    name = asked.values.get("image_processor_type") or asked.values.get("feature_extractor_type")
    if name is None:
        model = str(read_json(folder / "config.json").get("model_type", ""))
        kind = next((kind for kind, models in _OF_MODELS.items() if model in models.split()), None)
        if kind is None:
            raise ModelError(
                f"{asked.file}: no image_processor_type, and that of model_type {model!r} is not known; "
                "write it there"
            )
        return kind
    kind = str(name).lower()
    for ending in ("fast", "pil", "imageprocessor", "featureextractor"):
        kind = kind.removesuffix(ending)
    if kind not in _KNOWN:
        why = _NOT_BY_PILLOW.get(kind, f"supported: {', '.join(_KNOWN)}")
        raise ModelError(f"{asked.file}: image processor {name!r} is not supported; {why}")
    return kind
