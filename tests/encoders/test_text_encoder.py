"""TextEncoder against plain transformers and sentence-transformers, on tiny models."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tiny_models import ARCHITECTURES, LONGEST, TEXTS, bert_tokenizer, build

from embed_ops.encoders.base import FloatArray, Output
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.plain_bert import read_plain_bert
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.errors import ModelError, SourceError
from embed_ops.numerics.kinds import Dense
from embed_ops.spec.encoder import OutputSpec, TextEncoderSpec

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model of each architecture."""
    return {name: build(name, tmp_path_factory.mktemp(name)) for name in ARCHITECTURES}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Copy the BERT folder, for a test that damages it."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "model"))


def encoder_of(folder: Path, dtype: str = "float32", **fields: Any) -> TextEncoder:
    """Make an encoder and load its weights."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folder), **fields))
    encoder.load("cpu", dtype)
    return encoder


def embed(encoder: TextEncoder, texts: Sequence[str], batch: int = 4) -> dict[str, FloatArray]:
    """Embed rows in batches of inputs; one vector per row."""
    prepared = encoder.prepare(pa.array(texts, pa.string()))
    parts = [
        encoder.forward(prepared.inputs.slice(start, batch))
        for start in range(0, prepared.inputs.num_rows, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts])[prepared.index] for name in parts[0]}


def close(found: FloatArray, expected: Any, tolerance: float = 1e-5) -> None:
    """Check shape, type, cosine of each row and greatest difference."""
    expected = np.asarray(expected)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / norms).min() >= 0.99999
    assert np.abs(found - expected).max() <= tolerance


def saved(folder: Path, path: Path, *rest: torch.nn.Module, **options: Any) -> SentenceTransformer:
    """Save a sentence-transformers model over a tiny transformer, and load it as users do."""
    SentenceTransformer(modules=[st.Transformer(str(folder)), *rest], device="cpu", **options).save(
        str(path), create_model_card=False
    )
    return SentenceTransformer(str(path), device="cpu")


def written(
    folder: Path, modules: dict[str, dict[str, Any]], transformer: dict[str, Any], **config: Any
) -> Path:
    """Write the configurations of an older sentence-transformers release."""
    kinds = ["Transformer", *modules]
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": _dotted(kind)}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    for place, settings in zip(listed[1:], modules.values(), strict=True):
        (folder / str(place["path"])).mkdir()
        (folder / str(place["path"]) / "config.json").write_text(json.dumps(settings))
    return folder


def _dotted(kind: str) -> str:
    return kind if "." in kind else f"sentence_transformers.models.{kind}"


def one_by_one(folder: Path, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Embed through plain transformers, alone and un-padded: mean and last token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.T5EncoderModel if config.model_type == "t5" else transformers.AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    means, lasts = [], []
    with torch.inference_mode():
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"]
            hidden = model(input_ids=ids).last_hidden_state[0]
            means.append(hidden.mean(0).numpy())
            lasts.append(hidden[-1].numpy())
    return np.stack(means), np.stack(lasts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures(architecture: str, folders: dict[str, Path]) -> None:
    """Every architecture gives the vectors of plain transformers, several outputs at once."""
    outputs = (
        OutputSpec(name="mean"),
        OutputSpec(name="last", pooling="last"),
        OutputSpec(name="unit", normalize=True),
    )
    encoder = encoder_of(folders[architecture], outputs=outputs)
    found = embed(encoder, TEXTS)
    means, lasts = one_by_one(folders[architecture], TEXTS)
    close(found["mean"], means)
    close(found["last"], lasts)
    close(found["unit"], means / np.linalg.norm(means, axis=1, keepdims=True))
    name, reference = encoder.reference(pa.array(TEXTS))
    assert name == f"transformers {transformers.__version__}"
    close(found["mean"], reference["mean"])
    assert [output.kind for output in encoder.outputs()] == [Dense(32)] * 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_ids_and_limits(architecture: str, folders: dict[str, Path]) -> None:
    """Token ids are those of AutoTokenizer; the limit follows from tokenizer or positions.

    Only longer inputs count as cut.
    """
    encoder = TextEncoder(TextEncoderSpec(model=str(folders[architecture])))
    prepared = encoder.prepare(pa.array(TEXTS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[architecture])
    whole = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert encoder.describe()["max_tokens"] == LONGEST
    assert (
        prepared.inputs.column("tokens").to_pylist()
        == tokenizer(TEXTS, truncation=True, max_length=LONGEST)["input_ids"]
    )
    assert prepared.truncated.tolist() == [len(ids) > LONGEST for ids in whole]
    assert encoder.lengths(prepared.inputs).tolist() == [min(len(ids), LONGEST) for ids in whole]
    assert prepared.inputs.schema.field("tokens").type == pa.list_(pa.int32())


def test_exact_length_is_not_truncated(folders: dict[str, Path]) -> None:
    """A text of exactly the limit is whole, one token more is cut, and special tokens stay."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folders["bert"]), max_tokens=6))
    prepared = encoder.prepare(pa.array(["a a a a", "a a a a a"]))
    assert prepared.truncated.tolist() == [False, True]
    first, second = prepared.inputs.column("tokens").to_pylist()
    assert first == second
    assert first[-1] == bert_tokenizer().sep_token_id


