"""Images by the onnx family: exports of tiny models, graphs by hand; each refusal's sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_onnx
import torch
import transformers
from PIL import Image
from tiny_onnx import FLOAT, INT64, node, tensor
from tiny_vision import SIDE, encoded, photographs, samples

from embed_ops import Encoder
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.images.encoder import ImageEncoder
from embed_ops.encoders.images.processors import read_preprocessing
from embed_ops.encoders.onnx.encoder import OnnxEncoder
from embed_ops.errors import ModelError, SourceError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import ImageEncoderSpec, OnnxEncoderSpec

POOLINGS = ("cls", "mean", "max", "patches", "pooler")
OUTPUTS = tuple({"name": pooling, "pooling": pooling} for pooling in POOLINGS)
PIXELS = tensor("pixel_values", FLOAT, ["rows", 3, SIDE, SIDE])
FLAT = tensor("flat", FLOAT, ["rows", 3 * SIDE * SIDE])


def encoder_of(model: Path, **fields: Any) -> OnnxEncoder:
    """Make an encoder and load it."""
    encoder = OnnxEncoder(OnnxEncoderSpec.model_validate({"model": str(model), **fields}, strict=False))
    encoder.load("cpu", "float32")
    return encoder


def column() -> pa.Array:
    """Give files of photographs in several formats."""
    return pa.array(
        [samples()[name] for name in ("jpeg", "alpha", "turned 6", "gray", "narrow")], pa.binary()
    )


def embed(encoder: Any, images: pa.Array, budget: int = 256) -> dict[str, np.ndarray[Any, Any]]:
    """Embed images as a replica does: {output: a vector a row}."""
    prepared = encoder.prepare(images)
    vectors = embed_inputs(encoder, prepared.inputs, budget).vectors
    return {name: found[prepared.index] for name, found in vectors.items()}


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give the cosine of each pair of rows."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / norms)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a tiny ViT; the model itself lies beside, as vit-torch."""
    return tiny_onnx.export_vision("vit", tmp_path_factory.mktemp("onnx") / "vit")


def by_hand(folder: Path, vit: Path, **parts: Any) -> Path:
    """Write a graph that gives the pixels themselves, with the ViT's processor beside it."""
    folder.mkdir(parents=True)
    shutil.copy(vit / "preprocessor_config.json", folder)
    given = {
        "nodes": [node("Flatten", ["pixel_values"], ["flat"])],
        "inputs": [PIXELS],
        "outputs": [FLAT],
        "weights": (),
        **parts,
    }
    tiny_onnx.write(folder / "model.onnx", **given)
    return folder


def test_an_export_gives_the_vectors_of_its_model(vit: Path, tmp_path: Path) -> None:
    """From file to vector as transformers' model and processor, and as the image family."""
    files = []
    for name, image in zip(("china", "flower"), photographs(), strict=True):
        files.append(tmp_path / f"{name}.jpg")
        files[-1].write_bytes(encoded(image, "JPEG", quality=90))
    images = pa.array([file.read_bytes() for file in files], pa.binary())
    encoder = encoder_of(vit, outputs=OUTPUTS)
    vectors = embed(encoder, images)
    original = vit.with_name("vit-torch")
    processor = transformers.AutoImageProcessor.from_pretrained(original, backend="pil")
    model = transformers.AutoModel.from_pretrained(original).eval()
    for row, file in enumerate(files):
        with torch.inference_mode(), Image.open(file) as image:
            states = model(**processor(images=image, return_tensors="pt"))
        hidden = states.last_hidden_state[0].numpy()
        own = {
            "cls": hidden[0],
            "mean": hidden[1:].mean(axis=0),
            "max": hidden[1:].max(axis=0),
            "patches": hidden[1:].ravel(),
            "pooler": states.pooler_output[0].numpy(),
        }
        for name in POOLINGS:
            np.testing.assert_allclose(vectors[name][row], own[name], atol=2e-5)
            assert cosines(vectors[name][row : row + 1], own[name][None]).min() >= 0.99999
    whole = ImageEncoder(ImageEncoderSpec(model=str(original)))
    expected = embed_alike(whole, images)["embedding"]
    np.testing.assert_allclose(embed(encoder_of(vit), images)["embedding"], expected, atol=2e-5)
    # The model that torch counts has a pooler, which is left out here.
    lengths = encoder.lengths(encoder.prepare(images).inputs)
    np.testing.assert_array_equal(lengths, whole.lengths(whole.prepare(images).inputs))
    assert encoder.flops(lengths) == whole.flops(lengths) - len(lengths) * 2 * 32 * 32


