"""Static vectors of models against their own libraries; weights of words against numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tiny_models import TEXTS, build
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.encoders.static.tables import open_table
from embed_ops.encoders.static.word_weights import WordCounts
from embed_ops.errors import ModelError, SpecError
from embed_ops.spec.encoder import StaticEncoderSpec
from embed_ops.spec.spec import Spec
from embed_ops.training.weights import write

SENTENCES = ["The cats sat on a mat.", "a cat zebra", "the the the", "mats"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep converted tables apart from the user's."""
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path / "cache"))


def encoder_of(model: Path, **fields: Any) -> StaticEncoder:
    """Make an encoder and map its table."""
    encoder = StaticEncoder(StaticEncoderSpec(model=str(model), **fields))
    encoder.load("cpu", "float32")
    return encoder


def embed(encoder: StaticEncoder, texts: list[str]) -> np.ndarray[Any, Any]:
    """Embed rows as a replica does, and compare: (rows, dim), NaN for rejects."""
    prepared = encoder.prepare(pa.array(texts, pa.string()))
    found = embed_inputs(encoder, prepared.inputs, 4096).vectors
    judged = compare_outputs(found, prepared.index, encoder.reference(pa.array(texts)))
    assert all(item.min > 0.999999 for item in judged)
    rows = found["embedding"]
    return np.vstack([rows, np.full((1, rows.shape[1]), np.nan, np.float32)])[prepared.index]