def test_direct_tokenizer_is_autotokenizer(folders: dict[str, Path]) -> None:
    """The tokenizer read without transformers is AutoTokenizer's, part by part."""
    for name in ("bert", "distilbert"):
        direct = read_plain_bert(folders[name])
        assert direct is not None
        built = transformers.AutoTokenizer.from_pretrained(folders[name]).backend_tokenizer
        for backend in (direct, built):
            backend.no_truncation()
            backend.no_padding()
        assert json.loads(direct.to_str()) == json.loads(built.to_str())


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}),
        ("tokenizer_config.json", {"extra_special_tokens": ["[X]"]}),
        ("tokenizer_config.json", {"sep_token": "[END]"}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}),
        ("tokenizer.json", {"normalizer": None}),
        ("added_tokens.json", {"[X]": 7}),
    ],
)
def test_doubtful_tokenizers_go_through_autotokenizer(
    copied: Path, file: str, change: dict[str, Any]
) -> None:
    """Anything that departs from the plain BERT files is left to AutoTokenizer."""
    path = copied / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **change}))
    assert read_plain_bert(copied) is None


def test_slow_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer without a Rust form works, and is cut as transformers cuts it."""
    slow = transformers.ByT5Tokenizer(model_max_length=20)
    slow.save_pretrained(tmp_path)
    transformers.T5Config(vocab_size=400, d_model=32).save_pretrained(tmp_path)
    tokens = TextTokenizer(tmp_path, 20, lower=False, trust_remote_code=False).encode(TEXTS)
    found = [
        tokens.values[start:end].tolist()
        for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
    assert found == slow(TEXTS, truncation=True, max_length=20)["input_ids"]
    assert tokens.truncated.tolist() == [len(ids) > 20 for ids in slow(TEXTS)["input_ids"]]


def test_importing_and_preparing_needs_no_torch(folders: dict[str, Path]) -> None:
    """CPU workers of a BERT model import neither torch nor transformers."""
    code = (
        "import sys, pyarrow as pa; from embed_ops.encoders.text.encoder import TextEncoder; from "
        "embed_ops.spec.encoder import TextEncoderSpec;"
        "encoder = TextEncoder(TextEncoderSpec(model=sys.argv[1])); encoder.prepare(pa.array(['a'])); "
        "encoder.fingerprint();"
        "encoder.describe(); encoder.outputs();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folders["bert"])], check=False).returncode == 0


@pytest.mark.parametrize("mode", MODES)
def test_pooling_modes(mode: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Every pooling mode of a saved folder, and the same mode by name in the spec."""
    model = saved(folders["bert"], tmp_path, st.Pooling(32, pooling_mode=mode))
    expected = model.encode(TEXTS, batch_size=5)
    close(embed(encoder_of(tmp_path), TEXTS)["embedding"], expected)
    named = encoder_of(tmp_path, outputs=({"pooling": MODES[mode]},))
    close(embed(named, TEXTS)["embedding"], expected)


