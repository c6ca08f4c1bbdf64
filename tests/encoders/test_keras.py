"""The keras family: networks of images and of numbers against Keras called plainly; refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import tiny_keras
from loopback_hub import COMMIT, MODEL, serve
from tiny_keras import NUMBERS, SIDE, classifier, keras, layers, plainly, saved
from tiny_vision import encoded, photographs, samples

from embed_ops import Encoder
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.keras.encoder import KerasEncoder
from embed_ops.encoders.keras.images import levels_of
from embed_ops.encoders.keras.model import KerasModel
from embed_ops.encoders.keras.network import runtime
from embed_ops.encoders.keras.recorded import recorded_shapes
from embed_ops.encoders.keras.starting import first_lines
from embed_ops.encoders.keras.taps import shape_at
from embed_ops.errors import EmbedOpsError, ModelError, PackageError, SourceError, SpecError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import KerasEncoderSpec
from embed_ops.spec.spec import parse_encoder

FEW = ("jpeg", "alpha", "transparent palette", "turned 6")
POOL = {"tensor": "pool"}
OUTPUTS = (
    {"name": "pool", "tensor": "pool"},
    {"name": "mean", "tensor": "first", "pooling": "mean", "normalize": True},
    {"name": "most", "tensor": "tower/last", "pooling": "max"},
    {"name": "tower", "tensor": "tower", "pooling": "mean"},
)


def encoder_of(file: Path, **fields: Any) -> KerasEncoder:
    """Make an encoder and load it."""
    encoder = KerasEncoder(KerasEncoderSpec.model_validate({"model": str(file), **fields}, strict=False))
    encoder.load("cpu", "float32")
    return encoder


def embed(encoder: KerasEncoder, column: pa.Array, budget: int = 2048) -> dict[str, np.ndarray[Any, Any]]:
    """Embed rows as a replica does: {output: a vector for each row that is none of the rejects}."""
    prepared = encoder.prepare(column)
    vectors = embed_inputs(encoder, prepared.inputs, budget).vectors  # type: ignore[arg-type]
    return {name: found[prepared.index[prepared.index >= 0]] for name, found in vectors.items()}


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give the cosine of each pair of rows."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / norms)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a classifier of images in both formats."""
    folder, network = tmp_path_factory.mktemp("keras"), classifier()
    return {ending: saved(network, folder / f"{ending}/net.{ending}") for ending in _folders(folder)}


def _folders(folder: Path) -> list[str]:
    for ending in ("keras", "h5"):
        (folder / ending).mkdir()
    return ["keras", "h5"]


def test_photographs_through_a_trained_network(tmp_path: Path) -> None:
    """Each vector is that of Keras called plainly on the file, from its bytes on."""
    file, files = tiny_keras.trained(), []
    for number, photo in enumerate(photographs()):
        for part, box in enumerate([(0, 0, 640, 427), (50, 30, 350, 330)]):
            files.append(tmp_path / f"{number}{part}.jpg")
            files[-1].write_bytes(encoded(photo.crop(box), "JPEG", quality=90))
    network = keras.saving.load_model(file, compile=False)
    expected = plainly(
        network,
        "global_average_pooling2d",
        np.stack(
            [
                keras.applications.mobilenet_v2.preprocess_input(
                    keras.utils.img_to_array(keras.utils.load_img(path, target_size=(160, 160)))
                )
                for path in files
            ]
        ),
    )
    encoder = encoder_of(file, preprocessing="tf", outputs=({"tensor": "global_average_pooling2d"},))
    vectors = embed(encoder, pa.array([path.read_bytes() for path in files]))["embedding"]
    assert vectors.shape == (4, 1280)
    assert cosines(vectors, expected).min() >= 0.99999
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    # 300 million multiply-adds, as its authors count.
    assert 5.5e8 < encoder.flops(np.ones(2, np.int32)) < 7e8
    assert encoder.describe()["saved_by"] == "keras 3.11.3"


