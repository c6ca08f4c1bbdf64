"""ImageEncoder and ClipEncoder against plain transformers, from files to vectors."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import transformers
from PIL import Image, ImageDraw, ImageOps
from tiny_vision import CAPTIONS, MAKERS, TEXT_TOO, build_vision, encoded, photographs, samples

from embed_ops.embedding.settings import choices, resolve
from embed_ops.embedding.trial import Volume
from embed_ops.embedding.tuning import settle
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.clip.encoder import ClipEncoder
from embed_ops.encoders.images import pixels
from embed_ops.encoders.images.encoder import ImageEncoder
from embed_ops.encoders.images.opening import open_image, to_rgb
from embed_ops.encoders.images.processors import read_preprocessing
from embed_ops.errors import ModelError, SourceError
from embed_ops.spec.encoder import ClipEncoderSpec, ImageEncoderSpec, OutputSpec
from embed_ops.spec.spec import ParitySpec, Spec

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = npt.NDArray[np.float64]
LIMIT = 89_478_485


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model of each family."""
    return {name: build_vision(name, tmp_path_factory.mktemp(name)) for name in MAKERS}


def make(folder: Path, *outputs: OutputSpec, family: str = "image", **fields: Any) -> Any:
    """Build an encoder and load it."""
    kind = {"image": ImageEncoderSpec, "clip": ClipEncoderSpec}[family]
    spec = kind(model=str(folder), outputs=outputs, **fields)
    encoder: Any = ImageEncoder(spec) if family == "image" else ClipEncoder(spec)
    encoder.load("cpu", "float32")
    return encoder


