"""How many tokens a model takes, against the model itself; the judge finds it out alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st

from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.positions import first_position, table_positions, usable_positions
from embed_ops.spec.encoder import TextEncoderSpec

pytestmark = pytest.mark.usefixtures("one_thread")

MOST = 20
COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MOST,
}
GPT: dict[str, Any] = {"vocab_size": 64, "n_positions": MOST, "n_embd": 32, "n_layer": 1, "n_head": 4}
TABLES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "from zero": ("Electra", {**COMMON, "embedding_size": 32}),
    "behind the padding token": ("Esm", {**COMMON, "pad_token_id": 1, "position_embedding_type": "absolute"}),
    "behind another padding token": ("Camembert", {**COMMON, "pad_token_id": 5}),
    "of a layer of its own kind": ("IBert", {**COMMON, "pad_token_id": 1}),
    "with an offset of its own": ("OPT", {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "longer than what is used": ("Nystromformer", {**COMMON, "num_landmarks": 1, "segment_means_seq_len": 1}),
    "of a decoder": ("GPT2", GPT),
    "ALiBi of one length": (
        "Mpt",
        {"d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": MOST, "vocab_size": 64},
    ),
    "constant, for rotary positions": ("GPTJ", {**GPT, "rotary_dim": 4}),
}
ENDLESS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "rotary": ("Qwen2", {**COMMON, "num_key_value_heads": 2}),
    "rotary in an encoder": ("Esm", {**COMMON, "pad_token_id": 1, "position_embedding_type": "rotary"}),
    "ALiBi": ("Bloom", {"hidden_size": 32, "n_head": 4, "n_layer": 1, "vocab_size": 64}),
    "relative": ("DebertaV2", {**COMMON, "position_biased_input": False, "relative_attention": True}),
}


def built(name: str, sizes: dict[str, Any]) -> Any:
    """Make a model of random weights."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**sizes)
    return transformers.AutoModel.from_config(config).eval()


def takes(model: Any, tokens: int) -> bool:
    """Tell whether a model takes so many tokens."""
    ids = torch.full((1, tokens), 9)
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_ends_where_the_model_does(kind: str, tmp_path: Path) -> None:
    """The greatest number of tokens that a model takes is what its table says, loaded or not."""
    model = built(*TABLES[kind])
    model.config.save_pretrained(tmp_path)
    most = table_positions(model)
    assert most is not None
    assert takes(model, most)
    assert kind == "longer than what is used" or not takes(model, most + 1)
    assert usable_positions(tmp_path, {}, trust_remote_code=False) == most


@pytest.mark.parametrize("kind", ENDLESS)
def test_other_positions_have_no_end(kind: str, tmp_path: Path) -> None:
    """Rotary, ALiBi and relative positions go beyond what the configuration states."""
    model = built(*ENDLESS[kind])
    model.config.save_pretrained(tmp_path)
    assert table_positions(model) is None
    assert takes(model, 3 * MOST)
    assert usable_positions(tmp_path, {}, trust_remote_code=False) is None
    assert first_position(model) == 0


def unlimited(folder: Path, **config: Any) -> Path:
    """Take the tokenizer's own limit out of a folder, and change its configuration."""
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text())
    told.pop("model_max_length", None)
    file.write_text(json.dumps(told))
    changed = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(changed))
    return folder