def embed_alike(encoder: ImageEncoder, images: pa.Array) -> dict[str, np.ndarray[Any, Any]]:
    """Load an encoder of the image family, and embed by it."""
    encoder.load("cpu", "float32")
    return embed(encoder, images)


def test_batches_rejects_and_the_reference(vit: Path) -> None:
    """An image alone has the vector that it has among others; what is no image is a reject."""
    encoder = encoder_of(vit, outputs=[{**each, "normalize": True} for each in OUTPUTS])
    contents = [*column().to_pylist(), None, b"no image", column()[0].as_py()]
    images = pa.array(contents, pa.binary())
    prepared = encoder.prepare(images)
    assert [reject.reason for reject in prepared.rejects] == [Reason.NULL, Reason.UNDECODABLE]
    assert prepared.inputs.num_rows == 5
    together = embed_inputs(encoder, prepared.inputs, 4096).vectors
    for judged in compare_outputs(together, prepared.index, encoder.reference(images)):
        assert judged.rows == 6
        assert judged.min > 0.999999
    again = embed_inputs(encoder, prepared.inputs, 4096).vectors
    for name in POOLINGS:
        assert again[name].tobytes() == together[name].tobytes()
    alone = embed_inputs(encoder, prepared.inputs, 1).vectors
    np.testing.assert_allclose(alone["mean"], together["mean"], atol=1e-6)
    black = encoder.blank(prepared.inputs, [1])
    assert set(black.column("pixels")[1].as_py()) == {0}
    assert encoder.reference(pa.array([None], pa.binary()))[1] == {}


def test_a_tensor_inside_the_graph(vit: Path) -> None:
    """Its patches are told as those of the output are, and `dim` shortens."""
    inner = "/model/layers.0/layernorm_before/LayerNormalization_output_0"
    outputs = [{"name": "first", "tensor": inner, "pooling": "cls", "dim": 8}, {"name": "last"}]
    encoder = encoder_of(vit, outputs=outputs)
    vectors = embed(encoder, column())
    assert vectors["first"].shape == (5, 8)
    # Before the first layer the class token is the same for every image.
    np.testing.assert_allclose(vectors["first"], np.broadcast_to(vectors["first"][0], (5, 8)), atol=1e-6)
    assert np.ptp(vectors["last"], axis=0).min() > 1e-3
    assert encoder.describe()["outputs"]["first"]["tensor"] == inner


@pytest.mark.parametrize("form", ["first", "last", "one", "half", "untold"])
def test_pixels_are_those_of_the_processor(form: str, vit: Path, tmp_path: Path) -> None:
    """To the bit, wherever the channels are, for any number of images or for one, in its types."""
    shapes = {
        "last": ["rows", SIDE, SIDE, 3],
        "one": [1, 3, SIDE, SIDE],
        "untold": ["rows", "channels", "height", "width"],
    }
    shape = shapes.get(form, ["rows", 3, SIDE, SIDE])
    kind = 10 if form == "half" else FLOAT
    given = tensor("pixel_values", kind, shape)
    flat = tensor("flat", kind, [shape[0], 3 * SIDE * SIDE])
    encoder = encoder_of(by_hand(tmp_path / "model", vit, inputs=[given], outputs=[flat]))
    told = encoder.describe()
    assert told["channels"] == ("last" if form == "last" else "first")
    assert told["rows_at_once"] == ("one" if form == "one" else "a batch")
    assert (told["pixels"], told["flops"][:11]) == ([SIDE, SIDE], "not counted")
    images = [content for name, content in samples().items() if name not in ("alpha", "gray", "cmyk")]
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    vectors = embed(encoder, pa.array(images[:3], pa.binary()))["embedding"]
    for row, content in enumerate(images[:3]):
        with Image.open(BytesIO(content)) as image:
            pixels = processor(images=image, do_convert_rgb=True, return_tensors="np")["pixel_values"][0]
        wanted = (pixels.transpose(1, 2, 0) if form == "last" else pixels).ravel()
        if form == "half":
            wanted = wanted.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(vectors[row], wanted)
    judged = compare_outputs(
        {"embedding": vectors}, np.arange(3, dtype=np.int32), encoder.reference(pa.array(images[:3]))
    )
    assert judged[0].min == 1