@pytest.mark.parametrize(
    ("ending", "images"),
    [
        ("keras", FEW),
        pytest.param("h5", FEW, marks=pytest.mark.slow),
        pytest.param("keras", (), marks=pytest.mark.slow),
    ],
)
def test_layers_batches_and_the_reference(ending: str, images: tuple[str, ...], net: dict[str, Path]) -> None:
    """Layers outside and inside of a tower; a row alone has the vector that it has among others."""
    encoder = encoder_of(net[ending].parent, preprocessing="caffe", outputs=OUTPUTS)
    contents = [samples()[name] for name in images or samples()]
    column = pa.array([*contents, None, b"", b"<html>", contents[0]], pa.binary())
    prepared = encoder.prepare(column)
    assert [reject.reason for reject in prepared.rejects] == [
        Reason.NULL,
        Reason.UNDECODABLE,
        Reason.UNDECODABLE,
    ]
    assert len(prepared.inputs) == len(contents)
    name, alone = encoder.reference(column)
    assert name == f"keras {keras.__version__}, one row at a time"
    together = embed_inputs(encoder, prepared.inputs, 7).vectors  # type: ignore[arg-type]
    assert {name: vectors.shape[1] for name, vectors in together.items()} == {
        "pool": 12,
        "mean": 8,
        "most": 12,
        "tower": 12,
    }
    # Transparency is laid on white by other functions of Pillow, which may differ by one level.
    for compared in compare_outputs(together, prepared.index, (name, alone)):
        assert compared.min > 0.99999
    one = embed_inputs(encoder, prepared.inputs, 1).vectors  # type: ignore[arg-type]
    for output, vectors in one.items():
        np.testing.assert_allclose(vectors, together[output], atol=1e-4, rtol=1e-5)
    again = embed_inputs(encoder, prepared.inputs, 7).vectors  # type: ignore[arg-type]
    assert all(again[output].tobytes() == together[output].tobytes() for output in again)
    blank = encoder.blank(prepared.inputs, {1})
    assert blank.column("pixels")[1].as_py() == bytes(SIDE * SIDE * 3)
    assert blank.column("pixels")[0] == prepared.inputs.column("pixels")[0]
    json.dumps(encoder.describe())
    assert encoder.fingerprint().keys() == {f"net.{ending}"}


@pytest.mark.parametrize("which", ["tiny keras", "tiny h5", pytest.param("trained", marks=pytest.mark.slow)])
def test_shapes_that_a_file_tells(which: str, net: dict[str, Path]) -> None:
    """What is read off the configuration is what Keras builds, and has the layers that matter."""
    file = tiny_keras.trained() if which == "trained" else net[which.partition(" ")[2]]
    model = KerasModel(KerasEncoderSpec(model=str(file), preprocessing="none"))
    built, shapes = model.built(), recorded_shapes(model.structure.top)
    last, pooled = ("dense", "global_average_pooling2d") if which == "trained" else ("classes", "pool")
    assert {last, pooled, ""} <= shapes.keys()
    inner = {layer.path for layer in model.structure.layers if layer.parts}
    for path, shape in shapes.items():
        # Of a network inside another one Keras gives what it is for images of any size.
        built_shape = shape_at(built, path)
        assert built_shape is not None
        assert shape == built_shape or (path in inner and shape[-1] == built_shape[-1])


@pytest.mark.parametrize("mode", ["tf", "caffe", "torch"])
def test_preprocessing_has_the_bits_of_keras(mode: str) -> None:
    """All 256 values of each channel become what `preprocess_input` makes of them."""
    grays = np.repeat(np.arange(256, dtype=np.float32)[:, np.newaxis], 3, axis=1)[np.newaxis]
    expected = keras.applications.imagenet_utils.preprocess_input(
        grays, data_format="channels_last", mode=mode
    )
    levels = levels_of(mode, None, None).T
    np.testing.assert_array_equal(levels[:, ::-1] if mode == "caffe" else levels, expected[0])


