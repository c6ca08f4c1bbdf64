"""The processor configuration of a model of images: what it asks for, as `Preprocessing`.

What a configuration leaves out is as transformers' processor of that name has it.
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

CONFIGURATIONS = ("preprocessor_config.json", "processor_config.json")
_SQUASHED_FROM = 384
"""Edge from which ConvNeXt's processor resizes without cropping."""


@dataclass(frozen=True)
class _Defaults:
    """What a processor does where its configuration does not say."""

    size: int | Mapping[str, int]
    square: bool
    resample: int = Image.Resampling.BICUBIC
    crop: int | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_KNOWN = {
    "vit": _Defaults(224, True, Image.Resampling.BILINEAR),
    "deit": _Defaults(256, True, crop=224),
    "beit": _Defaults(224, True),
    "siglip": _Defaults(224, True),
    "clip": _Defaults(224, False, crop=224, **_CLIP),  # type: ignore[arg-type]
    "bit": _Defaults(224, False, crop=224, **_CLIP),  # type: ignore[arg-type]
    "convnext": _Defaults(384, False),
}


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the processor configuration of a model folder.

    Raises:
        ModelError: there is none, or it asks for what is not supported.
    """
    config = next((content for name in CONFIGURATIONS if (content := _own(read_json(folder / name)))), None)
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
