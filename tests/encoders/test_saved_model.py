"""What is read off a SavedModel without TensorFlow: what it takes and gives, and each refusal."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reading import write
from saved_models import BOOL, FLOAT, INT32, INT64, STRING, Tensor, write_saved_model

from embed_ops.analysis.starter import starter
from embed_ops.embedding.settings import fingerprint
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.registry import encoder_class, make_encoder
from embed_ops.encoders.runtimes import TORCH, preloaded, runtime_of
from embed_ops.encoders.tensorflow import model as models
from embed_ops.encoders.tensorflow.encoder import TensorflowEncoder
from embed_ops.encoders.tensorflow.saved_model import read_contents
from embed_ops.encoders.tensorflow.wiring import levels
from embed_ops.errors import ModelError, PackageError, SourceError, SpecError
from embed_ops.spec.encoder import TensorflowEncoderSpec
from embed_ops.spec.spec import Spec, parse_encoder

TEXT: dict[str, Tensor] = {"text": (STRING, (-1,))}
VECTOR: dict[str, Tensor] = {"vector": (FLOAT, (-1, 16))}
ROWS: dict[str, Tensor] = {"x": (FLOAT, (-1, 4))}
WITHOUT = """
import sys, pyarrow as pa
from embed_ops.encoders.tensorflow import model
from embed_ops.encoders.registry import make_encoder
from embed_ops.spec.spec import parse_encoder
model.require_runtime = lambda: None
encoder = make_encoder(parse_encoder({"family": "tensorflow", "model": sys.argv[1]}))
assert len(encoder.prepare(pa.array(["a", "b", None])).inputs) == 2
sys.exit(len({"torch", "tensorflow", "keras", "transformers"} & set(sys.modules)))
"""


@pytest.fixture
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TensorFlow count as installed: nothing here is loaded."""
    monkeypatch.setattr(models, "require_runtime", lambda: None)


def encoder_of(folder: Path, **fields: Any) -> TensorflowEncoder:
    """Make the encoder of a folder."""
    spec = parse_encoder({"family": "tensorflow", "model": str(folder), **fields})
    assert isinstance(spec, TensorflowEncoderSpec)
    return TensorflowEncoder(spec)


def test_contents(tmp_path: Path) -> None:
    """Signatures are read with types and shapes; those of TensorFlow's own are left out."""
    takes: dict[str, Tensor] = {"b": (INT64, (-1, 3)), "a": (STRING, None), "c": (FLOAT, ())}
    write_saved_model(tmp_path / "m", takes, VECTOR, operators=("MatMul", "Cast"))
    contents = read_contents(tmp_path / "m/saved_model.pb")
    assert list(contents.signatures) == ["serving_default"]
    signature = contents.signatures["serving_default"]
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in signature.inputs.items()} == {
        "a": ("string", None),
        "b": ("int64", (None, 3)),
        "c": ("float32", ()),
    }
    assert str(signature.inputs["b"]) == "int64 (any, 3)"
    assert contents.operators == {"MatMul", "Cast"}


@pytest.mark.usefixtures("_there")
def test_preparing_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    """A worker that prepares texts imports neither."""
    folder = write_saved_model(tmp_path / "m", TEXT, VECTOR)
    assert subprocess.run([sys.executable, "-c", WITHOUT, str(folder)], check=False).returncode == 0


@pytest.mark.usefixtures("_there")
def test_texts(tmp_path: Path) -> None:
    """Distinct texts are inputs, longer ones cost more, and a blank one is as long."""
    encoder = encoder_of(write_saved_model(tmp_path / "m", TEXT, VECTOR))
    assert dims_of(encoder.outputs()) == {"embedding": 16}
    prepared = encoder.prepare(pa.array(["a", "äöü" * 4, None, "a"]))
    assert prepared.index.tolist() == [0, 1, -1, 0]
    assert encoder.lengths(prepared.inputs).tolist() == [1, 7]
    blank = encoder.blank(prepared.inputs, [1])
    assert blank.column("text").to_pylist() == ["a", "a" * 24]
    assert encoder.most_rows("text", 16_384) == 16_384
    assert encoder.flops(np.ones(3, np.int32)) == 0
    with pytest.raises(SourceError, match="choose a text column"):
        encoder.prepare(pa.array([1.0]))