def test_a_scale_over_the_batch_reaches_no_image(vit: Path, tmp_path: Path) -> None:
    """Images of a graph that is quantized over all rows go alone, to the bit."""
    scaled = [
        node("DynamicQuantizeLinear", ["pixel_values"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["near"]),
        node("Flatten", ["near"], ["flat"]),
    ]
    encoder = encoder_of(by_hand(tmp_path / "model", vit, nodes=scaled))
    assert encoder.describe()["rows_at_once"] == "one"
    together = embed(encoder, column())["embedding"]
    for row in range(len(column())):
        assert embed(encoder, column()[row : row + 1])["embedding"][0].tobytes() == together[row].tobytes()


def test_in_memory(vit: Path, tmp_path: Path) -> None:
    """Paths are images where the file takes images, and texts and prompts are refused."""
    (tmp_path / "x.jpg").write_bytes(samples()["jpeg"])
    with Encoder(vit, family="onnx", parity=2, outputs=[{"pooling": "mean"}]) as encoder:
        vectors = encoder.embed([str(tmp_path / "x.jpg"), samples()["png"]])
        assert encoder.dims == {"embedding": 32}
        assert encoder.parity([samples()["jpeg"]])[0].min > 0.999999
        with pytest.raises(ModelError, match="takes images, which have no prompt"):
            encoder.embed([samples()["jpeg"]], prompt="a ")
    expected = embed(
        encoder_of(vit, outputs=[{"pooling": "mean"}]), pa.array([samples()["jpeg"], samples()["png"]])
    )
    np.testing.assert_allclose(vectors, expected["embedding"], atol=1e-6)
    with pytest.raises(SourceError, match="the image column is string"):
        encoder_of(vit).prepare(pa.array(["a text"]))


GRAPHS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two inputs": (
        {"inputs": [PIXELS, tensor("mask", FLOAT, ["rows", 3, 2, 2])]},
        {},
        r"has 2 inputs \(pixel_values \(\?, 3, 48, 48\), mask .*takes one",
    ),
    "three axes": (
        {"inputs": [tensor("frames", FLOAT, ["rows", 80, "time"])]},
        {},
        r"its input frames \(\?, 80, \?\) has 3 axes, and takes neither texts .* nor images",
    ),
    "bytes": (
        {"inputs": [tensor("pixel_values", 2, ["rows", 3, SIDE, SIDE])]},
        {},
        "takes uint8, and pixels are scaled and normalised to floats",
    ),
    "integers": ({"inputs": [tensor("pixel_values", INT64, [1, 3, SIDE, SIDE])]}, {}, "takes int64"),
    "gray": (
        {"inputs": [tensor("pixel_values", FLOAT, ["rows", 1, SIDE, SIDE])]},
        {},
        "has no axis of 3 channels",
    ),
    "eight images": (
        {"inputs": [tensor("pixel_values", FLOAT, [8, 3, SIDE, SIDE])]},
        {},
        "takes 8 images at once.*dynamic first axis",
    ),
    "another size": (
        {"inputs": [tensor("pixel_values", FLOAT, ["rows", 3, 224, 224])]},
        {},
        r"takes 224 x 224 pixels .*makes 48 x 48; correct its size",
    ),
    "other channels": ({}, {"channels": "last"}, "no 3 channels on the last axis, as encoder.channels says"),
    "a prompt": ({}, {"prompt": "a "}, "prompt is for texts, and the file takes images"),
    "tokens": ({}, {"max_tokens": 9}, "max_tokens is for texts"),
    "a pooling of texts": ({}, {"outputs": [{"pooling": "last"}]}, "pooling 'last' is of texts"),
    "a pooling of patches": (
        {},
        {"outputs": [{"pooling": "mean", "tensor": "flat"}]},
        "has one vector an image, and pooling 'mean' is of patches",
    ),
    "no patches": (
        {},
        {"outputs": [{"pooling": "cls"}]},
        r"no output has a vector for each patch; .*flat \(",
    ),
    "no pooler": ({}, {"outputs": [{"pooling": "pooler"}]}, "no output has a vector for each image"),
    "no such tensor": ({}, {"outputs": [{"tensor": "nope"}]}, r"has no tensor 'nope'; its outputs: flat"),
    "scores": (
        {
            "nodes": [node("Flatten", ["pixel_values"], ["logits"])],
            "outputs": [tensor("logits", FLOAT, ["rows", 3 * SIDE * SIDE])],
        },
        {},
        r"no output has a vector for each image or patch; its outputs: logits .*name a tensor",
    ),
    "no pooling": (
        {
            "nodes": [node("Identity", ["pixel_values"], ["map"])],
            "outputs": [tensor("map", FLOAT, ["rows", 3, SIDE, SIDE])],
        },
        {},
        "nothing beside the file says how they become one; give",
    ),
    "no class token": (
        {
            "nodes": [node("Identity", ["pixel_values"], ["map"])],
            "outputs": [tensor("map", FLOAT, ["rows", 3, SIDE, SIDE])],
        },
        {"outputs": [{"pooling": "cls"}]},
        "that of a convolution, which has no class token",
    ),
    "patches of nobody": (
        {
            "nodes": [node("Squeeze", ["pixel_values"], ["rows"])],
            "inputs": [tensor("pixel_values", FLOAT, [1, 3, SIDE, SIDE])],
            "outputs": [tensor("rows", FLOAT, [3, SIDE, SIDE])],
        },
        {"outputs": [{"pooling": "mean"}]},
        r"nothing says whether they are patches or class tokens; put the model's config\.json",
    ),
    "another shape": (
        {"nodes": [node("Flatten", ["pixel_values"], ["flat"], tiny_onnx.integer("axis", 0))]},
        {},
        r"flat has the shape \(1, 13824\) for 2 images",
    ),
}