def embedded(
    encoder: Any, contents: list[Any], kind: pa.DataType | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Embed a column whose rows are all fine."""
    prepared = encoder.prepare(pa.array(contents, kind or pa.binary()))
    assert prepared.rejects == []
    return {name: values[prepared.index] for name, values in encoder.launch(prepared.inputs)().items()}


def cosine(left: Any, right: Any) -> float:
    """Cosine of two vectors."""
    left, right = np.asarray(left, np.float64).ravel(), np.asarray(right, np.float64).ravel()
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def loaded(content: bytes) -> Image.Image:
    """Open an image as a user does, upright as transformers' pipelines show it."""
    return ImageOps.exif_transpose(Image.open(BytesIO(content)))


def processed(processor: Any, content: bytes, kind: str) -> Any:
    """Put a file through a processor as it is; one that makes no RGB by itself is asked to."""
    return processor(images=loaded(content), do_convert_rgb=True, return_tensors=kind)


def reference(folder: Path, content: bytes) -> Any:
    """Put a file through transformers alone: its states, hidden states among them."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    kinds = {"clip": transformers.CLIPVisionModel, "siglip": transformers.SiglipVisionModel}
    kind: Any = kinds.get(
        json.loads((folder / "config.json").read_text())["model_type"], transformers.AutoModel
    )
    model = kind.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**processed(processor, content, "pt"), output_hidden_states=True)


@pytest.mark.parametrize("name", MAKERS)
def test_pixels_are_the_processors(name: str, folders: dict[str, Path]) -> None:
    """What the model is given is transformers' own to the bit, for every format and mode."""
    steps = read_preprocessing(folders[name])
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name], backend="pil")
    levels = steps.levels()
    for sample, content in samples().items():
        wanted = processed(processor, content, "np")["pixel_values"][0]
        pixels = steps.pixels(content, LIMIT)
        found = np.stack([levels[channel][pixels[..., channel]] for channel in range(3)])
        assert wanted.dtype == found.dtype
        assert np.array_equal(found, wanted), sample


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"size": 40}, "vit"),
        ({"size": 40, "crop_size": 32}, "clip"),
        ({"do_normalize": False}, "vit"),
        ({"do_rescale": False}, "vit"),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, "vit"),
        ({"do_resize": False}, "clip"),
        ({"do_center_crop": False}, "deit"),
        ({"crop_size": {"height": 70, "width": 61}}, "deit"),
        ({"crop_size": {"height": 61, "width": 33}}, "clip"),
        ({"resample": 0}, "vit"),
        ({"resample": 1}, "siglip"),
        ({"size": {"shortest_edge": 400}}, "convnext"),
        ({"size": {"shortest_edge": 100}, "crop_pct": 0.9}, "convnext"),
        ({"size": {"shortest_edge": 400}, "crop_pct": None}, "convnext"),
        ({"image_mean": 0.25, "image_std": 2}, "vit"),
        ({"image_mean": 0, "image_std": [1, 1, 1]}, "beit"),
        ({"do_normalize": None, "image_mean": None, "image_std": None}, "vit"),
        ({"do_rescale": None, "rescale_factor": None}, "clip"),
        ({"do_center_crop": None, "crop_size": None}, "deit"),
        ({"do_convert_rgb": None}, "siglip"),
        ({"do_pad": None, "pad_size": None}, "vit"),
        ({"do_pad": True}, "vit"),
        ({"default_to_square": True, "size": 40, "do_center_crop": False}, "clip"),
        ({"size": [40, 56], "do_center_crop": 0}, "clip"),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 40}, "vit"),
        ({"image_processor_type": "ViTImageProcessorFast", "device": None}, "vit"),
        ({"image_processor_type": None}, "vit"),
        ({"image_processor_type": None}, "convnext"),
        ({"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"}, "vit"),
        ({"image_processor_type": "ChineseCLIPImageProcessor"}, "clip"),
        ({"image_processor_type": "BlipImageProcessor", "size": 40}, "vit"),
        ({"image_processor_type": "MobileNetV2ImageProcessor", "size": 56, "crop_size": 48}, "clip"),
        ({"a_key_of_another": 3}, "vit"),
    ],
)
def test_settings_of_processors(
    change: dict[str, Any], kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Every setting that is followed is followed to the bit.

    Images smaller than the crop are framed as transformers frames them.
    """
    config = json.loads((folders[kind] / "preprocessor_config.json").read_text()) | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    shutil.copy(folders[kind] / "config.json", tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    steps = read_preprocessing(tmp_path)
    for content in (
        samples()["png"],
        samples()["turned 6"],
        encoded(photographs()[0].crop((0, 0, 31, 44)), "PNG"),
    ):
        wanted = processed(processor, content, "np")["pixel_values"][0]
        pixels = steps.pixels(content, LIMIT)
        found = np.stack([steps.levels()[channel][pixels[..., channel]] for channel in range(3)])
        assert np.array_equal(found, wanted)


def test_a_nested_configuration_comes_first(folders: dict[str, Path], tmp_path: Path) -> None:
    """As in transformers: what a processor of images and texts says of its images."""
    config = json.loads((folders["clip"] / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | {"crop_size": 20}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    shutil.copy(folders["clip"] / "config.json", tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert read_preprocessing(tmp_path).height == processor.crop_size["height"] == 48


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resample": "bicubic"}, "resample is 'bicubic', and the number of a filter"),
        ({"resample": None}, "resample is None"),
        ({"resample": [3]}, "resample is"),
        ({"resample": 17}, "resample is 17"),
        ({"image_mean": None}, "image_mean is None"),
        ({"image_mean": [0.5]}, "image_mean is .*images are made RGB"),
        ({"image_std": "0.5"}, "image_std is '0.5'"),
        ({"image_std": 0}, "image_std is 0, and pixels are divided by it"),
        ({"rescale_factor": None}, "rescale_factor is None"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"size": None}, "size is None"),
        ({"size": {}}, "size is {}"),
        ({"size": {"longest_edge": 48}}, "size is .*shortest_edge, is expected"),
        ({"size": {"shortest_edge": 40, "longest_edge": 48}}, "size is"),
        ({"size": {"height": -48, "width": 48}}, "size is"),
        ({"size": True}, "size is True"),
        ({"size": {"height": 40, "width": 56, "shortest_edge": None}}, "size is"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"do_center_crop": True, "crop_size": None}, "crop_size is None"),
        (
            {"do_pad": True, "pad_size": {"height": 64, "width": 64}},
            "do_pad is True, and images that are padded",
        ),
        ({"do_resize": None}, "images of different sizes"),
        ({"image_processor_type": "DINOv3ViTImageProcessorFast"}, "it resizes by torchvision"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "NaFlex"),
        ({"image_processor_type": "TimmWrapperImageProcessor"}, "timm"),
    ],
)
def test_settings_that_are_refused(
    change: dict[str, Any], says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """What can't be followed is named with its file, its field and its value."""
    config = json.loads((folders["vit"] / "preprocessor_config.json").read_text()) | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says):
        read_preprocessing(tmp_path)


