"""A prompt for each row, against sentence-transformers with that prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import tiny_vision
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st

from embed_ops.encoders.clip.encoder import ClipEncoder
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.prompts import PROMPTED
from embed_ops.schema import Reason
from embed_ops.spec.encoder import ClipEncoderSpec, TextEncoderSpec

pytestmark = pytest.mark.usefixtures("one_thread")

NAMED = {"query": "search query: ", "document": ""}
PROMPTS = ["query", "document", "free words: ", ""]
TEXTS = ["a small cat", "the dog sat on the mat", "a house by the river is old", "a small cat"]
FORMATS = {
    "e5": ("bert", ("mean",), {"query": "query: ", "passage": "passage: "}),
    "bge": ("bert", ("cls",), {"query": "Represent this sentence for searching relevant passages: "}),
    "nomic": ("bert", ("mean",), {"search_query": "search_query: ", "search_document": "search_document: "}),
    "qwen3": (
        "qwen3",
        ("lasttoken",),
        {"query": "Instruct: Find passages that answer the question\nQuery:", "document": ""},
    ),
}
"""As the cards of these models have them: architecture, pooling, prompts."""


def saved(
    path: Path, architecture: str, modes: tuple[str, ...], prompts: dict[str, str], **pooling: Any
) -> Any:
    """Save a tiny sentence-transformers model with prompts, and load it as users do."""
    folder = tiny_models.build(architecture, path / "bare")
    modules = [st.Transformer(str(folder)), st.Pooling(32, pooling_mode=modes, **pooling), st.Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save(str(path / "model"), create_model_card=False)
    return SentenceTransformer(str(path / "model"), device="cpu")


def pairs(prompts: list[str | None], texts: list[str | None]) -> pa.Array:
    """Put prompts beside texts, as a source with a column of prompts gives them."""
    columns = [pa.array(prompts, pa.string()), pa.array(texts, pa.string())]
    return pa.StructArray.from_arrays(columns, fields=list(PROMPTED), mask=columns[1].is_null())


def embed(encoder: Any, column: pa.Array) -> Any:
    """Embed rows in batches of three inputs: (rows, dim)."""
    prepared = encoder.prepare(column)
    inputs = prepared.inputs
    parts = [encoder.launch(inputs.slice(at, 3))()["embedding"] for at in range(0, len(inputs), 3)]
    return np.concatenate(parts)[prepared.index]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_rows_have_their_own(architecture: str, include: bool, tmp_path: Path) -> None:
    """By name or as text, pooled or not as the folder says; the same as a prompt for every row."""
    model = saved(tmp_path, architecture, ("mean", "max"), NAMED, include_prompt=include)
    encoder = TextEncoder(TextEncoderSpec(model=str(tmp_path / "model")))
    encoder.load("cpu", "float32")
    prompts = [prompt for prompt in PROMPTS for _ in TEXTS]
    column = pairs(prompts, TEXTS * len(PROMPTS))
    vectors = embed(encoder, column)
    for place, prompt in enumerate(PROMPTS):
        rows = vectors[place * len(TEXTS) : (place + 1) * len(TEXTS)]
        asked = {"prompt_name": prompt} if prompt in NAMED else {"prompt": prompt}
        np.testing.assert_allclose(rows, model.encode(TEXTS, batch_size=1, **asked), atol=1e-5)
        alone = embed(encoder.prompted(prompt), pa.array(TEXTS))
        np.testing.assert_allclose(rows, alone, atol=1e-6)
    name, reference = encoder.reference(column)
    assert name.startswith("sentence-transformers")
    np.testing.assert_allclose(vectors, reference["embedding"], atol=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_well_known_models(kind: str, tmp_path: Path) -> None:
    """The prompts that are documented give what sentence-transformers makes of them."""
    architecture, modes, prompts = FORMATS[kind]
    model = saved(tmp_path, architecture, modes, prompts)
    encoder = TextEncoder(TextEncoderSpec(model=str(tmp_path / "model")))
    encoder.load("cpu", "float32")
    names = [name for name in prompts for _ in TEXTS]
    vectors = embed(encoder, pairs(names, TEXTS * len(prompts)))
    expected = [model.encode(TEXTS, batch_size=1, prompt_name=name) for name in prompts]
    np.testing.assert_allclose(vectors, np.concatenate(expected), atol=1e-5)


def test_distinct_pairs_are_inputs(tmp_path: Path) -> None:
    """One input for each pair, though another gives the same words; nulls are rejects."""
    saved(tmp_path, "bert", ("mean",), {}, include_prompt=False)
    encoder = TextEncoder(TextEncoderSpec(model=str(tmp_path / "model")))
    column = pairs(["a ", "", "a ", None, "a ", "a s"], ["small", "a small", "small", "cat", None, "mall"])
    prepared = encoder.prepare(column)
    assert prepared.index.tolist() == [0, 1, 0, -1, -1, 2]
    assert [(reject.row, reject.reason) for reject in prepared.rejects] == [
        (3, Reason.NULL),
        (4, Reason.NULL),
    ]
    assert prepared.rejects[0].message == "its prompt: the text is null"
    assert prepared.inputs.column_names == ["tokens", "prompt_tokens"]
    assert encoder.prepare(pa.array(["a small"])).inputs.column_names == ["tokens"]


def test_without_sentence_transformers(tmp_path: Path) -> None:
    """Plain transformers and pooling in numpy take prompts of rows as well."""
    folder = tiny_models.build("bert", tmp_path / "bert")
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    encoder.load("cpu", "float32")
    column = pairs(["query: ", "the ", "query: "], ["a cat", "a cat", "sat"])
    name, reference = encoder.reference(column)
    assert name.startswith("transformers")
    np.testing.assert_allclose(embed(encoder, column), reference["embedding"], atol=1e-5)


def test_texts_of_clip(tmp_path: Path) -> None:
    """Models of images and texts take them before texts."""
    folder = tiny_vision.build_vision("clip", tmp_path / "clip")
    encoder = ClipEncoder(ClipEncoderSpec(family="clip", model=str(folder)))
    encoder.load("cpu", "float32")
    column = pairs(["a photo of ", "a drawing of "], ["a cat", "a cat"])
    vectors = embed(encoder, column)
    assert (vectors[0] != vectors[1]).any()
    whole = embed(encoder, pa.array(["a photo of a cat", "a drawing of a cat"]))
    np.testing.assert_array_equal(vectors, whole)
    np.testing.assert_allclose(vectors, encoder.reference(column)[1]["embedding"], atol=1e-5)
