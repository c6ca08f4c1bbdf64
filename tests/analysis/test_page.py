"""The page of a run: its verdict, its sentences, and what it shows of every kind of run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture

from embed_ops.analysis.page.card import card, duration, settings
from embed_ops.analysis.page.course import bars, course, memory, stage_course, throughput
from embed_ops.analysis.page.gather import gather_page
from embed_ops.analysis.page.health import health
from embed_ops.analysis.page.verdict import Finding, comparison, completeness, judge, soundness
from embed_ops.analysis.page.write import write_page
from embed_ops.errors import RunError, StageError
from embed_ops.runs.header import AttemptEntry
from embed_ops.runs.record import Record
from embed_ops.sources.parquet import ParquetSource

BAD = "<script>document.title='run'</script> & \"quoted\""


def record(**fields: Any) -> Record:
    """Make a record of ten rows."""
    plain: dict[str, Any] = {
        "unit": "a.0",
        "attempt": "x",
        "ranges": [],
        "next_source": None,
        "next_position": None,
        "rows": 10,
        "rejects": 0,
    }
    return Record(**{**plain, "file_rejects": 0, "filtered": 0, "bytes": 1, "sha256": "", **fields})


def kept(first: int, end: int) -> dict[str, pa.Array]:
    """Keep a column with what a browser would run if it were let, and one of three values."""
    return {
        "name": pa.array([f"{row} {BAD}" for row in range(first, end)]),
        "kind": pa.array([f"k{row % 3}" for row in range(first, end)]),
    }


def spoiled(first: int, end: int, share: int) -> np.ndarray:
    """Draw vectors of which one in `share` is not finite."""
    x = mixture(3, 2)(first, end)
    x[np.arange(first, end) % share == share - 1, 0] = np.nan
    return x


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of 900 rows."""
    path = tmp_path_factory.mktemp("page") / "run"
    make_run(str(path), [500, 400], mixture(12, 5, spread=0.3), unit_rows=200, keep=kept)
    return path