@pytest.mark.parametrize("fault", GRAPHS)
def test_refused_graphs(fault: str, vit: Path, tmp_path: Path) -> None:
    """One sentence each, that names the file and what to do."""
    parts, fields, said = GRAPHS[fault]
    folder = by_hand(tmp_path / "model", vit, **parts)
    with pytest.raises(ModelError, match=said) as refused:
        embed(encoder_of(folder, **fields), column()[:2], 4096)
    assert str(refused.value).startswith(str(folder))
    assert "\n" not in str(refused.value)
    assert "; " in str(refused.value)


def _without(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def _changed(**values: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no processor": (
        _without("preprocessor_config.json"),
        r"takes images, and no preprocessor_config\.json beside it.*AutoImageProcessor",
    ),
    "a pointer": (
        lambda folder: (folder / "preprocessor_config.json").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        "is a Git LFS pointer",
    ),
    "broken": (
        lambda folder: (folder / "preprocessor_config.json").write_text("{"),
        "not a JSON file",
    ),
    "of another kind": (_changed(image_processor_type="Nobody"), "image processor 'Nobody' is not supported"),
    "of another size": (_changed(size={"height": 56, "width": 56}), r"takes 48 x 48 pixels .*makes 56 x 56"),
    "nothing told": (_without("config.json"), r"several may be meant \(pooler_output, last_hidden_state\)"),
}


