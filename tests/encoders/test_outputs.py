"""Several outputs from one pass.

Layers, their sums and concatenations, lengths, against transformers' own hidden states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from tiny_models import ARCHITECTURES, LONGEST, TEXTS, build

from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.layers import LayerStates
from embed_ops.encoders.text.transformer import ENCODER_CLASSES
from embed_ops.errors import ModelError, SpecError
from embed_ops.spec.encoder import OutputSpec, TextEncoderSpec
from embed_ops.spec.spec import Spec

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS: dict[int | str, Any] = {
    -1: lambda states: states[-1],
    0: lambda states: states[0],
    1: lambda states: states[1],
    -2: lambda states: states[-2],
    "mean(-2:)": lambda states: (states[-1] + states[-2]) / 2,
    "sum(0, -1)": lambda states: states[0] + states[-1],
    "concat(-2:)": lambda states: torch.cat([states[-2], states[-1]], -1),
    "mean(:)": lambda states: torch.stack(states).mean(0),
}


def _albert(path: Path) -> Path:
    """Save a model whose layers share one block, so that none of them can be looked into."""
    build("bert", path)
    torch.manual_seed(7)
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(path))
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "embedding_size": 16,
    }
    model = transformers.AlbertModel(
        transformers.AlbertConfig(vocab_size=vocabulary, max_position_embeddings=LONGEST, **sizes)
    )
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "albert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model of each architecture."""
    path = tmp_path_factory.mktemp(request.param)
    return _albert(path) if request.param == "albert" else build(request.param, path)


def outputs_of(layers: list[int | str], **fields: Any) -> tuple[OutputSpec, ...]:
    """Name an output for each layer."""
    return tuple(
        OutputSpec(name=f"layer {place}", pooling="mean", layer=layer, **fields)
        for place, layer in enumerate(layers)
    )


def embed(
    folder: Path, texts: list[str], outputs: tuple[OutputSpec, ...]
) -> tuple[TextEncoder, dict[str, Any]]:
    """Embed all texts as one batch."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folder), outputs=outputs))
    encoder.load("cpu", "float32")
    prepared = encoder.prepare(pa.array(texts))
    return encoder, {
        name: vectors[prepared.index] for name, vectors in encoder.forward(prepared.inputs).items()
    }


def test_layers_equal_hidden_states(folder: Path) -> None:
    """Each layer, sum, mean and concatenation is that of `output_hidden_states`, to 1e-6."""
    texts = [text for text in TEXTS if text.strip()][:6]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    model = (
        getattr(transformers, ENCODER_CLASSES.get(kind, "AutoModel"))
        .from_pretrained(folder, dtype=torch.float32)
        .eval()
    )
    encoder, found = embed(folder, texts, outputs_of(list(LAYERS)))
    for row, text in enumerate(texts):
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=LONGEST)
        with torch.inference_mode():
            states = model(**given, output_hidden_states=True).hidden_states
        for name, choose in zip(dims_of(encoder.outputs()), LAYERS.values(), strict=True):
            expected = choose(states)[0].mean(0).numpy()
            assert found[name][row].shape == expected.shape == (dims_of(encoder.outputs())[name],)
            np.testing.assert_allclose(
                found[name][row], expected, rtol=0, atol=1e-6 * max(1.0, float(np.abs(expected).max()))
            )


def test_only_needed_layers_are_held(folder: Path) -> None:
    """Where blocks can be looked into, transformers is never asked for all hidden states."""
    encoder, _ = embed(folder, TEXTS[:2], outputs_of([1, -1]))
    states = encoder._backbone._states
    assert isinstance(states, LayerStates)
    asked: list[bool] = []
    states._model.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append("output_hidden_states" in kwargs), with_kwargs=True
    )
    prepared = encoder.prepare(pa.array(TEXTS[:2]))
    encoder.forward(prepared.inputs)
    assert asked == ["albert" in folder.name]
    assert not states._caught


def test_a_model_whose_blocks_are_not_its_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for all hidden states, and nothing goes on looking into its blocks."""
    folder = build("bert", tmp_path)
    _, expected = embed(folder, TEXTS[:3], outputs_of([1, "mean(:)"]))
    monkeypatch.setattr(LayerStates, "_same", lambda _: False)
    encoder, found = embed(folder, TEXTS[:3], outputs_of([1, "mean(:)"]))
    for name in dims_of(encoder.outputs()):
        np.testing.assert_array_equal(found[name], expected[name])
    states = encoder._backbone._states
    assert isinstance(states, LayerStates)
    assert not any(module._forward_pre_hooks for module in states._model.modules())
    assert not states._caught


def test_the_reference_reads_layers_by_other_code(folder: Path) -> None:
    """Parity of all outputs with the reference, which asks for every hidden state."""
    texts = [text for text in TEXTS if text.strip()][:6]
    outputs = outputs_of(list(LAYERS), normalize=True, dim=7)
    encoder, found = embed(folder, texts, outputs)
    judged = compare_outputs(found, np.arange(len(texts), dtype=np.int32), encoder.reference(pa.array(texts)))
    assert {item.output for item in judged} == set(dims_of(encoder.outputs()))
    assert min(item.min for item in judged) > 0.999999


def test_dim_cuts_before_normalize(folder: Path) -> None:
    """A shortened output is the first dimensions of the whole one, normalised again."""
    whole, short = (
        OutputSpec(name="whole", pooling="mean"),
        OutputSpec(name="short", pooling="mean", dim=5, normalize=True),
    )
    encoder, found = embed(folder, TEXTS[:4], (whole, short))
    cut = found["whole"][:, :5]
    np.testing.assert_allclose(found["short"], cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert dims_of(encoder.outputs())["short"] == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layer": 9}, "no layer 9, the model has 0 to"),
        ({"layer": "mean(9)"}, "no layer 9, the model has 0 to"),
        ({"layer": "concat(5:)"}, "names none of the model's layers"),
        ({"dim": 33}, "dim is 33, and the vectors have 32 dimensions"),
    ],
)
def test_what_a_model_does_not_have(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Layers and dimensions beyond the model's are refused by name."""
    encoder = TextEncoder(
        TextEncoderSpec(model=str(build("bert", tmp_path)), outputs=(OutputSpec(name="own", **fields),))
    )
    with pytest.raises(ModelError, match=says) as caught:
        encoder.outputs()
    assert "output 'own'" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (['encoder.outputs.0.layer="last"'], "is no number and none of"),
        (['encoder.outputs.0.layer="mean()"'], "is no number and none of"),
        (["encoder.outputs.0.layer=1", "encoder.compile=true"], "compiled model gives its output only"),
        (["encoder.family=clip", "source.modality=text", "encoder.outputs.0.layer=1"], "clip has one vector"),
        (
            ["encoder.family=image", "source.modality=image", 'encoder.outputs.0.layer="mean(:)"'],
            "are for family text",
        ),
        (
            ["encoder.family=image", "source.modality=image", "encoder.outputs.0.dim=8"],
            "let a truncate stage follow",
        ),
        (["encoder.outputs.0.dtype=int8"], "go together"),
        (["encoder.outputs.0.quantizer=run/stages/quantize"], "go together"),
        (["encoder.outputs.0.dim=0"], "greater than 0"),
    ],
)
def test_specs_that_make_no_sense(words: list[str], says: str) -> None:
    """Each is refused with a sentence before anything starts."""
    plain = ["source.path=in", "source.column=text", "encoder.model=m", "sink.path=out"]
    with pytest.raises(SpecError, match=says):
        Spec.load(None, [*plain, *words])
