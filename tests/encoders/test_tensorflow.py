"""The tensorflow family on real SavedModels, beside TensorFlow as a user calls it.

TensorFlow is no part of the usual environment: `tests/embedding/test_tensorflow_job.py` runs this
file where it has installed it.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from saved_models import save_models

from embed_ops import Encoder
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import cosines, reference_of
from embed_ops.encoders.base import FloatArray
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.encoders.tensorflow.encoder import TensorflowEncoder
from embed_ops.errors import DeviceError, EmbedOpsError, ModelError, ParityError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import TensorflowEncoderSpec
from embed_ops.spec.spec import parse_encoder

tf = pytest.importorskip("tensorflow")

ALONE = """
import sys, numpy as np
from embed_ops import Encoder
encoder = Encoder(sys.argv[1], family="tensorflow", parity=4, threads=1)
vectors = encoder.embed(["a text", "another one"])
assert vectors.shape == (2, 16) and encoder.resolved.threads_per_replica == 1
import tensorflow as tf
assert tf.config.threading.get_intra_op_parallelism_threads() == 1
sys.exit("torch" in sys.modules)
"""
TEXTS = ["a", "The cat sat on the mat", "word " * 300, "Grüße, naïve 日本", "the cat", "a"]
FOURS = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the models once."""
    folder = tmp_path_factory.mktemp("saved")
    save_models(folder)
    return folder


def encoder_of(folder: Path, **fields: Any) -> tuple[TensorflowEncoderSpec, TensorflowEncoder]:
    """Make the encoder of a folder."""
    spec = parse_encoder({"family": "tensorflow", "model": str(folder), **fields})
    assert isinstance(spec, TensorflowEncoderSpec)
    return spec, TensorflowEncoder(spec)


def embedded(encoder: TensorflowEncoder, column: pa.Array, budget: int) -> dict[str, FloatArray]:
    """Put a column through an encoder: {output: (rows, dim)}, NaN for rejects."""
    prepared = encoder.prepare(column)
    vectors = embed_inputs(encoder, prepared.inputs, budget).vectors
    rows = {name: np.full((len(column), of.shape[1]), np.nan, np.float32) for name, of in vectors.items()}
    for name, of in vectors.items():
        rows[name][prepared.index >= 0] = of[prepared.index[prepared.index >= 0]]
    return rows


def plain(folder: Path, output: str, **given: Any) -> FloatArray:
    """Call a SavedModel as its user would."""
    loaded = tf.saved_model.load(str(folder))
    called = loaded.signatures["serving_default"](**{name: tf.constant(of) for name, of in given.items()})
    vectors: FloatArray = called[output].numpy()
    return vectors