def test_a_rotary_model_reads_on(tmp_path: Path) -> None:
    """A text beyond `max_position_embeddings` is whole, as plain transformers has it.

    sentence-transformers cuts there, with the same model, and so do its folders here.
    """
    plain = unlimited(tiny_models.build("qwen3", tmp_path / "plain"), max_position_embeddings=12)
    encoder = TextEncoder(TextEncoderSpec(model=str(plain)))
    encoder.load("cpu", "float32")
    column = pa.array(["the quick brown fox " * 20, "a fox"])
    prepared = encoder.prepare(column)
    assert encoder.describe()["max_tokens"] is None
    assert prepared.truncated.tolist() == [False, False]
    found = encoder.forward(prepared.inputs)
    assert compare_outputs(found, prepared.index, encoder.reference(column))[0].min > 0.99999

    saved = tmp_path / "saved"
    model = SentenceTransformer(modules=[st.Transformer(str(plain)), st.Pooling(32)], device="cpu")
    model.save(str(saved), create_model_card=False)
    wanted = SentenceTransformer(str(saved), device="cpu").encode(column.to_pylist())
    encoder = TextEncoder(TextEncoderSpec(model=str(saved)))
    encoder.load("cpu", "float32")
    prepared = encoder.prepare(column)
    assert encoder.describe()["max_tokens"] == 12
    assert prepared.truncated.tolist() == [True, False]
    assert np.abs(encoder.forward(prepared.inputs)["embedding"] - wanted).max() < 1e-5


@pytest.mark.parametrize("sentences", [False, True])
def test_the_judge_sees_a_wrong_limit(
    sentences: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that cuts too early is found out: the reference is not told its limit."""
    folder = tiny_models.build("bert", tmp_path / "model")
    if sentences:
        model = SentenceTransformer(modules=[st.Transformer(str(folder)), st.Pooling(32)], device="cpu")
        model.save(str(tmp_path / "saved"), create_model_card=False)
        folder = tmp_path / "saved"
    monkeypatch.setattr("embed_ops.encoders.text.backbone.token_limit", lambda *_, **__: 4)
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    encoder.load("cpu", "float32")
    column = pa.array(["the quick brown fox jumps over the lazy dog " * 3])
    prepared = encoder.prepare(column)
    found = encoder.forward(prepared.inputs)
    assert compare_outputs(found, prepared.index, encoder.reference(column))[0].min < 0.999


@pytest.mark.parametrize("sentences", [False, True])
def test_the_judge_finds_where_a_table_ends(sentences: bool, tmp_path: Path) -> None:
    """Where a library would overrun the table of its own model, the reference cuts at its end."""
    folder = unlimited(tiny_models.build("roberta", tmp_path / "model"))
    if sentences:
        model = SentenceTransformer(modules=[st.Transformer(str(folder)), st.Pooling(32)], device="cpu")
        model.save(str(tmp_path / "saved"), create_model_card=False)
        folder = tmp_path / "saved"
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    encoder.load("cpu", "float32")
    column = pa.array(["the quick brown fox " * 60, "a", ""])
    prepared = encoder.prepare(column)
    assert encoder.lengths(prepared.inputs)[0] == tiny_models.LONGEST
    found = encoder.forward(prepared.inputs)
    assert compare_outputs(found, prepared.index, encoder.reference(column))[0].min > 0.99999


def test_truncate_dim(tmp_path: Path) -> None:
    """The length of vectors that a folder states is followed, normalised before and not again."""
    folder = tiny_models.build("bert", tmp_path / "model")
    parts = [st.Transformer(str(folder)), st.Pooling(32), st.Normalize()]
    saved = tmp_path / "saved"
    SentenceTransformer(modules=parts, device="cpu", truncate_dim=12).save(
        str(saved), create_model_card=False
    )
    wanted = SentenceTransformer(str(saved), device="cpu").encode(["a fox", "the quick brown"])
    encoder = TextEncoder(TextEncoderSpec(model=str(saved)))
    encoder.load("cpu", "float32")
    found = encoder.forward(encoder.prepare(pa.array(["a fox", "the quick brown"])).inputs)["embedding"]
    assert found.shape == (2, 12)
    assert np.abs(found - wanted).max() < 1e-6
    shutil.copytree(saved, tmp_path / "long")
    told = json.loads((saved / "config_sentence_transformers.json").read_text())
    (tmp_path / "long" / "config_sentence_transformers.json").write_text(
        json.dumps(told | {"truncate_dim": 99})
    )
    assert dims_of(TextEncoder(TextEncoderSpec(model=str(tmp_path / "long"))).outputs()) == {"embedding": 32}