def test_all_modules(folders: dict[str, Path], tmp_path: Path) -> None:
    """Concatenated pooling, Dense with residual, LayerNorm, Dropout, Normalize in one folder."""
    torch.manual_seed(3)
    norm = st.LayerNorm(24)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    rest = [
        st.Pooling(32, pooling_mode=("lasttoken", "mean", "cls")),
        st.Dense(96, 48, activation_function=torch.nn.GELU()),
        st.Dense(48, 48, bias=False, activation_function=torch.nn.Identity(), use_residual=True),
        st.Dense(48, 24, activation_function=torch.nn.PReLU(), use_residual=True),
        norm,
        st.Dropout(0.3),
        st.Normalize(),
    ]
    model = saved(folders["roberta"], tmp_path, *rest)
    # Left to itself it overruns RoBERTa's position table, whose first two entries are not usable.
    model.max_seq_length = LONGEST
    encoder = encoder_of(tmp_path)
    close(embed(encoder, TEXTS)["embedding"], model.encode(TEXTS, batch_size=3))
    assert encoder.outputs() == (Output("embedding", Dense(24)),)
    name, reference = encoder.reference(pa.array(TEXTS))
    assert name.startswith("sentence-transformers 6")
    close(embed(encoder, TEXTS)["embedding"], reference["embedding"])


def test_dense_over_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    """Dense and Normalize may work on token vectors, before pooling."""
    dense = st.Dense(32, 8, module_input_name="token_embeddings")
    model = saved(folders["bert"], tmp_path, dense, st.Normalize("token_embeddings"), st.Pooling(8))
    encoder = encoder_of(tmp_path)
    close(embed(encoder, TEXTS)["embedding"], model.encode(TEXTS))
    assert encoder.outputs() == (Output("embedding", Dense(8)),)


def test_old_folder(copied: Path) -> None:
    """Boolean pooling keys, an old class path, and the order of concatenation of that time."""
    flags = {
        "word_embedding_dimension": 32,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": True,
        "pooling_mode_max_tokens": True,
    }
    written(copied, {"Pooling": flags}, {"max_seq_length": 16, "do_lower_case": False})
    close(
        embed(encoder_of(copied), TEXTS)["embedding"],
        SentenceTransformer(str(copied), device="cpu").encode(TEXTS),
    )


