"""Tiny vision models of every supported family, saved as real folders with their real processors; and real photographs in many formats."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny_models import TEXTS, bert_tokenizer

SIDE, PATCH = 48, 8
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
GRID: dict[str, Any] = {"image_size": SIDE, "patch_size": PATCH}
SQUARE = {"height": SIDE, "width": SIDE}


def _vit() -> tuple[Any, Any]:
    return transformers.ViTModel(transformers.ViTConfig(**SIZES, **GRID)), transformers.ViTImageProcessorPil(size=SQUARE)


def _deit() -> tuple[Any, Any]:
    processor = transformers.DeiTImageProcessorPil(size={"height": 56, "width": 56}, crop_size=SQUARE)
    return transformers.DeiTModel(transformers.DeiTConfig(**SIZES, **GRID)), processor


def _beit() -> tuple[Any, Any]:
    config = transformers.BeitConfig(**SIZES, **GRID, use_relative_position_bias=True)
    return transformers.BeitModel(config), transformers.BeitImageProcessorPil(size=SQUARE)


def _dinov2() -> tuple[Any, Any]:
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 56}, crop_size=SQUARE, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, **GRID)), processor


def _registers() -> tuple[Any, Any]:
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    config = transformers.Dinov2WithRegistersConfig(**sizes, **GRID, num_register_tokens=3)
    return transformers.Dinov2WithRegistersModel(config), _dinov2()[1]


def _convnext() -> tuple[Any, Any]:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return transformers.ConvNextModel(config), transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64})


def _resnet() -> tuple[Any, Any]:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
    return transformers.ResNetModel(config), transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64})


def _clip() -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": tokenizer.sep_token_id}
    config = transformers.CLIPConfig(text_config=text, vision_config={**SIZES, **GRID}, projection_dim=20)
    return transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)


def _siglip() -> tuple[Any, Any]:
    text = {**SIZES, "vocab_size": len(bert_tokenizer()), "max_position_embeddings": 24, "projection_size": 32}
    config = transformers.SiglipConfig(text_config=text, vision_config={**SIZES, **GRID})
    return transformers.SiglipModel(config), transformers.SiglipImageProcessorPil(size=SQUARE)


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vit": _vit,
    "deit": _deit,
    "beit": _beit,
    "dinov2": _dinov2,
    "registers": _registers,
    "convnext": _convnext,
    "resnet": _resnet,
    "clip": _clip,
    "siglip": _siglip,
}
TEXT_TOO = ("clip", "siglip")
CAPTIONS = [text for text in TEXTS if text.strip()]


def build_vision(name: str, path: Path) -> Path:
    """Save a tiny model with seeded weights and its processor; models of texts too with a tokenizer."""
    torch.manual_seed(7)
    model, processor = MAKERS[name]()
    with torch.no_grad():
        # As they are made, many weights are zero or nearly equal: such a model would give all images one vector.
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2 if parameter.ndim > 1 else 0.5)
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)
    if name in TEXT_TOO:
        tokenizer = bert_tokenizer()
        tokenizer.model_max_length = 24
        tokenizer.save_pretrained(path)
    return path


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Give scikit-learn's two photographs."""
    return tuple(Image.fromarray(values) for values in load_sample_images().images)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encode an image."""
    target = BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def _turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif.tobytes())


@cache
def samples() -> dict[str, bytes]:
    """Give the photographs, whole and in parts, in every format, mode and orientation that transformers reads as we do."""
    china, flower = photographs()
    part = flower.crop((100, 50, 421, 300))
    alpha = part.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(part.width, dtype=np.uint8), (part.height, 1))))
    palette = part.quantize(64)
    return {
        "jpeg": encoded(china, "JPEG", quality=90),
        "progressive": encoded(flower, "JPEG", progressive=True),
        "png": encoded(part, "PNG"),
        "webp": encoded(flower, "WEBP", quality=80),
        "lossless webp": encoded(part, "WEBP", lossless=True),
        "gif": encoded(palette, "GIF"),
        "animated gif": encoded(palette, "GIF", save_all=True, append_images=[china.resize(part.size).quantize(16)]),
        "tiff": encoded(part, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(part, "BMP"),
        "cmyk": encoded(china.convert("CMYK"), "JPEG"),
        "palette": encoded(palette, "PNG"),
        "transparent palette": encoded(palette, "PNG", transparency=3),
        "alpha": encoded(alpha, "PNG"),
        "gray": encoded(china.convert("L"), "JPEG"),
        "gray and alpha": encoded(alpha.convert("LA"), "PNG"),
        "two colours": encoded(china.convert("1"), "PNG"),
        **{f"turned {orientation}": _turned(part, orientation) for orientation in (2, 3, 6, 8)},
        "one pixel": encoded(china.crop((5, 5, 6, 6)), "PNG"),
        "narrow": encoded(flower.crop((0, 0, 7, 300)), "PNG"),
    }