@pytest.mark.usefixtures("_there")
def test_images_and_tensors(tmp_path: Path) -> None:
    """A model of images takes tensors of that shape too; each has its inputs."""
    takes: dict[str, Tensor] = {"image": (FLOAT, (-1, 8, 6, 3))}
    encoder = encoder_of(write_saved_model(tmp_path / "m", takes, VECTOR))
    column = pa.array([list(range(144)), [1.0], None], pa.list_(pa.float64()))
    prepared = encoder.prepare(column)
    assert prepared.index.tolist() == [0, -1, -1]
    assert encoder.lengths(prepared.inputs).tolist() == [1]
    assert encoder.most_rows("tensor", 9) == 9
    assert not np.any(encoder.blank(prepared.inputs, [0]).column("tensor").to_pylist())
    images = encoder.prepare(pa.array([b"no image", None]))
    assert [reject.reason for reject in images.rejects] == ["undecodable", "null"]
    assert encoder.most_rows("image", 1 << 30) == (80 << 20) // (8 * 6 * 3)
    with pytest.raises(ModelError, match="the column holds texts"):
        encoder.most_rows("text", 1)
    with pytest.raises(ModelError, match="the column holds texts"):
        encoder.prepare(pa.array(["a"]))


def test_levels_of_pixels() -> None:
    """The ends of the range are met exactly, and bytes stay bytes."""
    assert levels("float32", (-1.0, 1.0))[[0, 255]].tolist() == [-1.0, 1.0]
    assert levels("float32", (0.0, 255.0)).tolist() == list(range(256))
    assert levels("uint8", (0.0, 1.0)).tolist() == list(range(256))


@pytest.mark.usefixtures("_there")
def test_fingerprint(tmp_path: Path) -> None:
    """All files of the model and of what stands in front are hashed; a copy is the same model."""
    front = write_saved_model(tmp_path / "front", TEXT, ROWS)
    folder = write_saved_model(tmp_path / "m", ROWS, VECTOR)
    (folder / "assets").mkdir()
    (folder / "assets/vocabulary.txt").write_text("a")
    (folder / "keras_metadata.pb").write_bytes(b"of no weight")
    before = encoder_of(folder, preprocessing=str(front)).fingerprint()
    assert set(before) == {
        "saved_model.pb",
        "variables/variables.index",
        "assets/vocabulary.txt",
        "preprocessing/saved_model.pb",
        "preprocessing/variables/variables.index",
    }
    shutil.copytree(folder, tmp_path / "copy")
    assert encoder_of(tmp_path / "copy", preprocessing=str(front)).fingerprint() == before
    (folder / "assets/vocabulary.txt").write_text("b")
    after = encoder_of(folder, preprocessing=str(front)).fingerprint()
    assert {name for name in before if before[name] != after[name]} == {"assets/vocabulary.txt"}


def test_fields_of_the_spec_are_in_the_fingerprint() -> None:
    """Signature, size and range decide vectors; no other family has them."""
    trees = [{"family": "tensorflow", "model": "m", "size": [8, 8]}, {"model": "m"}]
    keys = []
    for encoder in trees:
        source = {"path": "in/", "column": "x", "modality": "text"}
        spec = Spec.parse({"source": source, "encoder": encoder, "sink": {"path": "out/"}})
        keys.append(set(fingerprint(spec, {})))
    assert keys[0] - keys[1] == {"encoder.signature", "encoder.size", "encoder.value_range"}


LISTED: dict[str, Tensor] = {"a": (FLOAT, (-1, 4)), "b": (FLOAT, (-1, 8)), "n": (INT32, (-1, 4))}
MAP: dict[str, Tensor] = {"map": (FLOAT, (-1, 7, 7, 8)), "n": (INT32, (-1,))}
WIDE: dict[str, Tensor] = {"vector": (FLOAT, (-1, -1))}