STAGED: dict[str, Any] = {
    "swin": lambda: transformers.SwinModel(
        transformers.SwinConfig(
            image_size=48, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=3
        )
    ),
    "mobilenet": lambda: transformers.MobileNetV1Model(transformers.MobileNetV1Config(depth_multiplier=0.25)),
    "poolformer": lambda: transformers.PoolFormerModel(
        transformers.PoolFormerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_encoder_blocks=4)
    ),
}


def randomized(model: Any) -> Any:
    """Give a model seeded weights, biases and positions too."""
    torch.manual_seed(5)
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0.0, 0.2 if values.ndim > 1 else 0.5)
    return model.eval()


@pytest.fixture
def staged(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    """Save a tiny model of several stages, with the processor of a ViT."""
    randomized(STAGED[request.param]()).save_pretrained(tmp_path)
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path)
    return tmp_path


@pytest.mark.parametrize("staged", STAGED, indirect=True)
def test_models_of_several_stages(staged: Path) -> None:
    """Their widths and positions are what they give: pooler, mean, max, patches, layers."""
    content = samples()["png"]
    states = reference(staged, content)
    last = states.last_hidden_state[0]
    positions = last.numpy() if last.dim() == 2 else last.flatten(1).T.numpy()
    wanted = {"mean": positions.mean(0), "max": positions.max(0)}
    outputs = [OutputSpec(name="mean", pooling="mean"), OutputSpec(name="max", pooling="max")]
    if states.get("pooler_output") is not None:
        wanted["auto"] = states.pooler_output.flatten().numpy()
        outputs.append(OutputSpec(name="auto"))
    if last.dim() == 2:
        wanted["patches"] = positions.ravel()
        outputs.append(OutputSpec(name="patches", pooling="patches"))
        for layer in (0, 1):
            wanted[f"layer{layer}"] = states.hidden_states[layer][0].mean(0).numpy()
            outputs.append(OutputSpec(name=f"layer{layer}", pooling="mean", layer=layer))
    encoder = make(staged, *outputs)
    found = embedded(encoder, [content])
    judged = encoder.reference(pa.array([content], pa.binary()))[1]
    assert dims_of(encoder.outputs()) == {name: len(vector) for name, vector in wanted.items()}
    for name, vector in wanted.items():
        assert cosine(found[name][0], vector) > 0.99999, name
        assert cosine(judged[name][0], vector) > 0.99999, name


@pytest.mark.parametrize("staged", ["swin"], indirect=True)
def test_what_models_of_several_stages_lack(staged: Path) -> None:
    """No class token, no such layer, no patches of an inner layer: each is said."""
    for output, says in (
        (OutputSpec(pooling="cls"), "no class token"),
        (OutputSpec(pooling="mean", layer=9), "no layer 9, there are 0 to 2"),
        (OutputSpec(pooling="patches", layer=1), "inner layers have patches of their own"),
        (OutputSpec(pooling="pooler", layer=1), "no pooler at layer 1"),
    ):
        with pytest.raises(ModelError, match=says):
            make(staged, output).outputs()


def test_a_model_that_masks_at_random(folders: dict[str, Path], tmp_path: Path) -> None:
    """It is refused when it is loaded: nothing needs to be compared for that."""
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=48,
        patch_size=8,
    )
    randomized(transformers.ViTMAEModel(config)).save_pretrained(tmp_path)
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path)
    for pooling in ("cls", "mean"):
        with pytest.raises(ModelError, match=r"another one for the same input each time.*mask_ratio"):
            make(tmp_path, OutputSpec(pooling=pooling))


def test_models_of_other_channels(folders: dict[str, Path], tmp_path: Path) -> None:
    """A model of gray images is refused before anything is read: images are made RGB."""
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_channels=1
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path)
    with pytest.raises(ModelError, match="images of 1 channels"):
        make(tmp_path)