@pytest.mark.parametrize("case", ["as it was", "gone", "another"])
def test_texts_are_those_that_were_embedded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of a file that is gone or has changed are not shown, those of the others are.

    No source file is inspected again.
    """
    (tmp_path / "src").mkdir()
    for number in range(4):
        pq.write_table(
            pa.table({"text": [f"original{number} {row}" for row in range(9)]}),
            tmp_path / f"src/{number}.parquet",
        )
    fake_run.make(fake_run.spec_of({"path": str(tmp_path / "src"), "column": "text"}, tmp_path / "run"))
    if case == "gone":
        (tmp_path / "src/2.parquet").unlink()
    elif case == "another":
        pq.write_table(pa.table({"text": ["replaced"] * 9}), tmp_path / "src/2.parquet")

    def refuse(*_: Any) -> None:
        raise AssertionError("a source file was inspected")

    monkeypatch.setattr(ParquetSource, "inspect", refuse)
    page = Path(write_page(str(tmp_path / "run"), method="pca")).read_text()
    assert "original1" in page
    assert "replaced" not in page
    assert ("original2" in page) == (case == "as it was")


def test_sentences_say_what_was_found() -> None:
    """Rejects, unread files, truncation, cost, waiting; rates over time add up to the rows."""
    lines = completeness(
        "finished", [record(rejects=5, truncated=4, file_rejects=1, filtered=2)], {"unknown": 3}
    )
    text = " | ".join(line.text for line in lines)
    for part in (
        "10 of 15 rows have a vector",
        "5 rows (33.33%) became rejects, more than max_reject_fraction allows (1.00%)",
        "1 file could not",
        "2 rows were left out",
        "4 rows (40.0%) were longer than the model takes, and cut",
        "3 words",
    ):
        assert part in text
    for status, planned, said, level in (
        ("stopped", 70, "stopped: 10 of 70 rows", "red"),
        ("running", None, "running: 10 rows have a vector so far, in 1 unit; how many are left", "amber"),
    ):
        first = completeness(status, [record()], {}, planned)[0]
        assert (first.level, bool(first.remedy)) == (level, True)
        assert said in first.text
    stage = stage_course({"seconds": {"total": 9.0, "fit": 5.0, "steady": 2.0}, "rows_per_second": 50.0})
    assert [line.text for line in stage] == [
        "9.0 s in all, 5.0 s to fit, 2.0 s to apply",
        "50 rows/s applied",
    ]
    assert stage_course({})[0].level == "amber"
    report = {
        "rows": 100,
        "rows_per_second": 5.0,
        "tokens_per_second": 9.0,
        "seconds": {"total": 3600, "startup": 1.0, "steady": 9.0},
    }
    told = " ".join(line.text for line in course({**report, "idle": {"input": 0.5}}))
    assert "waited 50% of their time for input" in told
    assert "no rates" in course({})[0].text
    graph = {
        "edges_of_partitions": {"min": 1, "max": 9},
        "in_edges_of_largest_node": 4,
        "edges_missing": 0,
        "edges_of_rejects": 0,
        "halo_rows": 3,
        "layers": [],
    }
    of_graph = {**report, "graph": {**graph, "nodes": 7, "edges": 12, "partitions": 2}}
    assert course(of_graph)[0].text == "graph: 7 nodes, 12 edges; at most 4 lead to one node"
    assert not any("rows/s" in line.text for line in course(of_graph))
    assert comparison(of_graph).level == "good"
    timed = [
        record(unit=f"a.{place}", seconds={"started": 10.0 + place, "finished": 12.0 + place})
        for place in range(20)
    ]
    seconds, rates = throughput(timed)
    assert sum(rates) * (seconds[1] - seconds[0]) == pytest.approx(200)


def test_the_verdict_is_the_gravest_finding() -> None:
    """Green, amber, red, each behind a fact; amber says what to do; not compared is amber."""
    parity = {"parity": [{"output": "e", "reference": "it", "rows": 64, "mean": 1.0, "min": 0.99}]}
    x = np.random.default_rng(5).normal(size=(300, 8)).astype(np.float32)
    sound, dead, copies = x, x.copy(), x.copy()
    dead[:, 3], copies[:100] = 2, x[0]
    for rows, report, vectors, level in (
        ([record()], parity, sound, "good"),
        ([record(truncated=1)], parity, sound, "amber"),
        ([record()], {}, sound, "amber"),
        ([record()], parity, dead, "amber"),
        ([record()], parity, copies, "amber"),
        ([record(rejects=1)], parity, sound, "red"),
        ([record(rows=1000, rejects=1)], parity, sound, "amber"),
        ([record(file_rejects=1)], parity, sound, "red"),
        ([record(rows=0)], parity, sound, "red"),
    ):
        found = judge(
            "finished",
            completeness("finished", rows, report),
            comparison(report),
            soundness(health(vectors, 0)),
        )
        assert found.level == level
        assert len(found.facts) == 3
        assert (found.findings == ()) == (level == "good")
        assert all(item.remedy for item in found.findings)
    assert "compared: 64 rows" in comparison(parity).text
    assert "not compared" in comparison({"parity": []}).text
    # The run of a stage has nothing to compare.
    assert judge("finished", completeness("finished", [record()], {}), None, []).level == "good"
    assert judge("running", [Finding("x", "amber")], None, []).headline == "Still running"


def test_bars_are_of_each_replica() -> None:
    """Shares of the report become parts of bars, none empty; memory is the greatest first."""
    time = {"useful": 0.5, "padding": 0.0, "forward": 0.2, "input": 0.3, "output": 0.0, "uneven": 0.0}
    idle = time | {"useful": 0.1, "forward": 0.1, "uneven": 0.5}
    each = [
        {"replica": "a:1", "units": 2, "rows": 20, "time": time},
        {"replica": "a:2", "units": 1, "rows": 10, "time": idle},
    ]
    drawn = bars({"time": time, "by_replica": each})
    assert [(bar.name, bar.note) for bar in drawn] == [
        ("all replicas", ""),
        ("a:2", "1 unit, 10 rows"),
        ("a:1", "2 units, 20 rows"),
    ]
    assert [part.key for part in drawn[0].shares] == ["useful", "forward", "input"]
    assert sum(part.share for part in drawn[1].shares) == pytest.approx(1.0)
    assert len(bars({"time": time, "by_replica": each[:1]})) == 1
    assert bars({}) == []
    assert memory({"peak_memory": {"driver": 10, "replica": 40, "gpu": 0}}) == [
        ("replica", 40, 1.0),
        ("driver", 10, 0.25),
    ]


def test_the_card_shows_what_the_run_has(run: Path) -> None:
    """Settings are those that somebody chose: none that is null, none of another family."""
    from embed_ops.runs.run import Run

    named = dict(settings(Run(str(run)).header))
    assert named == {
        "source.path": f"{run}-source",
        "source.column": "text",
        "encoder.model": "none",
        "sink.path": str(run),
    }
    gathered = gather_page(str(run), 10, 0, None)
    times = ((0.0, 3000.0), (5000.0, 5600.0), (9000.0, None))
    attempts = tuple(AttemptEntry(f"x-{began}", began, ended) for began, ended in times)
    header = replace(gathered.header, attempts=attempts, resolved={"device": "cpu", "dtype": "float32"})
    shown = dict(card(replace(gathered, header=header), 2.0))
    assert shown["time"] == "1 h 0 min, 2 commands, without 1 that came to no end"
    assert shown["cost"] == "2.0000 at 2 an hour, 2,222.22 for a million rows"
    assert (shown["rows"], shown["computed on"], shown["status"]) == ("900", "CPU, float32", "finished")
    assert "stage" not in shown
    assert "cost" not in dict(card(gathered, None))
    told = [duration(seconds) for seconds in (4.25, 61, 3 * 3600 + 120, 26 * 3600)]
    assert told == ["4.2 s", "1 min 1 s", "3 h 2 min", "1 d 2 h"]


def test_every_kind_of_run_has_a_page(run: Path, tmp_path: Path) -> None:
    """A run, one that is not finished, an empty one, one without kept columns; against another.

    What is not there is refused.
    """
    page = Path(write_page(str(run), price=1.0, against=str(run), method="pca")).read_text()
    assert len(page) < 10_000_000
    assert "of the 10 nearest rows, the same" in page
    assert "100.0%" in page
    assert "default-src 'none'" in page
    assert "What moved most" not in page
    assert BAD not in page
    shutil.copytree(run, tmp_path / "half")
    header = json.loads((tmp_path / "half/run.json").read_text())
    (tmp_path / "half/run.json").write_text(json.dumps(header | {"status": "stopped"}))
    for part in sorted((tmp_path / "half/manifest").iterdir())[1:]:
        part.unlink()
    half = Path(write_page(str(tmp_path / "half"))).read_text()
    assert "the run is stopped: finish it" in half
    assert "stopped: 200 of 900 rows have a vector so far, in 1 unit" in half
    assert 'class="verdict red"' in half
    make_run(str(tmp_path / "cut"), [500, 400], mixture(12, 5, spread=0.3), unit_rows=130)
    cut = Path(
        write_page(str(run), str(tmp_path / "c.html"), against=str(tmp_path / "cut"), method="pca")
    ).read_text()
    assert re.search(r">rows compared</th><td[^>]*>900</td>", cut)
    make_run(str(tmp_path / "sparse"), [0] * 90 + [50], mixture(3, 2))
    assert "50 rows, chosen by hash" in Path(write_page(str(tmp_path / "sparse"), method="pca")).read_text()
    make_run(str(tmp_path / "bare"), [40], mixture(3, 2))
    assert (
        "40 rows, chosen by hash"
        in Path(write_page(str(tmp_path / "bare"), str(tmp_path / "b.html"), method="pca")).read_text()
    )
    make_run(str(tmp_path / "one"), [1], mixture(3, 2))
    assert "1 row, the only one" in Path(write_page(str(tmp_path / "one"))).read_text()
    make_run(str(tmp_path / "none"), [0], mixture(3, 2))
    assert "the run has no rows" in Path(write_page(str(tmp_path / "none"))).read_text()
    for share, said in (
        (3, "13 sampled vectors have numbers that are not finite"),
        (1, "none of the 40 sampled vectors is finite"),
    ):
        make_run(str(tmp_path / said), [40], lambda first, end, share=share: spoiled(first, end, share))
        assert said in Path(write_page(str(tmp_path / said), method="pca")).read_text()
    with pytest.raises(RunError, match="no run here"):
        write_page(str(tmp_path))
    with pytest.raises(StageError, match="no column 'x' was kept; there are"):
        write_page(str(run), color="x")