@pytest.mark.parametrize("fault", FILES)
def test_refused_files(fault: str, vit: Path, tmp_path: Path) -> None:
    """A part that is missing or damaged is named."""
    folder = tmp_path / "up" / "model"
    shutil.copytree(vit, folder)
    spoil, said = FILES[fault]
    spoil(folder)
    with pytest.raises(ModelError, match=said):
        encoder_of(folder).outputs()


def test_patches_are_told_by_the_graph(vit: Path, tmp_path: Path) -> None:
    """Where nothing says how large they are, its one convolution does."""
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    (folder / "config.json").unlink()
    fields = {"outputs": [{"pooling": "mean"}]}
    found, expected = encoder_of(folder, **fields), encoder_of(vit, **fields)
    np.testing.assert_array_equal(embed(found, column())["embedding"], embed(expected, column())["embedding"])
    assert set(expected.fingerprint()) == {"model.onnx", "preprocessor_config.json", "config.json"}
    assert set(found.fingerprint()) == {"model.onnx", "preprocessor_config.json"}


def test_a_processor_by_hand(tmp_path: Path) -> None:
    """The configuration that the page shows is understood as the page says."""
    page = (Path(__file__).parents[2] / "docs/onnx.md").read_text()
    (shown,) = re.findall(r"`(\{[^`]*image_processor_type[^`]*\})`", page)
    (tmp_path / "preprocessor_config.json").write_text(shown)
    steps = read_preprocessing(tmp_path)
    assert (steps.exact, steps.crop, steps.resample) == ((224, 224), None, Image.Resampling.BILINEAR)
    assert (steps.mean, steps.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_fields_of_images_are_not_for_texts(vit: Path, tmp_path: Path) -> None:
    """And a graph of tokens is none of images, whatever lies beside it."""
    folder = by_hand(tmp_path / "model", vit, inputs=[tiny_onnx.IDS])
    with pytest.raises(ModelError, match="channels is for images, and the file takes texts"):
        encoder_of(folder, channels="last")
    with pytest.raises(ModelError, match=r"no tokenizer\.json beside it"):
        encoder_of(folder)


def test_preparing_needs_no_torch(vit: Path) -> None:
    """CPU workers import neither torch nor transformers."""
    code = (
        "import sys, pyarrow as pa; from embed_ops.encoders.onnx.encoder import OnnxEncoder; from "
        "embed_ops.spec.encoder import OnnxEncoderSpec;"
        "encoder = OnnxEncoder(OnnxEncoderSpec(model=sys.argv[1]));"
        "encoder.lengths(encoder.prepare(pa.array([b'x'])).inputs); encoder.fingerprint();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(vit)], check=False).returncode == 0


CLIP = {
    "outputs": ("image_embeds", "last_hidden_state"),
    "kind": transformers.CLIPVisionModelWithProjection,
    "projection_dim": 20,
}
OTHERS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "clip": (CLIP, [{}, {"name": "mean", "pooling": "mean"}]),
    "dinov2": ({}, [{}, {"name": "all", "pooling": "patches"}]),
    "convnext": ({"side": 64}, [{}, {"name": "max", "pooling": "max"}]),
    "resnet": ({"side": 64, "dynamic": False}, [{}, {"name": "mean", "pooling": "mean"}]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_models(name: str, tmp_path: Path) -> None:
    """Towers with a projection, networks of convolutions: as the originals, in all outputs."""
    options, outputs = OTHERS[name]
    folder = tiny_onnx.export_vision(name, tmp_path / name, **options)
    encoder = encoder_of(folder, outputs=outputs, reference=f"{folder}-torch")
    vectors, original = embed(encoder, column()), encoder.original(column())
    assert original is not None
    assert encoder.describe()["reference"]["compared"] == [each.get("name", "embedding") for each in outputs]
    for output, expected in original.vectors.items():
        assert cosines(vectors[output], expected).min() >= 0.99999