def photograph(number: int, form: str = "PNG", mode: str = "RGB") -> bytes:
    """Draw a smooth image of a size of its own, as the bytes of a file."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    file = io.BytesIO()
    small.resize((50 + number, 37), Image.Resampling.BICUBIC).convert(mode).save(file, form)
    return file.getvalue()


def test_texts_are_those_of_tensorflow(models: Path) -> None:
    """Vectors are TensorFlow's own, whatever the batches; a text without a word has none."""
    _, encoder = encoder_of(models / "text")
    encoder.load("cpu", "float32")
    column = pa.array([*TEXTS, None, ""])
    expected = plain(models / "text", "embedding", text=TEXTS)
    for budget in (1, 40, 4_096):
        vectors = embedded(encoder, column, budget)["embedding"]
        assert np.abs(vectors[: len(TEXTS)] - expected).max() < 1e-6
        assert np.isnan(vectors[len(TEXTS) :]).all()
    name, reference = encoder.reference(column)
    assert name == f"tensorflow {tf.__version__}, one row at a time"
    assert cosines(reference["embedding"][: len(TEXTS)], expected).min() >= 0.99999


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cnn", {"size": [20, 24]}),
        ("cnn", {"size": [20, 24], "value_range": [-1.0, 1.0]}),
        ("pixels", {}),
    ],
)
def test_images_are_those_of_tensorflow(models: Path, name: str, fields: dict[str, Any]) -> None:
    """From file to vector: opened upright, in RGB on white, resized, scaled, and run."""
    spec, encoder = encoder_of(models / name, **fields)
    encoder.load("cpu", "float32")
    kinds = [("PNG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("PNG", "P"), ("WEBP", "RGB")]
    files = [photograph(number, form, mode) for number, (form, mode) in enumerate(kinds)]
    column = pa.array([*files, b"no image", None, files[0]])
    low, high = spec.value_range if name == "cnn" else (0, 255)
    pixels = [
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize((24, 20), Image.Resampling.BILINEAR))
        for file in files
    ]
    scaled = np.stack(pixels).astype(np.float64) / 255 * (high - low) + low
    given = scaled.round().astype(np.uint8) if name == "pixels" else scaled.astype(np.float32)
    expected = plain(models / name, "feature_vector", image=given)
    for budget in (2, 4_096):
        vectors = embedded(encoder, column, budget)["embedding"]
        assert cosines(vectors[: len(files)], expected).min() >= 0.99999
        assert np.array_equal(vectors[8], vectors[0])
        assert np.isnan(vectors[6:8]).all()
    reference = encoder.reference(column)[1]["embedding"]
    assert cosines(reference[: len(files)], expected).min() >= 0.99999


def test_tensors_are_those_of_tensorflow(models: Path) -> None:
    """Rows of numbers, several outputs of one pass, shortened and normalised."""
    outputs = [
        {"name": "whole", "tensor": "vector"},
        {"name": "short", "tensor": "vector", "dim": 3, "normalize": True},
        {"name": "twice", "tensor": "twice"},
    ]
    _, encoder = encoder_of(models / "numbers", outputs=outputs)
    encoder.load("cpu", "float32")
    column = pa.array([*FOURS.astype(float).tolist(), None, [1.0]])
    expected = plain(models / "numbers", "vector", x=FOURS)
    vectors = embedded(encoder, column, 7)
    assert np.abs(vectors["whole"][:50] - expected).max() < 1e-6
    short = expected[:, :3] / np.linalg.norm(expected[:, :3], axis=1, keepdims=True)
    assert np.abs(vectors["short"][:50] - short).max() < 1e-6
    assert np.array_equal(vectors["twice"][:50], 2 * FOURS)
    reference = encoder.reference(column)[1]
    assert all(cosines(reference[name][:50], of[:50]).min() >= 0.99999 for name, of in vectors.items())
    assert [reject.reason for reject in encoder.prepare(column).rejects] == [Reason.NULL, Reason.WRONG_SHAPE]


def test_images_may_be_tensors(models: Path) -> None:
    """What a model of images takes may come as numbers, flat or nested."""
    _, encoder = encoder_of(models / "pixels")
    encoder.load("cpu", "float32")
    images = np.random.default_rng(2).integers(0, 256, (3, 20, 24, 3), np.uint8)
    expected = plain(models / "pixels", "feature_vector", image=images)
    for column in (pa.array(images.tolist()), pa.array(images.reshape(3, -1).tolist())):
        assert np.abs(embedded(encoder, column, 4)["embedding"] - expected).max() < 1e-5


def test_a_model_that_takes_a_row_at_a_time(models: Path) -> None:
    """Its batches are rows, one after the other."""
    _, encoder = encoder_of(models / "one")
    encoder.load("cpu", "float32")
    expected = np.concatenate([plain(models / "one", "vector", x=FOURS[row : row + 1]) for row in range(5)])
    assert np.array_equal(embedded(encoder, pa.array(FOURS[:5].tolist()), 99)["embedding"], expected)
    assert encoder.describe()["rows_at_once"] == "one"


def test_a_model_in_front(models: Path) -> None:
    """What it gives by name is what the model takes; the reference calls both."""
    _, encoder = encoder_of(models / "behind", preprocessing=str(models / "front"))
    encoder.load("cpu", "float32")
    column = pa.array(TEXTS)
    between = tf.saved_model.load(str(models / "front")).signatures["serving_default"](
        text=tf.constant(TEXTS)
    )
    expected = plain(models / "behind", "vector", **between)
    assert np.array_equal(embedded(encoder, column, 9)["embedding"], expected)
    assert np.array_equal(encoder.reference(column)[1]["embedding"], expected)


def test_what_draws_or_mixes_is_refused(models: Path) -> None:
    """Other vectors for the same row, by chance or by its neighbours, are no embedding."""
    rows = FOURS[:8].tolist()
    with pytest.raises(ModelError, match="draws at random"):
        Encoder(str(models / "drawing"), family="tensorflow").embed(rows)
    with pytest.raises(ParityError, match="differ from the reference"):
        Encoder(str(models / "mixing"), family="tensorflow", parity=8).embed(rows)


def test_a_row_that_memory_does_not_hold(models: Path) -> None:
    """The runtime tells its own error of memory: batches are halved down to the row."""
    spec, encoder = encoder_of(models / "hungry")
    encoder.load("cpu", "float32")
    inputs = encoder.prepare(pa.array(["a", "b", "huge", "c"])).inputs
    found = embed_inputs(encoder, inputs, 4_096, runtime=runtime_of(spec))
    assert found.refused == {2: Reason.TOO_LARGE}
    assert np.isnan(found.vectors["embedding"]).any(axis=1).tolist() == [False, False, True, False]
    assert found.halved == 2


def test_files_that_tensorflow_cannot_load(models: Path, tmp_path: Path) -> None:
    """Lost variables and an operator that is not there are one sentence each."""
    shutil.copytree(models / "text", tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost/variables")
    shutil.copytree(models / "text", tmp_path / "other")
    graph = tmp_path / "other/saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"StringLower", b"StringLowes"))
    for name, said in (
        ("lost", "can't load it .*; fetch the model again"),
        ("other", "operator StringLowes"),
    ):
        with pytest.raises(ModelError, match=said) as refused:
            encoder_of(tmp_path / name)[1].load("cpu", "float32")
        assert "\n" not in str(refused.value)
    narrow = encoder_of(models / "numbers", outputs=[{"tensor": "twice", "dim": 4}])[1]
    with pytest.raises(ModelError, match="leave dtype and compile out"):
        narrow.load("cpu", "bfloat16")


def test_errors_of_a_reference_are_the_runtimes(models: Path) -> None:
    """What the reference meets is asked of TensorFlow, not of torch."""
    spec, encoder = encoder_of(models / "hungry")
    runtime = runtime_of(spec)
    with pytest.raises(tf.errors.ResourceExhaustedError) as met:
        reference_of(encoder, spec.model, pa.array(["huge"]), "cpu", runtime)
    assert runtime.ran_out_of_memory(met.value)
    assert not runtime.lost_device(met.value)
    with pytest.raises(DeviceError, match="computes on CPUs"):
        runtime.require_device("cuda")


def test_in_memory_there_is_no_torch(models: Path) -> None:
    """A process that embeds by TensorFlow has its threads, and loads no torch."""
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(models / "text")], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_in_memory(models: Path) -> None:
    """Texts, images and numbers are told by what the rows are."""
    texts = Encoder(str(models / "text"), family="tensorflow", parity=4)
    assert texts.embed(["a", "b c"]).shape == (2, 16)
    assert texts.parity(TEXTS)[0].min >= 0.99999
    images = Encoder(str(models / "pixels"), family="tensorflow")
    assert images.embed([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 12)
    numbers = Encoder(str(models / "numbers"), family="tensorflow", outputs=[{"tensor": "vector"}])
    for rows in (FOURS, FOURS.tolist(), pa.array(FOURS.tolist())):
        assert numbers.embed(rows).shape == (50, 6)
    with pytest.raises(EmbedOpsError, match="the column holds texts"):
        numbers.embed(["a"])