@pytest.mark.parametrize("prompt", [None, "query", "passage", "free text: ", ""])
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_prompts(
    architecture: str, include: bool, prompt: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Prompts by name, by text and by default.

    Tokens of the prompt are pooled or not, as the folder says.
    """
    prompts = {"query": "search query: ", "passage": "passage: ", "document": ""}
    pooling = st.Pooling(32, pooling_mode=("mean", "weightedmean", "cls"), include_prompt=include)
    model = saved(folders[architecture], tmp_path, pooling, prompts=prompts, default_prompt_name="passage")
    encoder = encoder_of(tmp_path, prompt=prompt)
    named = {"prompt_name": prompt} if prompt in prompts else {"prompt": prompt}
    # One at a time: with left padding, sentence-transformers' own rows depend a little on their
    # batch.
    close(embed(encoder, TEXTS)["embedding"], model.encode(TEXTS, batch_size=1, **named))
    close(embed(encoder, TEXTS)["embedding"], encoder.reference(pa.array(TEXTS))[1]["embedding"])


@pytest.mark.parametrize("lower", [True, False])
def test_do_lower_case_and_max_seq_length(lower: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    """do_lower_case and max_seq_length are followed, texts not stripped, cuts counted."""
    folder = Path(shutil.copytree(folders["roberta"], tmp_path / "model"))
    written(
        folder,
        {"Pooling": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}},
        {"max_seq_length": 12, "do_lower_case": lower},
    )
    encoder = encoder_of(folder)
    close(embed(encoder, TEXTS)["embedding"], SentenceTransformer(str(folder), device="cpu").encode(TEXTS))
    prepared = encoder.prepare(pa.array(TEXTS))
    assert encoder.lengths(prepared.inputs).max() == 12
    assert prepared.truncated.sum() >= 8
    upper, small = embed(encoder, ["SHOUTED WORDS", "shouted words"])["embedding"]
    assert np.allclose(upper, small) == lower


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_does_not_matter(side: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A decoder with last-token pooling gives the same vectors whatever side its tokenizer pads."""
    folder = Path(shutil.copytree(folders["qwen3"], tmp_path / "model"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": side}))
    model = saved(folder, tmp_path / "saved", st.Pooling(32, pooling_mode="lasttoken"), st.Normalize())
    assert model.tokenizer.padding_side == side
    close(embed(encoder_of(tmp_path / "saved"), TEXTS)["embedding"], model.encode(TEXTS, batch_size=4))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("WeightedLayerPooling", {}),
        ("sentence_transformers.models.CNN", {}),
        ("custom_st.Pooling", {"pooling_mode": "mean"}),
    ],
)
def test_unknown_module(copied: Path, kind: str, settings: dict[str, Any]) -> None:
    """A module that is not supported is named, with its folder and the supported ones.

    Naming outputs goes round it.
    """
    written(copied, {kind: settings}, {})
    with pytest.raises(
        ModelError, match=rf"{kind}.*1_{kind}.*Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout"
    ):
        TextEncoder(TextEncoderSpec(model=str(copied)))
    named = TextEncoder(TextEncoderSpec(model=str(copied), outputs=(OutputSpec(),))).outputs()
    assert [output.name for output in named] == ["embedding"]


@pytest.mark.parametrize(
    ("modules", "transformer", "words"),
    [
        ({"Pooling": {"pooling_mode": "median"}}, {}, "median"),
        ({"Pooling": {}}, {}, "pooling is unknown"),
        ({"Normalize": {}}, {}, "no module before it"),
        (
            {
                "Pooling": {"pooling_mode": "mean"},
                "Dense": {"in_features": 32, "out_features": 4, "activation_function": "os.system"},
            },
            {},
            "os.system",
        ),
        ({"Pooling": {"pooling_mode": "mean"}, "Dense": {"in_features": 32}}, {}, "out_features"),
        ({"Pooling": {"pooling_mode": "mean"}}, {"transformer_task": "fill-mask"}, "fill-mask"),
        ({"Pooling": {"pooling_mode": "mean"}}, {"modality_config": {"message": {}}}, "message"),
        (
            {"Pooling": {"pooling_mode": "mean"}},
            {"tokenizer_args": {"add_prefix_space": True}},
            "add_prefix_space",
        ),
    ],
)
def test_unsupported_settings(
    copied: Path, modules: dict[str, Any], transformer: dict[str, Any], words: str
) -> None:
    """Settings that would change vectors and are not followed are errors that name them."""
    written(copied, modules, transformer)
    with pytest.raises(ModelError, match=words):
        TextEncoder(TextEncoderSpec(model=str(copied)))


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Linear",
        "torch.nn.modules.activation.os",
        "torch.nn.functional.relu",
        "torch.nn.MultiheadAttention",
    ],
)
def test_foreign_activation(copied: Path, name: str) -> None:
    """Only torch's own activation classes are built, and only without arguments."""
    dense = {"in_features": 32, "out_features": 4, "activation_function": name}
    written(copied, {"Pooling": {"pooling_mode": "mean"}, "Dense": dense}, {})
    with pytest.raises(ModelError, match="activation"):
        encoder_of(copied)


def test_module_outside_of_the_folder(copied: Path) -> None:
    """A module path that leaves the model folder is refused."""
    written(copied, {"Pooling": {"pooling_mode": "mean"}}, {})
    text = (copied / "modules.json").read_text().replace("1_Pooling", "../1_Pooling")
    (copied / "modules.json").write_text(text)
    with pytest.raises(ModelError, match="outside"):
        TextEncoder(TextEncoderSpec(model=str(copied)))


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["config.json"], r"no config\.json, found .*model\.safetensors"),
        (["model.safetensors"], r"no weights .*found .*config\.json"),
        (["tokenizer.json"], r"no tokenizer .*found .*config\.json"),
    ],
)
def test_missing_parts(copied: Path, gone: list[str], words: str) -> None:
    """A missing part is named, with what was found in its place."""
    for name in gone:
        (copied / name).unlink()
    with pytest.raises(ModelError, match=words):
        TextEncoder(TextEncoderSpec(model=str(copied)))