def test_a_folder_of_sentence_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    """The model of images and texts in it is found; what stands behind it is not skipped."""
    kinds = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    shutil.copytree(folders["clip"], tmp_path / "0_CLIPModel")
    (tmp_path / "modules.json").write_text(json.dumps(kinds))
    content = [samples()["png"]]
    plain = make(folders["clip"], family="clip")
    found = make(tmp_path, family="clip")
    assert np.array_equal(embedded(found, content)["embedding"], embedded(plain, content)["embedding"])
    assert "0_CLIPModel/model.safetensors" in found.fingerprint()
    found.reference(pa.array(content, pa.binary()))
    normal = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
    (tmp_path / "modules.json").write_text(json.dumps([*kinds, normal]))
    with pytest.raises(ModelError, match="Normalize behind the model of images and texts can't be followed"):
        make(tmp_path, family="clip")
    assert make(tmp_path, OutputSpec(name="e", normalize=True), family="clip").outputs()
    (tmp_path / "modules.json").write_text(json.dumps(kinds))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 8}))
    with pytest.raises(ModelError, match="truncate_dim behind"):
        make(tmp_path, family="clip")


def test_a_wrong_projection(folders: dict[str, Path], tmp_path: Path) -> None:
    """A width that the weights do not have is named, with both."""
    path = Path(shutil.copytree(folders["clip"], tmp_path / "model"))
    config = json.loads((path / "config.json").read_text()) | {"projection_dim": 24}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"projection.weight of \(\d+, 32\) where the configuration says \(24"
    ):
        make(path, family="clip")


@pytest.mark.parametrize("name", MAKERS)
def test_vectors_are_those_of_transformers(name: str, folders: dict[str, Path]) -> None:
    """From file to vector: cosine 0.99999 or more for every family, pooling and format."""
    modes = ["pooler", "mean", "max"] + (
        ["cls", "patches"] if name not in ("convnext", "resnet", "siglip") else []
    )
    if name == "siglip":
        modes.append("patches")
    outputs = [OutputSpec(name=mode, pooling=mode) for mode in modes]  # type: ignore[arg-type]
    encoder = make(folders[name], *outputs)
    listed = list(samples().values())
    found = embedded(encoder, listed)
    patches = encoder.lengths(encoder.prepare(pa.array(listed[:1], pa.binary())).inputs)[0] - 1
    for row, content in enumerate(listed):
        states = reference(folders[name], content)
        hidden = states.last_hidden_state[0]
        hidden = hidden if hidden.ndim == 2 else hidden.flatten(1).T
        own = hidden[len(hidden) - patches :] if name not in ("convnext", "resnet") else hidden
        wanted = {
            "pooler": states.pooler_output,
            "mean": own.mean(0),
            "max": own.amax(0),
            "cls": hidden[0],
            "patches": own,
        }
        for mode in modes:
            assert found[mode].shape[1] == dims_of(encoder.outputs())[mode] == wanted[mode].numel()
            assert cosine(found[mode][row], wanted[mode]) >= 0.99999, (mode, list(samples())[row])
    assert cosine(found["mean"][0], found["mean"][1]) < 0.9999


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip"])
def test_layers(name: str, folders: dict[str, Path]) -> None:
    """Any hidden layer can be had beside the model's output; one that is not there is named."""
    outputs = [OutputSpec(name=f"l{layer + 9}", pooling="cls", layer=layer) for layer in (-1, 0, 1, 2, 3, -2)]
    found = embedded(
        make(folders[name], *outputs, OutputSpec(name="unit", pooling="mean", normalize=True)),
        [samples()["jpeg"]],
    )
    states = reference(folders[name], samples()["jpeg"])
    for output in outputs:
        hidden = states.last_hidden_state if output.layer == -1 else states.hidden_states[output.layer]
        assert cosine(found[output.name][0], hidden[0, 0]) >= 0.99999
    assert np.linalg.norm(found["unit"][0]) == pytest.approx(1.0)
    with pytest.raises(ModelError, match="no layer 4, there are 0 to 3"):
        make(folders[name], OutputSpec(pooling="cls", layer=4))


def test_what_a_model_has_by_default(folders: dict[str, Path]) -> None:
    """Where the spec does not say.

    The class token, or the pooler of models whose image vector that is.
    """
    for name, mode in (
        ("vit", "cls"),
        ("dinov2", "cls"),
        ("clip", "pooler"),
        ("siglip", "pooler"),
        ("convnext", "pooler"),
    ):
        encoder = make(folders[name])
        told = encoder.describe()["outputs"]["embedding"]
        assert (told["pooling"], told["dim"]) == (mode, dims_of(encoder.outputs())["embedding"])
    with pytest.raises(ModelError, match="no class token; choose mean or max"):
        make(folders["siglip"], OutputSpec(pooling="cls"))


