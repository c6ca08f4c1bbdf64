"""What a launch asks of the device.

A GPU works off a queue. A launch that looks into a tensor waits until the queue is empty, so none
may; torch's dispatcher sees each look, on a CPU as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
from images import write_model
from looks import Looks
from tiny_vision import encoded, photographs

from embed_ops.encoders.base import Encoder
from embed_ops.encoders.registry import make_encoder
from embed_ops.encoders.text import masks
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.spec.spec import parse_encoder

TEXTS = ["a short text", "a text that is a good deal longer than the short one", "three words here"]


def looks_of(encoder: Encoder, column: pa.Array) -> list[str]:
    """Launch a column as one batch, and list what waited."""
    inputs = encoder.prepare(column).inputs
    with Looks() as looks:
        encoder.launch(inputs)
    return looks.seen


def loaded(tree: dict[str, Any]) -> Encoder:
    """Load an encoder on the CPU."""
    encoder = make_encoder(parse_encoder(tree))
    encoder.load("cpu", "float32")
    return encoder


def told_as_on_a_gpu(encoder: Encoder) -> masks.Attention:
    """Tell a loaded model of its padding as on a GPU; gives how."""
    backbone: Backbone = vars(encoder)["_backbone"]
    chosen = masks.attention_for(vars(backbone)["_model"])
    vars(backbone)["_attention"] = chosen
    return chosen


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 2], ids=["padded", "of one length"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"outputs": [{"name": "a", "pooling": "cls", "layer": 1}, {"name": "b", "pooling": "weighted_mean"}]},
        {"outputs": [{"name": "words", "each": "word"}, {"name": "row"}]},
        {"attention": "packed"},
    ],
    ids=["mean", "layers", "words", "packed"],
)
def test_texts(tmp_path: Path, texts: list[str], options: dict[str, Any]) -> None:
    """Neither the model nor the pooling looks into a mask."""
    model = tiny_models.build("bert", tmp_path / "bert")
    encoder = loaded({"model": str(model), **options})
    if "attention" not in options:
        told_as_on_a_gpu(encoder)
    assert looks_of(encoder, pa.array(texts)) == []


def test_the_plain_mask_is_looked_into(tmp_path: Path) -> None:
    """Told by the mask alone, transformers looks whether anything is padded: a test can fail."""
    model = tiny_models.build("bert", tmp_path / "bert")
    assert looks_of(loaded({"model": str(model)}), pa.array(TEXTS))


def test_images(tmp_path: Path) -> None:
    """Pixels go to the device as they lie, and nothing waits for them."""
    model = write_model("vit-tiny", tmp_path, 32, 16)
    encoder = loaded({"family": "image", "model": str(model)})
    images = [encoded(image, "JPEG") for image in photographs()]
    assert looks_of(encoder, pa.array(images, pa.binary())) == []


@pytest.mark.parametrize("architecture", list(tiny_models.ARCHITECTURES))
def test_vectors(tmp_path: Path, architecture: str) -> None:
    """However a model is told of its padding, the vectors are those of the plain mask.

    To the bit, but for a causal model, which is given no mask at all: what stands to the right of a
    token never reaches it.
    """
    model = tiny_models.build(architecture, tmp_path / architecture)
    encoder = loaded({"model": str(model)})
    inputs = encoder.prepare(pa.array(tiny_models.TEXTS)).inputs
    plain = encoder.launch(inputs)()["embedding"]
    known = {"mpnet": masks.plain, "modernbert": masks.plain, "qwen3": masks.absent_by_kind}
    chosen = told_as_on_a_gpu(encoder)
    assert chosen is known.get(architecture, masks.ready)
    told = encoder.launch(inputs)()["embedding"]
    np.testing.assert_allclose(told, plain, atol=1e-6 if chosen is masks.absent_by_kind else 0)
