"""Folders that are no model, or not quite one: each says what it is, nothing is skipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny_models
import transformers

from embed_ops.embedding.parity import reference_of
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.hub.contents import not_run
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.windows.encoder import WindowedEncoder
from embed_ops.errors import ModelError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import OutputSpec, TextEncoderSpec, WordsEncoderSpec

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90\n"


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def only(folder: Path, *names: str) -> None:
    """Leave files of these names, empty where they are not there."""
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
    for name in names:
        (folder / name).touch()


def renamed(name: str) -> Callable[[Path], None]:
    """Give what renames the weights."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def sharded(folder: Path) -> None:
    """Save in shards, and lose one."""
    model = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    next(iter(sorted(folder.glob("*-of-*")))).unlink()


def pointed(name: str) -> Callable[[Path], None]:
    """Give what puts a pointer in a file's place."""
    return lambda folder: (folder / name).write_text(POINTER) and None


def adapted(folder: Path) -> None:
    """Leave an adapter that does not name its base model."""
    only(folder, "adapter_model.safetensors")
    edit(folder / "adapter_config.json", peft_type="LORA")


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an adapter of nothing": (adapted, "names no base model"),
    "llama.cpp": (renamed("model-q4.gguf"), r"llama.cpp \(GGUF\)"),
    "ONNX": (renamed("model.onnx"), "ONNX"),
    "TensorFlow": (renamed("tf_model.h5"), "TensorFlow"),
    "a variant alone": (renamed("model.fp16.safetensors"), "only a variant is there: rename model.fp16"),
    "an empty folder": (only, "an empty folder"),
    "a hub's cache": (
        lambda f: (only(f), (f / "snapshots").mkdir(), (f / "blobs").mkdir()) and None,
        "name snapshots/COMMIT",
    ),
    "a training's folder": (lambda f: (only(f), (f / "checkpoint-500").mkdir()) and None, "name one of them"),
    "a pointer for weights": (pointed("model.safetensors"), "model.safetensors: is a Git LFS pointer"),
    "a pointer for a tokenizer": (pointed("tokenizer.json"), "tokenizer.json: is a Git LFS pointer"),
    "a pointer for a configuration": (pointed("config.json"), "config.json: .*a Git LFS pointer"),
    "GPTQ": (
        lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantized \(gptq\)",
    ),
    "other quantized weights": (lambda f: edit(f / "config.json", quantization_config={"a": 1}), "quantized"),
    "a lost shard": (sharded, r"model-00001-of-\d+.safetensors is not there"),
    "an index of nothing": (
        lambda f: (renamed("x")(f), edit(f / "model.safetensors.index.json", weight_map={})) and None,
        "expected a weight_map",
    ),
    "an index that leads out": (
        lambda f: (
            (renamed("x")(f), edit(f / "model.safetensors.index.json", weight_map={"a": "../b"})) and None
        ),
        "files of its own folder",
    ),
    "timm": (
        lambda f: edit(f / "config.json", pretrained_cfg={"mean": [0.5]}, architecture="vit"),
        "a model of timm",
    ),
    "deeply nested": (lambda f: (f / "config.json").write_text("[" * 50_000) and None, "not a JSON file"),
}


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    """Copy a BERT folder, for a test that damages it."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_is_no_model_says_what_it_is(kind: str, folder: Path) -> None:
    """Before anything is loaded, in one sentence that names the folder."""
    damage, says = FOLDERS[kind]
    damage(folder)
    with pytest.raises(ModelError, match=says) as raised:
        TextEncoder(TextEncoderSpec(model=str(folder)))
    assert str(folder) in str(raised.value)


def test_what_does_not_fit_is_named(folder: Path) -> None:
    """Weights of another shape than the configuration says are named, with both shapes."""
    edit(folder / "config.json", intermediate_size=48)
    with pytest.raises(
        ModelError, match=r"misshapen \(.*of \(64, 32\) where the configuration says \(48, 32"
    ):
        TextEncoder(TextEncoderSpec(model=str(folder))).load("cpu", "float32")
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    with pytest.raises(ModelError, match="misshapen"):
        reference_of(encoder, str(folder), pa.array(["a"]), "cpu")


def test_a_reference_that_fails_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reference raises, the user gets its kind and its first line."""

    def fails(self: Encoder, column: pa.Array, device: str) -> Any:
        raise KeyError("odd\nand more")

    monkeypatch.setattr(TextEncoder, "reference", fails)
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    with pytest.raises(ModelError, match=r"the reference.*\(KeyError: 'odd.*parity.rows=0"):
        reference_of(encoder, "a model", pa.array(["a"]), "cpu")


