"""Batches without padding give the vectors of padded ones, where a model can be packed at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
from corpora import docstrings

from embed_ops.embedding.batching import RULES
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.base import gather
from embed_ops.encoders.registry import make_encoder
from embed_ops.encoders.text import packed
from embed_ops.errors import ModelError
from embed_ops.spec.spec import parse_encoder

CAN = ("bert", "distilbert", "roberta", "xlm-roberta", "qwen3")
TEXTS = [*tiny_models.TEXTS, *docstrings(30)]
OUTPUTS: dict[str, list[dict[str, Any]]] = {
    "rows": [
        {"name": "mean", "pooling": "mean", "normalize": True},
        {"name": "last", "pooling": "last"},
        {"name": "inner", "pooling": "max", "layer": "mean(0:)"},
    ],
    "words": [{"name": "words", "each": "word"}, {"name": "windows", "each": "window"}],
}


@pytest.mark.parametrize("outputs", list(OUTPUTS))
@pytest.mark.parametrize("architecture", CAN)
def test_the_reference(tmp_path: Path, architecture: str, outputs: str) -> None:
    """All outputs are close to the reference, one text at a time, texts without words included."""
    model = tiny_models.build(architecture, tmp_path / architecture)
    encoder = make_encoder(
        parse_encoder({"model": str(model), "attention": "packed", "outputs": OUTPUTS[outputs]})
    )
    column = pa.array(TEXTS)
    prepared = encoder.prepare(column)
    encoder.load("cpu", "float32")
    embedded = embed_inputs(encoder, prepared.inputs, 128, rule=RULES["packed"])
    assert embedded.positions == int(encoder.lengths(prepared.inputs).sum()), "no padding"
    vectors = gather(encoder, prepared.inputs, embedded.vectors, prepared.documents)
    compared = compare_outputs(vectors, prepared.index, encoder.reference(column))
    assert len(compared) == len(OUTPUTS[outputs])
    assert min(item.min for item in compared) > 0.99999


def test_a_text_alone_is_a_text_among_others(tmp_path: Path) -> None:
    """What a text attends to is itself: its vector does not change with its neighbours."""
    model = tiny_models.build("bert", tmp_path / "bert")
    encoder = make_encoder(parse_encoder({"model": str(model), "attention": "packed"}))
    inputs = encoder.prepare(pa.array(TEXTS)).inputs
    encoder.load("cpu", "float32")
    together = encoder.launch(inputs)()["embedding"]
    alone = np.concatenate(
        [encoder.launch(inputs[row : row + 1])()["embedding"] for row in range(len(inputs))]
    )
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("mpnet", "packed, it gives other vectors than padded"),
        ("t5", "it can't be packed"),
        ("modernbert", "sliding_window limits its attention"),
    ],
)
def test_what_can_not_be_packed(tmp_path: Path, architecture: str, why: str) -> None:
    """A model with biases or windows of its own is refused before the first unit."""
    model = tiny_models.build(architecture, tmp_path / architecture)
    encoder = make_encoder(parse_encoder({"model": str(model), "attention": "packed"}))
    with pytest.raises(ModelError, match=f'{why}.*; use encoder.attention = "padded" in a new run'):
        encoder.load("cpu", "float32")


def test_compiled_or_packed(tmp_path: Path) -> None:
    """Both are not offered together."""
    model = tiny_models.build("bert", tmp_path / "bert")
    encoder = make_encoder(parse_encoder({"model": str(model), "attention": "packed"}))
    with pytest.raises(ModelError, match="packed batches are not compiled"):
        encoder.load("cpu", "float32", compiled=True)


@pytest.mark.parametrize(
    ("dtype", "version", "why"),
    [
        ("float32", "2.13.0", "computes in bfloat16 or float16"),
        ("bfloat16", "2.9.1+cu128", "torch 2.11 or later"),
    ],
)
def test_what_the_kernel_needs(monkeypatch: pytest.MonkeyPatch, dtype: str, version: str, why: str) -> None:
    """On a GPU the type and the version of torch are asked for before a model is loaded."""
    monkeypatch.setattr(packed.torch, "__version__", version)
    with pytest.raises(ModelError, match=why):
        packed.require_kernel("a model", "cuda", dtype)