@pytest.mark.parametrize(
    ("interpolation", "fields"),
    [
        ("nearest", {"preprocessing": "torch"}),
        ("bilinear", {"mean": 127.5, "scale": 1 / 127.5}),
        pytest.param("bicubic", {"preprocessing": "none"}, marks=pytest.mark.slow),
        pytest.param("lanczos", {"preprocessing": "none", "scale": (0.1, 0.2, 0.3)}, marks=pytest.mark.slow),
        pytest.param("box", {"mean": (1, 2, 3)}, marks=pytest.mark.slow),
        pytest.param("hamming", {"preprocessing": "tf"}, marks=pytest.mark.slow),
    ],
)
def test_images_are_resized_as_keras_does(interpolation: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Every way gives the pixels of `load_img`, also to a size of the spec's own."""
    network = classifier(shape=(None, None, 3))
    size = (20, 28)
    encoder = encoder_of(
        saved(network, tmp_path / "net.keras"),
        outputs=(POOL,),
        size=size,
        interpolation=interpolation,
        **fields,
    )
    contents = [samples()[name] for name in ("jpeg", "png", "narrow", "gray")]
    values = np.stack(
        [
            keras.utils.img_to_array(
                keras.utils.load_img(BytesIO(content), target_size=size, interpolation=interpolation)
            )
            for content in contents
        ]
    )
    mode = fields.get("preprocessing", "none")
    if mode != "none":
        values = keras.applications.imagenet_utils.preprocess_input(values, mode=mode)
    values = (values - np.array(fields.get("mean", 0))) * np.array(fields.get("scale", 1))
    vectors = embed(encoder, pa.array(contents))["embedding"]
    np.testing.assert_allclose(vectors, plainly(network, "pool", values), rtol=1e-4, atol=1e-4)


def test_turned_photographs_stand_upright(net: dict[str, Path]) -> None:
    """The camera's orientation counts, as for all families of images; Keras itself ignores it."""
    encoder = encoder_of(net["keras"], preprocessing="tf", outputs=(POOL,))
    turned = [samples()[f"turned {orientation}"] for orientation in (2, 3, 6, 8)]
    vectors = embed(encoder, pa.array([*turned, samples()["png"]]))["embedding"]
    assert len({vector.tobytes() for vector in vectors}) == 5


def test_rows_of_numbers(tmp_path: Path) -> None:
    """A network of vectors takes lists of as many numbers; the others are rejects."""
    network = tiny_keras.dense()
    file = saved(network, tmp_path / "dense.keras")
    encoder = encoder_of(file, outputs=({"name": "code"}, {"name": "hidden", "tensor": "hidden"}))
    rows = np.random.default_rng(3).normal(size=(50, NUMBERS)).astype(np.float32)
    column = pa.array([*rows.tolist(), None, [1.0], rows[0].tolist()], pa.list_(pa.float32()))
    prepared = encoder.prepare(column)
    assert [reject.reason for reject in prepared.rejects] == [Reason.NULL, Reason.WRONG_SHAPE]
    vectors = embed(encoder, column)
    for name, path in (("code", ""), ("hidden", "hidden")):
        expected = plainly(network, path, rows)
        np.testing.assert_allclose(vectors[name][:50], expected, atol=1e-5)
        np.testing.assert_array_equal(vectors[name][50], vectors[name][0])
    name, alone = encoder.reference(column)
    together = embed_inputs(encoder, prepared.inputs, 4).vectors  # type: ignore[arg-type]
    assert min(found.min for found in compare_outputs(together, prepared.index, (name, alone))) > 0.999999
    assert encoder.most_rows("tensor", 1000) == 1000
    assert encoder.modality == "tensor"
    with pytest.raises(SourceError, match=r"takes \(6\) a row, and images are"):
        encoder.prepare(pa.array([b"x"], pa.binary()))
    with pytest.raises(ModelError, match="no images in colours"):
        KerasEncoder(KerasEncoderSpec(model=str(file), preprocessing="tf"))


@pytest.mark.parametrize(
    "first",
    [
        "Rescaling",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("Normalization", "behind a flip")),
        "an operation",
    ],
)
def test_a_network_that_rescales_by_itself(first: str, tmp_path: Path) -> None:
    """What its first layers do is no question to the spec."""
    behind: dict[str, list[Any]] = {
        "Rescaling": [layers.Rescaling(1 / 255)],
        "Normalization": [layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])],
        "behind a flip": [layers.RandomFlip(), layers.Rescaling(1 / 127.5, offset=-1)],
        "an operation": [lambda values: values / 255.0],
    }
    encoder = encoder_of(saved(classifier(behind[first]), tmp_path / "net.keras"), outputs=(POOL,))
    assert encoder.describe()["preprocessing"] == "none"
    column = pa.array([samples()["jpeg"], samples()["png"]])
    prepared = encoder.prepare(column)
    together = embed_inputs(encoder, prepared.inputs, 4096).vectors  # type: ignore[arg-type]
    assert compare_outputs(together, prepared.index, encoder.reference(column))[0].min > 0.999999