def test_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written like a path must be a folder; a file is not one.

    Other words are hub names.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for name, words in [
        ("./gone", "found nothing"),
        ("~/gone", "found nothing"),
        ("file", "found a file"),
        ("a/b/c", "no hub name"),
    ]:
        with pytest.raises(ModelError, match=words):
            TextEncoder(TextEncoderSpec(model=name))


def test_broken_weights(copied: Path) -> None:
    """Weights that are cut short, or lack a layer, are errors.

    Transformers would fill the gap with random numbers.
    """
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    whole = load_file(file)
    save_file(
        {key: value for key, value in whole.items() if "layer.1.attention.self.query" not in key},
        file,
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"missing .*layer\.1\.attention\.self\.query"):
        encoder_of(copied)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="can't be loaded"):
        encoder_of(copied)


def test_pickled_weights(copied: Path) -> None:
    """pytorch_model.bin is read, as tensors only."""
    from safetensors.torch import load_file

    expected = embed(encoder_of(copied), TEXTS)["embedding"]
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert np.array_equal(embed(encoder_of(copied), TEXTS)["embedding"], expected)


def test_forward_before_load(folders: dict[str, Path]) -> None:
    """Running before loading is a clear error, as is a limit that leaves no room."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folders["bert"])))
    with pytest.raises(ModelError, match="before load"):
        encoder.forward(encoder.prepare(pa.array(["a"])).inputs)
    with pytest.raises(ModelError, match="no room"):
        TextEncoder(TextEncoderSpec(model=str(folders["bert"]), max_tokens=2)).prepare(pa.array(["a"]))


def with_invalid() -> pa.Array:
    """Make a string column, as Parquet may hold it, of null, bad, empty and repeated texts."""
    raw: list[bytes | None] = [
        b"one",
        None,
        b"bad \xff",
        b"",
        b"one",
        b"cut \xe4\xb8",
        b"two",
        None,
        b"bad \xff",
    ]
    return pa.array(raw, pa.binary()).cast(pa.large_binary()).view(pa.large_string())


@pytest.mark.parametrize("form", ["large_string", "string", "chunked", "dictionary", "sliced"])
def test_null_empty_and_invalid_rows(form: str, folders: dict[str, Path]) -> None:
    """Null and non-UTF-8 rows are rejects, others keep their place, in every form of column."""
    column = with_invalid()
    forms = {
        "large_string": column,
        "string": column.cast(pa.string()),
        "chunked": pa.chunked_array([column.slice(0, 3), column.slice(3, 0), column.slice(3)]),
        "dictionary": column.cast(pa.string()).dictionary_encode(),
        "sliced": pa.concat_arrays([pa.array(["before"], pa.large_string()), column]).slice(1),
    }
    prepared = TextEncoder(TextEncoderSpec(model=str(folders["bert"]))).prepare(forms[form])
    assert prepared.index.tolist() == [0, -1, -1, 1, 0, -1, 2, -1, -1]
    assert prepared.index.dtype == np.int32
    reasons = ["null", "invalid_utf8", "invalid_utf8", "null", "invalid_utf8"]
    assert [(reject.row, str(reject.reason)) for reject in prepared.rejects] == list(
        zip([1, 2, 5, 7, 8], reasons, strict=True)
    )
    assert prepared.rejects[1].message == "the text is not UTF-8: invalid start byte at byte 4"
    assert prepared.inputs.num_rows == len(prepared.truncated) == 3


def test_reference_keeps_rows(folders: dict[str, Path]) -> None:
    """The reference gives a row for every row.

    Rejects are NaN, the empty text is a vector like any other.
    """
    encoder = encoder_of(folders["bert"])
    column = with_invalid()
    vectors = encoder.reference(column)[1]["embedding"]
    prepared = encoder.prepare(column)
    assert np.isnan(vectors).all(1).tolist() == (prepared.index < 0).tolist()
    good = prepared.index >= 0
    close(encoder.forward(prepared.inputs)["embedding"][prepared.index[good]], vectors[good])


def test_empty_and_wrong_columns(folders: dict[str, Path]) -> None:
    """A column without rows or with only nulls gives no inputs.

    One that is not text is an error.
    """
    encoder = encoder_of(folders["bert"])
    for column, rows in [
        (pa.array([], pa.string()), 0),
        (pa.chunked_array([], pa.string()), 0),
        (pa.nulls(3, pa.string()), 3),
        (pa.nulls(2), 2),
    ]:
        prepared = encoder.prepare(column)
        assert (prepared.inputs.num_rows, len(prepared.index), len(prepared.rejects)) == (0, rows, rows)
        assert prepared.inputs.schema.field("tokens").type == pa.list_(pa.int32())
        assert encoder.lengths(prepared.inputs).tolist() == []
        assert encoder.forward(prepared.inputs)["embedding"].shape == (0, 32)
    with pytest.raises(SourceError, match="int64"):
        encoder.prepare(pa.array([1, 2]))


def test_duplicates_are_computed_once(folders: dict[str, Path]) -> None:
    """Equal texts share one input, in order of first appearance."""
    prepared = TextEncoder(TextEncoderSpec(model=str(folders["bert"]))).prepare(
        pa.array(["b", "a", "b", "c", "a", "b "])
    )
    assert prepared.index.tolist() == [0, 1, 0, 2, 1, 3]
    assert prepared.inputs.num_rows == 4


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "t5", "qwen3"])
def test_batches_do_not_matter(architecture: str, folders: dict[str, Path]) -> None:
    """A text alone, in a batch, and in another order has the same vector."""
    encoder = encoder_of(folders[architecture])
    together = embed(encoder, TEXTS, batch=len(TEXTS))["embedding"]
    close(embed(encoder, TEXTS, batch=1)["embedding"], together)
    order = random.Random(5).sample(range(len(TEXTS)), len(TEXTS))
    close(embed(encoder, [TEXTS[i] for i in order], batch=3)["embedding"], together[order])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16(architecture: str, folders: dict[str, Path]) -> None:
    """bfloat16 weights give vectors near those of float32, and still float32 numbers."""
    exact = embed(encoder_of(folders[architecture]), TEXTS)["embedding"]
    near = embed(encoder_of(folders[architecture], dtype="bfloat16"), TEXTS)["embedding"]
    assert near.dtype == np.float32
    cosine = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert cosine.min() >= 0.99


def test_flops(folders: dict[str, Path]) -> None:
    """Operations follow the formula, before and after loading, and grow with the text."""
    encoder = TextEncoder(TextEncoderSpec(model=str(folders["bert"])))
    lengths = np.array([3, 10], np.int32)
    linear = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    expected = 2 * linear * 13 + 2 * 4 * 32 * (9 + 100)
    assert encoder.flops(lengths) == expected
    assert encoder_of(folders["bert"]).flops(lengths) == expected


def test_fingerprint(copied: Path) -> None:
    """Weights, tokenizer, configurations and module settings are hashed.

    Notes and other frameworks' weights are not; code only if run.
    """
    written(copied, {"Pooling": {"pooling_mode": "mean"}}, {})
    for name in ("README.md", "tf_model.h5", "modeling.py"):
        (copied / name).write_text("x")
    plain = TextEncoder(TextEncoderSpec(model=str(copied))).fingerprint()
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
    } <= set(plain)
    assert not {"README.md", "tf_model.h5", "modeling.py"} & set(plain)
    assert (
        "modeling.py" in TextEncoder(TextEncoderSpec(model=str(copied), trust_remote_code=True)).fingerprint()
    )
    (copied / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    changed = TextEncoder(TextEncoderSpec(model=str(copied))).fingerprint()
    assert [name for name in plain if plain[name] != changed[name]] == ["1_Pooling/config.json"]


def test_describe_is_json(folders: dict[str, Path]) -> None:
    """The description can go into run.json."""
    described = json.loads(json.dumps(encoder_of(folders["qwen3"], prompt="p: ").describe()))
    assert described["model_type"] == "qwen3"
    assert described["prompt"] == "p: "
    assert described["outputs"] == {"embedding": {"dim": 32, "pooling": "mean", "normalize": False}}
    assert described["dtype"] == "float32"