@pytest.mark.parametrize("name", TEXT_TOO)
def test_both_towers(name: str, folders: dict[str, Path]) -> None:
    """Vectors are those of get_image_features and get_text_features, alone and in a batch."""
    encoder = make(folders[name], OutputSpec(), OutputSpec(name="unit", normalize=True), family="clip")
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name], backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    images, texts = embedded(encoder, list(samples().values())), embedded(encoder, CAPTIONS, pa.string())
    padded: dict[str, Any] = (
        {"padding": "max_length", "return_attention_mask": False} if name == "siglip" else {}
    )
    with torch.inference_mode():
        for row, content in enumerate(samples().values()):
            wanted = model.get_image_features(**processed(processor, content, "pt")).pooler_output
            assert cosine(images["embedding"][row], wanted) >= 0.99999
            assert np.abs(images["embedding"][row] - wanted[0].numpy()).max() < 1e-4 * float(
                wanted.abs().max()
            )
            assert np.linalg.norm(images["unit"][row]) == pytest.approx(1.0)
        for row, text in enumerate(CAPTIONS):
            given = tokenizer(text, truncation=True, max_length=24, return_tensors="pt", **padded)
            given.pop("token_type_ids", None)
            wanted = model.get_text_features(**given).pooler_output
            assert cosine(texts["embedding"][row], wanted) >= 0.99999, text
    assert dims_of(encoder.outputs())["unit"] == images["unit"].shape[1] == texts["unit"].shape[1]


@pytest.mark.parametrize("family", ["image", "clip"])
def test_reference(family: str, folders: dict[str, Path]) -> None:
    """The reference that parity uses agrees with the encoder; NaN where there is no image."""
    encoder = make(folders["clip"], family=family)
    contents = [samples()["jpeg"], None, b"no image", samples()["turned 6"]]
    prepared = encoder.prepare(pa.array(contents, pa.binary()))
    assert [(reject.row, str(reject.reason)) for reject in prepared.rejects] == [
        (1, "null"),
        (2, "undecodable"),
    ]
    name, wanted = encoder.reference(pa.array(contents, pa.binary()))
    found = encoder.launch(prepared.inputs)()["embedding"]
    assert name.startswith("transformers ")
    assert np.isnan(wanted["embedding"][[1, 2]]).all()
    assert cosine(found[prepared.index[0]], wanted["embedding"][0]) >= 0.99999
    assert cosine(found[prepared.index[3]], wanted["embedding"][3]) >= 0.99999


def test_same_images_are_embedded_once(folders: dict[str, Path]) -> None:
    """Equal bytes are decoded and embedded once; a batch of one is as one of many."""
    encoder = make(folders["vit"])
    first, second = samples()["jpeg"], samples()["webp"]
    prepared = encoder.prepare(pa.array([first, second, first, first], pa.large_binary()))
    assert (len(prepared.inputs), prepared.index.tolist()) == (2, [0, 1, 0, 0])
    both = encoder.launch(prepared.inputs)()["embedding"]
    alone = encoder.launch(prepared.inputs.slice(1, 1))()["embedding"]
    assert np.abs(both[1] - alone[0]).max() < 1e-5
    black = encoder.blank(prepared.inputs, {0})
    assert set(black.column("pixels")[0].as_py()) == {0}
    assert black.column("pixels")[1] == prepared.inputs.column("pixels")[1]


