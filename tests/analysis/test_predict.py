"""What a run will take, against what it took; what is kept for the report.

What can't be predicted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings
from stage_runs import invoke
from tiny_runs import tiny_spec

from embed_ops import embed
from embed_ops.analysis.drawing import draw
from embed_ops.analysis.page.write import write_page
from embed_ops.analysis.predict import about_rows, predict
from embed_ops.analysis.prediction import compared, kept_prediction
from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec, parse_source

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep predictions apart from the user's."""
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path / "cache"))


def test_counts_are_near_and_the_report_tells(tiny: str, tmp_path: Path) -> None:
    """Rows are known, tokens and rejects are near.

    The prediction is kept for the run's page, which shows both.
    """
    texts = docstrings(900)
    texts[::30] = [None] * len(texts[::30])  # type: ignore[list-item]
    (tmp_path / "corpus").mkdir()
    for part in range(3):
        pq.write_table(
            pa.table({"text": texts[part * 300 : part * 300 + 300]}),
            tmp_path / "corpus" / f"{part}.parquet",
            row_group_size=100,
        )
    spec = tiny_spec(
        tiny, {"path": str(tmp_path / "corpus"), "column": "text"}, tmp_path / "run", max_reject_fraction=0.5
    )
    found = predict(spec, price=3.6, most=400)
    run = embed(spec)
    report = run.report
    assert found.exact_rows
    assert abs(found.rows - report["rows"]) <= 30
    assert abs(found.rejects - report["rejected"]) <= 30
    assert found.tokens == pytest.approx(report["tokens"], rel=0.2)
    assert found.cost == pytest.approx(found.seconds / 1000)
    assert found.bytes["float32"] == found.rows * 32 * 4
    lines = {name: (was, is_now) for name, was, is_now, _ in compared(run.path, report)}
    assert lines["rows"][1] == f"{report['rows']:,}"
    assert lines["units"][0] == f"{found.units:,}"
    assert kept_prediction(run.path) is not None
    page = Path(write_page(run.path, method="pca")).read_text()
    for part in (
        f"{report['rejected']:,} rows (",
        ") became rejects",
        "the text is null",
        "What plan predicted",
        f"{found.tokens:,}",
    ):
        assert part in page
    assert kept_prediction(str(tmp_path / "other")) is None


@pytest.mark.slow
def test_lines_are_counted_by_their_bytes(tiny: str, tmp_path: Path) -> None:
    """Rows of JSONL are guessed from the bytes of those that were read; filtered ones are told."""
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"text": text, "n": number}) for number, text in enumerate(docstrings(1500))]
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "corpus"), "column": "text", "where": "n % 2 = 0"}
    spec = tiny_spec(tiny, source, tmp_path / "run")
    found = predict(spec, most=600)
    assert not found.exact_rows
    assert found.rows + found.filtered == pytest.approx(1500, rel=0.25)
    assert found.filtered == pytest.approx(found.rows, rel=0.2)
    code, said = invoke("plan", *_words(spec), "--price", 1.5, "--progress", "none", "--sample", 100)
    assert code == 0, said
    assert "what it will take" in said
    assert "at 1.5 an hour" in said


def test_a_file_of_csv_is_read_from_its_begin_and_measured_whole(tmp_path: Path) -> None:
    """Its rows are counted by all of its columns, and the sample has each row once."""
    texts = [f"a short name {row}" for row in range(5_000)]
    lines = [f"{row},{text},{'a longer column, quoted ' * 3!r},9.99" for row, text in enumerate(texts)]
    (tmp_path / "a.csv").write_text("\n".join(["id,name,about,price", *lines]).replace("'", '"'))
    corpus = Corpus.open(parse_source({"kind": "csv", "path": str(tmp_path / "a.csv"), "column": "name"}))
    assert about_rows(corpus, corpus.plan()) == pytest.approx(len(texts), rel=0.05)
    drawn = draw(corpus, corpus.plan(), 1_024, 0)
    assert drawn.contents == texts[:1_024]


def _words(spec: Spec) -> list[str]:
    source = spec.source
    listed = [
        f"source.kind={source.kind}",
        f"source.path={source.path}",
        "source.column=text",
        f"source.where={source.where}",
    ]
    return [*listed, f"encoder.model={spec.encoder.model}", f"sink.path={spec.sink.path}"]


def test_what_can_not_be_predicted(tiny: str, tmp_path: Path) -> None:
    """A graph, and a corpus without any text."""
    graph = {
        "source": {"kind": "graph", "nodes": "n", "edges": "e"},
        "encoder": {"family": "graph", "model": "m"},
        "sink": {"path": "o"},
    }
    with pytest.raises(SpecError, match="would tell nothing of its time"):
        predict(Spec.parse(graph))
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": pa.nulls(5, pa.string())}), tmp_path / "corpus" / "a.parquet")
    with pytest.raises(SourceError, match="none of 5 records"):
        predict(tiny_spec(tiny, {"path": str(tmp_path / "corpus"), "column": "text"}, tmp_path / "run"))