UNKNOWN = {
    "of the model": ("config_sentence_transformers.json", {"mean_center": [1]}),
    "of the transformer": ("sentence_bert_config.json", {"query_expansion": {"length": 8}}),
    "of the transformer, elsewhere": ("sentence_bert_config.json", {"tokenizer_name_or_path": "x/y"}),
    "of a module": ("1_Pooling/config.json", {"pooling_temperature": 2.0}),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_keys_that_are_not_understood(kind: str, folder: Path) -> None:
    """A key that might give other vectors is refused by its name; one without a value is not."""
    sentences(folder)
    TextEncoder(TextEncoderSpec(model=str(folder)))
    name, keys = UNKNOWN[kind]
    edit(folder / name, **dict.fromkeys(keys), unused=False)
    TextEncoder(TextEncoderSpec(model=str(folder)))
    edit(folder / name, **keys)
    with pytest.raises(ModelError, match=f"{name}: {next(iter(keys))} is not understood"):
        TextEncoder(TextEncoderSpec(model=str(folder)))


@pytest.mark.parametrize("dim", [0, -3, "16", 2.5])
def test_lengths_that_are_none(dim: Any, folder: Path) -> None:
    """A `truncate_dim` that is no length is refused."""
    sentences(folder)
    edit(folder / "config_sentence_transformers.json", truncate_dim=dim)
    with pytest.raises(ModelError, match="truncate_dim is"):
        TextEncoder(TextEncoderSpec(model=str(folder)))


def sentences(folder: Path) -> None:
    """Make a folder of sentence-transformers of it."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    edit(folder / "1_Pooling" / "config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    edit(folder / "sentence_bert_config.json", max_seq_length=32, do_lower_case=False)
    edit(
        folder / "config_sentence_transformers.json",
        __version__={"pytorch": "2"},
        similarity_fn_name="cosine",
    )


def test_own_code_is_said(folder: Path) -> None:
    """A folder that names code of its own, and loads without it, is said to do so."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folder)))
    assert "own_code" not in encoder.describe()
    assert not_run("m", encoder.describe()) == ""
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"})
    described = TextEncoder(TextEncoderSpec(model=str(folder))).describe()
    assert described["own_code"] == {
        "run": False,
        "auto_map": {"config.json": {"AutoModel": "modeling_own.OwnModel"}},
    }
    assert "was not run" in not_run("m", described)
    trusted = TextEncoder(TextEncoderSpec(model=str(folder), trust_remote_code=True))
    assert not_run("m", {"own_code": trusted.describe()["own_code"]}) == ""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a GPT-2, whose tokenizer adds no special tokens."""
    folder = tmp_path_factory.mktemp("gpt2")
    vocabulary, merges, _ = tiny_models._bytes(["<|endoftext|>"])
    tokenizer = transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=64)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4
    )
    transformers.GPT2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_text_without_a_token(bare: str) -> None:
    """It is a reject of its own reason, here and for the reference; a prompt gives it tokens."""
    encoder = TextEncoder(TextEncoderSpec(model=bare))
    column = pa.array(["hello", "", None, "", "world"])
    prepared = encoder.prepare(column)
    assert [(reject.row, reject.reason) for reject in prepared.rejects] == [
        (1, Reason.NO_TOKEN),
        (2, Reason.NULL),
        (3, Reason.NO_TOKEN),
    ]
    assert prepared.index.tolist() == [0, -1, -1, -1, 1]
    assert encoder.lengths(prepared.inputs).min() > 0
    assert len(prepared.truncated) == prepared.inputs.num_rows == 2
    name, vectors = reference_of(encoder, bare, column, "cpu")
    assert name.startswith("transformers")
    assert [bool(row) for row in ~(vectors["embedding"] != vectors["embedding"]).any(axis=1)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert TextEncoder(TextEncoderSpec(model=bare, prompt="a ")).prepare(column).index[1] >= 0
    nothing = TextEncoder(TextEncoderSpec(model=bare)).prepare(pa.array(["", ""]))
    assert (nothing.inputs.num_rows, len(nothing.rejects)) == (0, 2)


def test_a_text_without_a_token_in_windows(bare: str) -> None:
    """A row or a window of it has no vector; a list of its words is empty."""
    column = pa.array(["hello big world", ""])
    row = WindowedEncoder(TextEncoderSpec(model=bare, window=4, outputs=(OutputSpec(pooling="mean"),)))
    prepared = row.prepare(column)
    assert [reject.reason for reject in prepared.rejects] == [Reason.NO_TOKEN]
    assert prepared.documents == 1
    assert reference_of(row, bare, column, "cpu")[1]
    words = WindowedEncoder(WordsEncoderSpec(model=bare))
    prepared = words.prepare(column)
    assert prepared.rejects == []
    assert prepared.beside is not None
    assert [len(of) for of in prepared.beside.column("word").to_pylist()] == [3, 0]