def _headless(folder: Path) -> Path:
    at = inputs = keras.Input((SIDE, SIDE, 3))
    for layer in (layers.Rescaling(1 / 255), layers.Conv2D(4, 3)):
        at = layer(at)
    return saved(keras.Model(inputs, at), folder / "net.keras")


def _shared(folder: Path) -> Path:
    inputs, same = keras.Input((SIDE, SIDE, 3)), layers.Conv2D(3, 3, padding="same", name="same")
    pooled = layers.GlobalMaxPooling2D()(same(same(inputs)))
    return saved(keras.Model(inputs, pooled), folder / "net.keras")


def _two(folder: Path) -> Path:
    inputs = [keras.Input((4,), name="left"), keras.Input((4,), name="right")]
    return saved(keras.Model(inputs, layers.Concatenate()(inputs)), folder / "net.keras")


def _of(layer: Any, shape: tuple[int | None, ...] = (SIDE, SIDE, 3)) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        inputs = keras.Input(shape)
        return saved(keras.Model(inputs, layer(inputs)), folder / "net.keras")

    return write


def _lambda(ending: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        inputs = keras.Input((SIDE, SIDE, 3))
        network = keras.Model(
            inputs, layers.Flatten()(layers.Lambda(lambda values: values * 2, name="own")(inputs))
        )
        return saved(network, folder / f"net.{ending}")

    return write


def _own(folder: Path) -> Path:
    @keras.saving.register_keras_serializable("mine")  # type: ignore[untyped-decorator]
    class Twice(layers.Layer):  # type: ignore[misc]
        def call(self, values: Any) -> Any:
            return values * 2

    try:
        return _of(Twice(name="twice"))(folder)
    finally:
        keras.saving.get_custom_objects().clear()


def _changed(change: Callable[[str], str]) -> Callable[[Path], Path]:
    """Write a classifier whose configuration is another one."""

    def write(folder: Path) -> Path:
        whole = saved(classifier(), folder / "net.keras")
        with zipfile.ZipFile(whole) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        files["config.json"] = change(files["config.json"].decode()).encode()
        with zipfile.ZipFile(whole, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return whole

    return write


def _cut(ending: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = saved(tiny_keras.dense(), folder / f"net.{ending}")
        os.truncate(file, file.stat().st_size // 2)
        return file

    return write


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _weights(folder: Path) -> Path:
    tiny_keras.dense().save_weights(folder / "net.weights.h5")
    return folder


def _several(folder: Path) -> Path:
    for ending in ("keras", "h5"):
        saved(tiny_keras.dense(), folder / f"net.{ending}")
    return folder


def _older(folder: Path) -> Path:
    """Write what Keras 2 wrote of an operation of TensorFlow."""
    file = saved(tiny_keras.dense(), folder / "net.h5")
    with h5py.File(file, "a") as opened:
        opened.attrs["model_config"] = opened.attrs["model_config"].replace("Dense", "TFOpLambda")
        opened.attrs["keras_version"] = "2.9.0"
    return file


def _without_input(first: dict[str, Any]) -> Callable[[Path], Path]:
    """Write a sequence that has no layer of its input; `first`: fields of its first layer."""

    def write(folder: Path) -> Path:
        file = saved(tiny_keras.dense(), folder / "net.h5")
        with h5py.File(file, "a") as opened:
            config = json.loads(opened.attrs["model_config"])
            del config["config"]["layers"][0]
            config["config"]["layers"][0]["config"] |= first
            opened.attrs["model_config"] = json.dumps(config)
        return file

    return write


REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "code": (_lambda("keras"), {}, r"'own' \(Lambda\) holds Python code as bytes, which is never run"),
    "code in HDF5": (_lambda("h5"), {}, r"'own' \(Lambda\) holds Python code as bytes"),
    "a class of its own": (_own, {}, r"'twice' is of a class of its author's own \(mine>Twice\)"),
    "a pickle": (
        _changed(lambda config: config.replace('"Dropout"', '"TorchModuleWrapper"')),
        {},
        r"'drop' \(TorchModuleWrapper\) holds a pickled module of torch",
    ),
    "words": (
        _changed(lambda config: config.replace('"Dropout"', '"TextVectorization"')),
        {},
        r"'drop' \(TextVectorization\) needs TensorFlow",
    ),
    "an unknown class": (
        _changed(lambda config: config.replace('"Dropout"', '"Dropin"')),
        {"preprocessing": "none", "outputs": (POOL,)},
        r"Keras [\d.]+ has no 'keras\.layers\.Dropin'",
    ),
    "another shape of weights": (
        _changed(lambda config: config.replace('"units": 5', '"units": 6')),
        {"preprocessing": "none", "outputs": (POOL,)},
        r"can't load it \(saved by Keras [\d.]+\)",
    ),
    "no JSON": (_changed(lambda config: config[:50]), {}, "its configuration can't be read"),
    "Keras 2": (_older, {}, r"has no 'TFOpLambda', which a layer is or names \(saved by Keras 2\.9\.0\)"),
    "no input": (_without_input({}), {}, "does not say what it takes"),
    "an input of Keras 2": (
        _without_input({"batch_input_shape": [None, NUMBERS]}),
        {},
        "says in its first layer what it takes, as older versions of Keras did",
    ),
    "a text": (_written("net.keras", b"hello"), {}, r"is no file of Keras: a zip is expected"),
    "a text in HDF5": (_written("net.h5", b"hello"), {}, r"is no file of Keras: HDF5 is expected"),
    "a pointer": (_written("net.h5", b"version https://git-lfs.github.com/spec/v1\n"), {}, "LFS pointer"),
    "cut short": (_cut("keras"), {}, "is cut short"),
    "cut short HDF5": (_cut("h5"), {}, "truncated file"),
    "weights alone": (_weights, {}, "holds weights alone"),
    "several files": (_several, {}, r"several files may be meant \(net\.h5, net\.keras\)"),
    "no file": (lambda folder: folder / "net.keras", {}, "no such file"),
    "an empty folder": (lambda folder: folder, {}, r"no \.keras or \.h5"),
    "another ending": (_written("net.pkl", b"x"), {}, "a file of Keras ends in"),
    "two inputs": (_two, {}, r"takes 2 inputs \(left, right\)"),
    "rows of any length": (_of(layers.Dense(3), (None, 4)), {}, r"takes \(any, 4\) a row"),
    "images of any size": (
        _of(layers.Conv2D(3, 3), (None, None, 3)),
        {"preprocessing": "tf"},
        "encoder.size",
    ),
    "nobody says": (_of(layers.Conv2D(3, 3)), {}, '"caffe" \\(ResNet50, VGG16\\)'),
    "another size": (_headless, {"size": 99}, "takes images of 24 x 24 pixels, and encoder.size is 99 x 99"),
    "no vector": (_headless, {}, r"the network gives \(22, 22, 4\) a row, a vector for each position; give"),
    "used twice": (
        _shared,
        {"preprocessing": "none", "outputs": ({"tensor": "same", "pooling": "max"},)},
        "the layer same runs several times for a row",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_files(fault: str, tmp_path: Path) -> None:
    """What can't be run is named in one sentence, and no code of the file has run."""
    write, fields, said = REFUSED[fault]
    with pytest.raises(EmbedOpsError, match=said) as refused:
        encoder_of(write(tmp_path), **fields)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({}, r"ends with the probabilities of classes \(layer classes\), .* one of pool \(12\), or tensor ="),
        ({"tensor": "nope"}, r"has no layer 'nope'; some of its layers: pool \(12\)"),
        ({"tensor": "pool", "pooling": "mean"}, "gives one vector a row"),
        ({"tensor": "tower"}, r"tower gives \(11, 11, 12\) a row, a vector for each position"),
    ],
)
def test_refused_outputs(output: dict[str, Any], said: str, net: dict[str, Path]) -> None:
    """Layers that may be meant are named."""
    with pytest.raises(ModelError, match=said):
        encoder_of(net["keras"], preprocessing="tf", outputs=(output,))
    wanted = encoder_of(net["keras"], preprocessing="tf", outputs=({"tensor": "classes"},))
    np.testing.assert_allclose(embed(wanted, pa.array([samples()["jpeg"]]))["embedding"].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"compile": True}, "leave compile out"),
        ({"draft": True}, "leave draft out"),
        ({"dtype": "bfloat16"}, "computes in float32, not in bfloat16"),
        ({"preprocessing": "imagenet"}, "preprocessing"),
        ({"preprocessing": "tf", "scale": 2.0}, "has its own mean and scale"),
        ({"size": 0}, "size"),
        ({"outputs": [{"layer": 1}]}, "layers of Keras have names"),
        ({"outputs": [{"pooling": "cls"}]}, "pooling 'cls' is none of"),
    ],
)
def test_refused_fields(fields: dict[str, Any], said: str) -> None:
    """What a file can't follow is no setting of it."""
    with pytest.raises(SpecError, match=said):
        parse_encoder({"family": "keras", "model": "m", **fields})