@pytest.mark.parametrize(
    ("inputs", "outputs", "modality", "fields", "said"),
    [
        (TEXT, VECTOR, "text", {"signature": "other"}, "no signature 'other'; its signatures: serving_def"),
        (TEXT, LISTED, "text", {}, 'several may be meant; .* tensor = "a"'),
        (TEXT, LISTED, "text", {"outputs": [{"tensor": "c"}]}, "has no output 'c'; its outputs: a float32"),
        (TEXT, LISTED, "text", {"outputs": [{"tensor": "n"}]}, "n is int32 .any, 4., and vectors are floats"),
        (
            TEXT,
            MAP,
            "text",
            {},
            "no output has a vector of floats for each row; .* map float32 .any, 7, 7, 8",
        ),
        (TEXT, WIDE, "text", {}, "does not say how wide its vectors are; give dim"),
        (TEXT, VECTOR, "text", {"outputs": [{"dim": 17}]}, "dim is 17, and vector has 16 dimensions"),
        (TEXT, VECTOR, "image", {}, "is string .any., and images are .rows, height, width, 3."),
        (TEXT, VECTOR, "tensor", {}, "is string .any., and the column holds numbers"),
        (ROWS, VECTOR, "text", {}, "is float32 .any, 4., and the column holds texts"),
        ({"x": (FLOAT, (-1, -1))}, VECTOR, "tensor", {}, "rows are of one shape that the model knows"),
        ({"x": (FLOAT, (8, 4))}, VECTOR, "tensor", {}, "a batch of 8 rows and no other"),
        ({"x": (FLOAT, ())}, VECTOR, "tensor", {}, "without an axis of rows"),
        ({"x": (FLOAT, None)}, VECTOR, "tensor", {}, "without an axis of rows"),
        ({"x": (BOOL, (-1, 4))}, VECTOR, "tensor", {}, "is bool .any, 4., and rows are texts, images"),
        ({"x": (STRING, (-1, 2))}, VECTOR, "text", {}, "and a row is one text"),
        ({**ROWS, **TEXT}, VECTOR, "text", {}, "takes 2 inputs .text string .any., x float32 .any, 4.."),
        (
            {"x": (FLOAT, (-1, -1, -1, 3))},
            VECTOR,
            "image",
            {},
            r"images may have any size; .* = \[224, 224\]",
        ),
        ({"x": (FLOAT, (-1, 8, 8, 3))}, VECTOR, "image", {"size": [9, 9]}, "images of 8 x 8 pixels: leave"),
        ({"x": (FLOAT, (-1, 8, 8, 1))}, VECTOR, "image", {}, "images are .rows, height, width, 3."),
    ],
)
@pytest.mark.usefixtures("_there")
def test_what_does_not_fit(
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    modality: str,
    fields: dict[str, Any],
    said: str,
    tmp_path: Path,
) -> None:
    """A signature, output, rank or type that does not fit is one sentence with those there are."""
    write_saved_model(tmp_path / "m", inputs, outputs)
    with pytest.raises(ModelError, match=said) as refused:
        encoder_of(tmp_path / "m", **fields).most_rows(modality, 1)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("_there")
def test_unknown_widths_and_ranks(tmp_path: Path) -> None:
    """`dim` says how wide vectors are where the file does not; strings of any rank are texts."""
    folder = write_saved_model(tmp_path / "m", {"text": (STRING, None)}, WIDE)
    encoder = encoder_of(folder, outputs=[{"dim": 512}])
    assert dims_of(encoder.outputs()) == {"embedding": 512}
    assert encoder.most_rows("text", 7) == 7