def wordpiece() -> Tokenizer:
    """Make a tokenizer that knows some of the tests' words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "##s", "a", "."]
    backend = Tokenizer(
        models.WordPiece({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.normalizer, backend.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    return backend


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cut", [None, 3])
def test_static_embedding_folder(normalize: bool, cut: int | None, tmp_path: Path) -> None:
    """A sentence-transformers folder gives its vectors.

    Its unknown token counts in the mean, as there; what it cuts is told.
    """
    weights = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    tokenizer = wordpiece()
    if cut is not None:
        tokenizer.enable_truncation(cut)
    rest = [st.Normalize()] if normalize else []
    SentenceTransformer(
        modules=[st.StaticEmbedding(tokenizer, embedding_weights=weights), *rest], device="cpu"
    ).save(str(tmp_path / "m"))
    encoder = encoder_of(tmp_path / "m")
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(embed(encoder, SENTENCES), theirs.encode(SENTENCES), atol=1e-6)
    prepared = encoder.prepare(pa.array(SENTENCES))
    assert prepared.unknown is not None
    assert prepared.unknown.tolist() == [0, 1, 0, 0]
    assert prepared.truncated.tolist() == [cut is not None, False, False, False]
    assert encoder.describe()["kind"] == "StaticEmbedding"


@pytest.mark.parametrize("folded", [False, True])
def test_model2vec_folder(folded: bool, tmp_path: Path) -> None:
    """A model2vec folder gives what StaticEmbedding makes of it.

    Its unknown token is left out, as model2vec does.
    """
    draw = np.random.default_rng(2)
    parts: dict[str, Any] = {
        "embeddings": draw.normal(size=(12, 8)).astype(np.float16 if folded else np.float32)
    }
    if folded:
        parts = {
            "embeddings": parts["embeddings"][:5],
            "mapping": draw.integers(0, 5, 12),
            "weights": draw.random(12).astype(np.float32),
        }
    save_file(parts, tmp_path / "model.safetensors")
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    encoder = encoder_of(tmp_path)
    theirs = SentenceTransformer(
        modules=[st.StaticEmbedding.load(str(tmp_path)), st.Normalize()], device="cpu"
    )
    known = ["a cat" if "zebra" in text else text for text in SENTENCES]
    np.testing.assert_allclose(embed(encoder, SENTENCES), theirs.encode(known), atol=1e-3 if folded else 1e-6)
    assert encoder.describe()["kind"] == "model2vec"
    assert len(encoder.prepare(pa.array(["zebra", ""])).rejects) == 2


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_input_embeddings(architecture: str, kind: str, tmp_path: Path) -> None:
    """A transformers folder gives the means of its input embeddings, without special tokens."""
    folder = build(architecture, tmp_path / "model")
    of = transformers.T5EncoderModel if architecture == "t5" else transformers.AutoModel
    model = of.from_pretrained(folder, dtype=getattr(torch, kind))
    model.save_pretrained(folder)
    table = model.get_input_embeddings().weight.detach().float().numpy()
    encoder = encoder_of(folder)
    np.testing.assert_array_equal(encoder.lookup.vectors(), table)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, found in zip(TEXTS, embed(encoder, TEXTS), strict=True):
        ids = [
            row
            for row in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if row != tokenizer.unk_token_id
        ]
        np.testing.assert_allclose(
            found, table[ids].mean(0) if ids else np.full(table.shape[1], np.nan), atol=1e-6
        )


def test_a_matrix_is_converted_once(tmp_path: Path) -> None:
    """A second encoder maps what the first has written.

    A changed file is another table and another fingerprint.
    """
    folder = build("bert", tmp_path / "model")
    first = encoder_of(folder)
    made = open_table(str(folder), lowercase=None).folder / "vectors.npy"
    before = made.stat().st_mtime_ns
    known = first.fingerprint()
    assert encoder_of(folder).fingerprint() == known
    assert made.stat().st_mtime_ns == before
    transformers.AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    other = encoder_of(folder)
    assert other.fingerprint() != known
    assert not np.array_equal(other.lookup.vectors(), first.lookup.vectors())


def test_broken_folders(tmp_path: Path) -> None:
    """A folder without a matrix, with another pipeline, or cut off is named.

    Lowercase is not for them.
    """
    second = {"type": "sentence_transformers.models.Dense", "path": "1"}
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}, second])
    )
    with pytest.raises(ModelError, match="Dense behind StaticEmbedding is not supported"):
        encoder_of(tmp_path)
    (tmp_path / "modules.json").unlink()
    save_file({"other": np.zeros((3, 4), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"no tensor is called word_embeddings\.weight"):
        encoder_of(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        encoder_of(tmp_path)
    with pytest.raises(ModelError, match="is not a model folder"):
        encoder_of(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"encoder\.lowercase is for tables of words"):
        encoder_of(build("bert", tmp_path / "model"), lowercase=True)
    save_file({"embedding.weight": np.zeros((3, 4), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}])
    )
    with pytest.raises(ModelError, match="they are not of one model"):
        encoder_of(tmp_path).prepare(pa.array(["the cat"]))


def test_weights_change_the_mean(tmp_path: Path) -> None:
    """Weighted means are those of plain numpy; a word without a count has frequency 0.

    Other tokenisations are refused.
    """
    vectors = np.random.default_rng(7).normal(size=(4, 6)).astype(np.float32)
    table = tmp_path / "t.txt"
    listed = zip(["the", "cat", "sat", "mat"], vectors.tolist(), strict=True)
    table.write_text("".join(f"{word} {' '.join(map(repr, row))}\n" for word, row in listed))
    plain = encoder_of(table)
    counts = plain.lookup.count(pa.array(["the cat", "the the sat", None, "the cat", "zebra"]))
    assert (counts.texts, counts.unknown, counts.counts.tolist(), counts.documents[0]) == (
        4,
        1,
        [4, 2, 1, 0],
        3,
    )
    write(tmp_path / "w", plain, counts, "test")
    sums = {"sif": lambda c, d: 1e-3 / (1e-3 + c / 7), "tfidf": lambda c, d: np.log(5 / (1 + d)) + 1}
    text = "The the cat mat " * 40
    for weighting, of in sums.items():
        encoder = encoder_of(table, weights=str(tmp_path / "w"), weighting=weighting)
        expected = np.average(vectors[[0, 0, 1, 3]], axis=0, weights=[of(4, 3), of(4, 3), of(2, 2), of(0, 0)])
        np.testing.assert_allclose(embed(encoder, [text])[0], expected, atol=1e-6)
        assert encoder.fingerprint() != plain.fingerprint()
    with pytest.raises(ModelError, match="another tokenisation"):
        encoder_of(table, weights=str(tmp_path / "w"), lowercase=False)
    with pytest.raises(ModelError, match="no weights that can be read"):
        encoder_of(table, weights=str(tmp_path / "nothing"))
    none = WordCounts(np.zeros(4, np.int64), np.zeros(4, np.int64), 0, 0)
    assert none.sif.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weighting": "tfidf"}, "without weights"),
        ({"family": "text", "weights": "w"}, "encoder.weights: unknown key .* with family = 'text'"),
    ],
)
def test_weights_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    """Each is refused before anything is read."""
    encoder = {"family": "static", "model": "m", **fields}
    with pytest.raises(SpecError, match=message):
        Spec.parse({"source": {"path": "x", "column": "t"}, "encoder": encoder, "sink": {"path": "y"}})