def test_without_keras(net: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said, and what to install."""
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "keras" else tiny_keras.find_spec(name),
    )
    with pytest.raises(PackageError, match=r"family keras needs .* pip install 'embed-ops\[keras\]'"):
        encoder_of(net["keras"], preprocessing="tf")


def test_first_lines(net: dict[str, Path], tmp_path: Path) -> None:
    """What `init` writes: the layer before the classes, and preprocessing where it is known."""
    lines = first_lines(str(net["keras"].parent), "image")
    assert lines[0].startswith("# preprocessing = ")
    assert [line.partition("      #")[0] for line in lines[1:]] == ["[[encoder.outputs]]", 'tensor = "pool"']
    (tmp_path / "plain").mkdir()
    assert first_lines(str(_headless(tmp_path / "plain")), "image")[1].startswith('pooling = "mean"')
    assert first_lines(str(saved(tiny_keras.dense(), tmp_path / "dense.h5")), "tensor") == ()
    with pytest.raises(ModelError, match="takes arrays of numbers, and the data are images"):
        first_lines(str(tmp_path / "dense.h5"), "image")


@pytest.mark.slow
def test_first_lines_of_a_trained_network() -> None:
    """A network of keras.applications inside tells its preprocessing by its name."""
    lines = first_lines(str(tiny_keras.trained()), "image")
    assert lines[0].startswith('preprocessing = "tf"      # as keras.applications has it for mobilenetv2')
    assert lines[2].startswith('tensor = "global_average_pooling2d"')


@pytest.mark.slow
def test_in_memory(net: dict[str, Path]) -> None:
    """The same vectors in a user's own process, and Keras stays as it was set up."""
    contents = [samples()["jpeg"], samples()["png"]]
    filtered, before = keras.config.is_traceback_filtering_enabled(), os.environ.get("KERAS_BACKEND")
    with Encoder(net["keras"], family="keras", preprocessing="tf", outputs=[POOL], parity=2) as encoder:
        vectors = encoder.embed(contents)
    alone = embed(encoder_of(net["keras"], preprocessing="tf", outputs=(POOL,)), pa.array(contents))
    np.testing.assert_allclose(vectors, alone["embedding"], atol=1e-5)
    assert keras.config.is_traceback_filtering_enabled() == filtered
    assert os.environ.get("KERAS_BACKEND") == before


ELSEWHERE = """
import sys, pyarrow as pa
from embed_ops.encoders.keras.encoder import KerasEncoder
from embed_ops.spec.encoder import KerasEncoderSpec
spec = {"model": sys.argv[1], "preprocessing": "tf", "outputs": [{"tensor": "pool"}]}
encoder = KerasEncoder(KerasEncoderSpec.model_validate(spec))
encoder.prepare(pa.array([open(sys.argv[2], "rb").read()])); encoder.fingerprint(); encoder.describe()
assert encoder.most_rows("image", 10) == 10
sys.exit(bool({"torch", "keras", "transformers"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_preparing_needs_no_torch(net: dict[str, Path], tmp_path: Path) -> None:
    """CPU workers import neither torch nor Keras."""
    (tmp_path / "x.jpg").write_bytes(samples()["jpeg"])
    line = [sys.executable, "-c", ELSEWHERE, str(net["keras"]), str(tmp_path / "x.jpg")]
    assert subprocess.run(line, check=False).returncode == 0


def test_keras_on_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has imported Keras on another backend is told what to do."""
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(PackageError, match="has imported Keras on tensorflow; set KERAS_BACKEND=torch"):
        runtime.__wrapped__()


@pytest.mark.slow
def test_keras_is_imported_on_torch() -> None:
    """Whatever the environment wishes for, and without changing it."""
    code = (
        "import os, sys; from embed_ops.encoders.keras.network import runtime;"
        "sys.stdout.write(runtime().config.backend() + os.environ['KERAS_BACKEND'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout == "torchjax", told.stderr


FETCHED = """
import json, sys
from embed_ops.encoders.keras.encoder import KerasEncoder
from embed_ops.spec.encoder import KerasEncoderSpec
encoder = KerasEncoder(KerasEncoderSpec(model=sys.argv[1]))
told = encoder.describe()
encoder.load("cpu", "float32")
sys.stdout.write(json.dumps([told["commit"], told["file"], sorted(encoder.fingerprint())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, f"{MODEL}/dense.keras"])
def test_a_hub_model_is_fetched(model: str, tmp_path: Path) -> None:
    """The one file of Keras in a repository, or the one that is named; no weights of others."""
    content = saved(tiny_keras.dense(), tmp_path / "dense.keras").read_bytes()
    others = {"tf_model.h5": b"x", "model.safetensors": b"x", "README.md": b"x"}
    with serve({"dense.keras": content, **others}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", FETCHED, model],
            env={**os.environ, **hub.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert hub.fetched()["dense.keras"] == 1
        assert not set(others) & set(hub.fetched())
    assert json.loads(done.stdout) == [COMMIT, "dense.keras", ["dense.keras"]]