@pytest.mark.usefixtures("_there")
def test_what_stands_in_front(tmp_path: Path) -> None:
    """It takes the rows, and gives what the model takes, by name and type; it lies here."""
    gives: dict[str, Tensor] = {"ids": (INT32, (-1, 8)), "mask": (INT32, (-1, 8)), "more": (INT32, (-1,))}
    front = write_saved_model(tmp_path / "front", TEXT, gives)
    takes: dict[str, Tensor] = {"ids": (INT32, (-1, 8)), "mask": (INT32, (-1, 8))}
    fits = write_saved_model(tmp_path / "fits", takes, VECTOR)
    assert encoder_of(fits, preprocessing=str(front)).most_rows("text", 5) == 5
    other = write_saved_model(tmp_path / "other", {**takes, "types": (INT32, (-1, 8))}, VECTOR)
    with pytest.raises(ModelError, match="nothing is called types"):
        encoder_of(other, preprocessing=str(front))
    wrong = write_saved_model(tmp_path / "wrong", {**takes, "mask": (INT64, (-1, 8))}, VECTOR)
    with pytest.raises(ModelError, match=r"gives mask as int32 .any, 8., and .* takes mask as int64"):
        encoder_of(wrong, preprocessing=str(front))
    with pytest.raises(ModelError, match=r"encoder\.model: \./nowhere/ is not a model folder"):
        encoder_of(fits, preprocessing="./nowhere/")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.keras", 'is a model of Keras: encoder.family = "keras"; family tensorflow takes the folder'),
        ("net.h5", 'is a model of Keras: encoder.family = "keras"'),
        ("net.tflite", "is a TFLite model, which is not read here"),
        ("model.onnx", 'is a model of ONNX: encoder.family = "onnx"'),
        ("frozen.pb", "is a bare graph of TensorFlow"),
        ("weights.ckpt.index", "is a checkpoint, which has weights and no model"),
        ("notes.txt", "is another file"),
    ],
)
def test_files_that_are_no_saved_model(name: str, said: str, tmp_path: Path) -> None:
    """A file of another program is named, alone or in its folder."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=said):
        encoder_of(tmp_path / "m" / name)
    with pytest.raises(ModelError, match=r"holds no SavedModel \(saved_model.pb\), found ") as refused:
        encoder_of(tmp_path / "m")
    assert name == "notes.txt" or said.removeprefix("is ").partition(";")[0] in str(refused.value)


def test_folders_that_are_no_saved_model(tmp_path: Path) -> None:
    """Versions of a server, a graph for training, a cut file and a pointer are named."""
    whole = write_saved_model(tmp_path / "served/1", TEXT, VECTOR)
    with pytest.raises(ModelError, match="found one in 1/: name that folder"):
        encoder_of(tmp_path / "served")
    with pytest.raises(ModelError, match=r"saved_model.pb is the file of one"):
        encoder_of(whole / "saved_model.pb")
    write_saved_model(tmp_path / "first", TEXT, VECTOR, tags=("train",))
    with pytest.raises(ModelError, match=r"no graph with the tag 'serve' \(its graphs: train\)"):
        encoder_of(tmp_path / "first")
    content = (whole / "saved_model.pb").read_bytes()
    for broken in (content[:-9], b"no protobuf", b""):
        (whole / "saved_model.pb").write_bytes(broken)
        with pytest.raises(ModelError, match=r"is no SavedModel of TensorFlow|is an empty file|no graph"):
            encoder_of(whole)
    (whole / "saved_model.pb").write_bytes(content)
    (whole / "variables/variables.index").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="is a Git LFS pointer"):
        encoder_of(whole)
    with pytest.raises(ModelError, match="not a model folder"):
        encoder_of(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r'a SavedModel of TensorFlow: encoder\.family = "tensorflow"'):
        make_encoder(parse_encoder({"model": str(tmp_path / "first")}))


def test_operators_that_no_model_needs(tmp_path: Path) -> None:
    """A graph that runs Python, or writes files, is refused by name."""
    write_saved_model(tmp_path / "m", TEXT, VECTOR, operators=("MatMul", "WriteFile", "EagerPyFunc"))
    with pytest.raises(ModelError, match="has the operators EagerPyFunc, WriteFile"):
        encoder_of(tmp_path / "m")


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_without_tensorflow(tmp_path: Path) -> None:
    """A model that is fine needs the extra, and one sentence says so."""
    write_saved_model(tmp_path / "m", TEXT, VECTOR)
    with pytest.raises(PackageError, match=r"needs the package tensorflow.*embed-ops\[tensorflow\]"):
        encoder_of(tmp_path / "m")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"compile": True}, "leave compile out"),
        ({"dtype": "bfloat16"}, "computes in float32"),
        ({"outputs": [{"layer": 3}]}, "a signature has outputs by name"),
        ({"outputs": [{"pooling": "mean"}]}, "pooling 'mean' is none of family 'tensorflow'"),
        ({"size": [0, 8]}, "size"),
        ({"value_range": [0, 1, 2]}, "value_range"),
    ],
)
def test_refused_fields(fields: dict[str, Any], said: str) -> None:
    """What the family can't do is refused before a model is looked at."""
    with pytest.raises(SpecError, match=said):
        parse_encoder({"family": "tensorflow", "model": "m", **fields})