def test_transparency(folders: dict[str, Path]) -> None:
    """A picture on nothing is that picture on white, however a format says so, for any processor.

    Opaque pictures with an alpha channel are what they are without one.
    """
    disc = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(disc).ellipse((8, 8, 56, 56), fill=(30, 30, 30, 255))
    white = Image.new("RGBA", disc.size, "white")
    white.alpha_composite(disc)
    ways = {
        "RGBA": encoded(disc, "PNG"),
        "WebP": encoded(disc, "WEBP", lossless=True),
        "palette": encoded(disc.quantize(16), "PNG"),
        "GIF": encoded(disc, "GIF"),
        "TIFF": encoded(disc, "TIFF"),
        "icon": encoded(disc, "ICO"),
        "Targa": encoded(disc, "TGA"),
        "JPEG 2000": encoded(disc, "JPEG2000"),
        "AVIF": encoded(disc, "AVIF", quality=100),
        "LA": encoded(disc.convert("LA"), "PNG"),
        "a colour": encoded(disc.convert("RGB"), "PNG", transparency=(0, 0, 0)),
    }
    for name in ("vit", "clip"):
        steps = read_preprocessing(folders[name])
        wanted = steps.pixels(encoded(white.convert("RGB"), "PNG"), LIMIT).astype(int)
        for way, content in ways.items():
            # AVIF and palettes are a little off.
            assert np.abs(steps.pixels(content, LIMIT) - wanted).max() <= 12, way
        photo = samples()["png"]
        opaque = encoded(Image.open(BytesIO(photo)).convert("RGBA"), "PNG")
        assert np.array_equal(steps.pixels(opaque, LIMIT), steps.pixels(photo, LIMIT))