def test_a_table_says_what_it_holds() -> None:
    """The family takes three things, so a table must say which; images need not."""
    tree = {"encoder": {"family": "tensorflow", "model": "m"}, "sink": {"path": "out/"}}
    with pytest.raises(SpecError, match='say which the column holds, "image", "text" or "tensor"'):
        Spec.parse({**tree, "source": {"path": "in/", "column": "x"}})
    assert Spec.parse({**tree, "source": {"path": "in/", "kind": "images"}}).source.modality == "image"
    source = {"path": "in/", "column": "x", "modality": "text"}
    with pytest.raises(SpecError, match="gpus_per_replica is 1, and family 'tensorflow' computes on CPUs"):
        Spec.parse({**tree, "source": source, "resources": {"gpus_per_replica": 1}})


def test_a_family_names_its_runtime() -> None:
    """Isolation's server imports what the family computes by; torch beside no TensorFlow."""
    specs = {
        family: parse_encoder({"family": family, "model": "m"})
        for family in ("text", "onnx", "image", "static", "tensorflow")
    }
    assert {family: preloaded(spec) for family, spec in specs.items()} == {
        "text": ("torch", "transformers.models.auto.modeling_auto"),
        "image": ("torch", "transformers.models.auto.modeling_auto"),
        "static": ("torch", "transformers.models.auto.modeling_auto"),
        "onnx": ("torch",),
        "tensorflow": ("embed_ops.encoders.tensorflow.device",),
    }
    for family in ("text", "onnx"):
        assert getattr(runtime_of(specs[family]), "__name__", "") == TORCH
    assert encoder_class(specs["tensorflow"]) is TensorflowEncoder


@pytest.mark.usefixtures("_there")
def test_init_tells_the_family(tmp_path: Path) -> None:
    """A folder with a SavedModel is recognised, and a table says what it holds."""
    write(tmp_path / "texts/a.parquet", pa.table({"id": [1, 2], "text": ["a", "b"]}))
    write(tmp_path / "numbers/a.parquet", pa.table({"id": [1, 2], "x": [[1.0, 2.0, 3.0, 4.0]] * 2}))
    texts = write_saved_model(tmp_path / "of-texts", TEXT, VECTOR)
    numbers = write_saved_model(tmp_path / "of-numbers", ROWS, VECTOR)
    for corpus, model, modality in (("texts", texts, "text"), ("numbers", numbers, "tensor")):
        written = starter(str(tmp_path / corpus), model=str(model), sink=str(tmp_path / "run"))
        spec = Spec.parse(tomllib.loads(written.text("embed.toml")))
        assert (spec.encoder.family, spec.encoder.model) == ("tensorflow", str(model))
        assert spec.source.modality == modality
    with pytest.raises(ModelError, match=r"embeds texts: .* its input x is float32 .any, 4., and the column"):
        starter(str(tmp_path / "texts"), model=str(numbers), sink=str(tmp_path / "run"))
    with pytest.raises(ModelError, match="'x' holds lists of numbers, which no model takes by itself"):
        starter(str(tmp_path / "numbers"), sink=str(tmp_path / "run"))