def test_parity_decodes_by_itself(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of our decoder is seen by the reference, which shares none of it."""
    encoder = make(folders["vit"])
    column = pa.array([samples()["alpha"], samples()["gray and alpha"], samples()["png"]], pa.binary())
    wanted = encoder.reference(column)[1]["embedding"]
    found = embedded(encoder, column.to_pylist())["embedding"]
    assert min(cosine(*pair) for pair in zip(found, wanted, strict=True)) >= 0.99999
    monkeypatch.setattr(pixels, "to_rgb", lambda image, most: Image.new("RGB", image.size))
    black = embedded(encoder, column.to_pylist())["embedding"]
    again = encoder.reference(column)[1]["embedding"]
    assert np.array_equal(again, wanted)
    assert max(cosine(*pair) for pair in zip(black, again, strict=True)) < 0.999


def _gray(values: Any, form: str = "TIFF") -> bytes:
    return encoded(Image.fromarray(values), form)


def test_deep_gray(folders: dict[str, Path]) -> None:
    """Gray of any depth is the picture, never black or white, and the reference says the same."""
    gray = np.asarray(photographs()[0].convert("L"))
    gray = gray * (255.0 / gray.max())
    whole, full = np.rint(gray).astype(np.uint16), gray.astype(np.float32)
    deep = {
        "8 in 16, PNG": _gray(whole, "PNG"),
        "8 in 32": _gray(whole.astype(np.int32)),
        "12 in 16, PNG": _gray(whole * 16 + 3, "PNG"),
        "12 in 16, TIFF": _gray(whole * 16 + 3),
        "12 in 32": _gray(whole.astype(np.int32) * 16),
        "16, PNG": _gray(whole * 256 + 7, "PNG"),
        "16, TIFF": _gray(whole * 256 + 7),
        "16 in 32": _gray(whole.astype(np.int32) * 257),
        "16, PPM": b"P5 %d %d 65535\n" % whole.T.shape + (whole * 257).astype(">u2").tobytes(),
        "10, PPM": b"P5 %d %d 1020\n" % whole.T.shape + (whole * 4).astype(">u2").tobytes(),
        "floats to 255": _gray(whole.astype(np.float32)),
        "floats to 1": _gray(full / 255),
    }
    encoder = make(folders["vit"])
    for name, content in deep.items():
        found = np.asarray(to_rgb(open_image(content, LIMIT), LIMIT))[..., 1]
        assert np.abs(found.astype(int) - whole).max() <= 1, name
        wanted = encoder.reference(pa.array([content], pa.binary()))[1]["embedding"]
        assert cosine(embedded(encoder, [content])["embedding"], wanted) >= 0.99999, name


def test_dark_ppm() -> None:
    """A PPM says what is white: one that is dark stays dark."""
    content = b"P5 2 1 65535\n" + np.array([0, 4000], ">u2").tobytes()
    assert np.asarray(to_rgb(open_image(content, LIMIT), LIMIT))[0, :, 0].tolist() == [0, 15]


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="the package of HEIC is here")
def test_heic_needs_a_package(folders: dict[str, Path]) -> None:
    """A photograph in HEIC is a reject that says what to install."""
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    (reject,) = make(folders["vit"]).prepare(pa.array([content], pa.binary())).rejects
    assert (reject.reason, "pip install 'embed-ops[heic]'" in reject.message) == ("undecodable", True)


def _icon(side: int) -> bytes:
    """Make an icon of 16 x 16 pixels by its header, and of 5,000 x `side` by its picture."""
    picture = encoded(Image.new("1", (5000, side)), "PNG")
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 1, len(picture), 22) + picture


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"", "undecodable", "no bytes"),
        (b"GIF89a", "undecodable", ""),
        (b"<html>not found</html>", "undecodable", "no image of a known format"),
        (samples()["jpeg"][:5000], "undecodable", "truncated"),
        (samples()["png"][:5000], "undecodable", ""),
        (samples()["webp"][:3000], "undecodable", ""),
        (samples()["tiff"][:3000], "undecodable", ""),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too_large", "exceeds limit"),
        (encoded(Image.new("1", (10_000, 10_000)), "PNG"), "too_large", "more than encoder.max_pixels"),
        (encoded(Image.new("RGB", (1, 60_000)), "PNG"), "too_large", "would be resized to"),
        (encoded(Image.new("F", (30, 30), 1e6), "TIFF"), "undecodable", "reach from 1e+06 to 1e+06"),
        (encoded(Image.new("F", (30, 30), -0.1), "TIFF"), "undecodable", "floats from 0 to 1"),
        (encoded(Image.new("F", (30, 30), 1.5), "TIFF"), "undecodable", "reach from 1.5 to 1.5"),
        (encoded(Image.new("F", (30, 30), float("nan")), "TIFF"), "undecodable", "from nan to nan"),
        (encoded(Image.new("I", (30, 30), -5), "TIFF"), "undecodable", "8, 12 and 16 bits"),
        pytest.param(_icon(20_000), "too_large", "more than encoder.max_pixels", id="icon of another size"),
        pytest.param(bytes(5000), "undecodable", "no image of a known format", id="zeros"),
        (
            encoded(Image.fromarray(np.full((9, 9), 1 << 20, np.int32)), "TIFF"),
            "undecodable",
            "8, 12 and 16 bits",
        ),
    ],
)
def test_bad_images(content: bytes, reason: str | None, words: str, folders: dict[str, Path]) -> None:
    """What can't be decoded, or is too large, is a reject with its reason.

    The images around it are embedded.
    """
    encoder = make(folders["clip"])
    good = samples()["jpeg"]
    prepared = encoder.prepare(pa.array([good, content, samples()["png"]], pa.binary()))
    found = [(reject.row, str(reject.reason), reject.message) for reject in prepared.rejects]
    assert [(row, code) for row, code, _ in found] == ([(1, reason)] if reason else [])
    assert all(words in message for _, _, message in found)
    assert prepared.index.tolist() == ([0, -1, 1] if reason else [0, 1, 2])


def test_draft(folders: dict[str, Path]) -> None:
    """With draft a large JPEG is shrunk while it is decoded.

    Other pixels, nearly the same vector.
    """
    large = encoded(photographs()[0].resize((2560, 1708)), "JPEG", quality=92)
    turned = Image.Exif()
    turned[0x0112] = 6
    rotated = encoded(photographs()[1].resize((2560, 1708)), "JPEG", exif=turned.tobytes())
    for name in ("vit", "clip", "deit", "convnext"):
        contents = [large, rotated, samples()["png"]]
        exact, drafted = (
            embedded(make(folders[name]), contents),
            embedded(make(folders[name], draft=True), contents),
        )
        close = [cosine(*pair) for pair in zip(exact["embedding"], drafted["embedding"], strict=True)]
        assert min(close) > 0.995
        assert close[2] == pytest.approx(1.0, abs=1e-9)
        assert not np.array_equal(exact["embedding"][0], drafted["embedding"][0])


def test_draft_is_chosen_by_parity(folders: dict[str, Path]) -> None:
    """Drafting is taken where photographs are large and stay close, and nowhere else."""
    large = [encoded(photo.resize((2560, 1708)), "JPEG", quality=92) for photo in photographs()]
    small = [encoded(photo.resize((40, 30)), "JPEG") for photo in photographs()]
    spec = ImageEncoderSpec(model=str(folders["vit"]), dtype="bfloat16")
    tree = {
        "source": {"kind": "images", "path": "x"},
        "encoder": spec.model_dump(mode="json"),
        "sink": {"path": "y"},
    }
    assert choices(Spec.parse(tree)) >= {"draft"}
    tree["encoder"]["dtype"] = "float32"
    assert "draft" not in choices(Spec.parse(tree))
    before = replace(resolve(Spec.parse(tree)), dtype="bfloat16")
    found = {
        name: settle(
            spec,
            before,
            frozenset({"draft"}),
            ParitySpec(min=least, min_mean=least),
            contents,
            Volume(10, 10, 1),
        )
        for name, contents, least in (
            ("large", large, 0.99),
            ("small", small, 0.99),
            ("strict", large, 0.9999999),
        )
    }
    assert {name: settled.resolved.draft for name, settled in found.items()} == {
        "large": True,
        "small": False,
        "strict": False,
    }
    assert found["large"].parity != found["strict"].parity
    assert found["strict"].measured["draft"]["parity"][0]["min"] < 0.9999999


def test_folders_that_lack_something(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each missing part is named, with what to do."""

    def broken(name: str, **config: Any) -> Path:
        path = Path(shutil.copytree(folders[name], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"))
        if config:
            processor = json.loads((path / "preprocessor_config.json").read_text()) | config
            (path / "preprocessor_config.json").write_text(json.dumps(processor))
        return path

    path = broken("vit")
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config.json; save the model's image processor"):
        make(path)
    with pytest.raises(
        ModelError, match=r"image processor 'DetrImageProcessor' is not supported; supported: vit, "
    ):
        make(broken("vit", image_processor_type="DetrImageProcessor"))
    with pytest.raises(ModelError, match="images of different sizes"):
        make(broken("clip", do_center_crop=False))
    with pytest.raises(ModelError, match="does not take images of 40 x 40 pixels"):
        make(broken("vit", size={"height": 40, "width": 40}))
    path = broken("vit")
    weights = transformers.ViTModel.from_pretrained(path, add_pooling_layer=False)
    weights.save_pretrained(path)
    assert dims_of(make(path).outputs())["embedding"] == 32
    with pytest.raises(ModelError, match="weights are missing or misshapen"):
        make(path, OutputSpec(pooling="pooler"))
    with pytest.raises(ModelError, match="and this is vit"):
        make(broken("vit"), family="clip") if (folders["vit"] / "tokenizer.json").exists() else ClipEncoder(
            ClipEncoderSpec(model=str(_with_tokenizer(broken("vit"), folders)))
        )
    with pytest.raises(SourceError, match="expected bytes"):
        make(folders["vit"]).prepare(pa.array(["text"]))


def _with_tokenizer(path: Path, folders: dict[str, Path]) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["clip"] / name, path)
    return path


def test_flops(folders: dict[str, Path]) -> None:
    """A ViT's operations are those counted by hand.

    Patches, and per layer four products of width squared, two of the MLP, attention.
    """
    encoder = make(folders["vit"], OutputSpec(pooling="cls"))
    positions, width, inner, layers = 37, 32, 64, 3
    of_layer = 2 * positions * (4 * width**2 + 2 * width * inner) + 4 * positions**2 * width
    patches, pooler = 2 * 36 * 3 * 8 * 8 * width, 2 * width**2
    assert encoder.flops(np.full(5, positions, np.int32)) == 5 * (layers * of_layer + patches + pooler)
    for name in MAKERS:
        assert make(folders[name]).flops(np.ones(2, np.int32)) > 0


def test_workers_need_no_torch(folders: dict[str, Path]) -> None:
    """Decoding a column imports no torch: readers are many, and it takes 200 MB."""
    program = (
        "import sys, pyarrow as pa\n"
        "from embed_ops.encoders.images.encoder import ImageEncoder\n"
        "from embed_ops.spec.encoder import ImageEncoderSpec\n"
        f"encoder = ImageEncoder(ImageEncoderSpec(model={str(folders['vit'])!r}))\n"
        "prepared = encoder.prepare(pa.array([open(sys.argv[1], 'rb').read()], pa.binary()))\n"
        "assert len(prepared.inputs) == 1 and encoder.most_rows('image', 9999) == 9999\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    path = folders["vit"] / "photo"
    path.write_bytes(samples()["jpeg"])
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
