"""The page of a run: its figures against numpy and scikit-learn, and the page in a browser."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from embed_ops.analysis.page.against import drift, kept_neighbors
from embed_ops.analysis.page.card import duration, settings
from embed_ops.analysis.page.clusters import clusters_of, distinguishing
from embed_ops.analysis.page.course import bars, course, memory, stage_course, throughput
from embed_ops.analysis.page.health import health, layout, over_all_rows
from embed_ops.analysis.page.points import COLORS, as_script
from embed_ops.analysis.page.verdict import Finding, comparison, completeness, judge, soundness
from embed_ops.analysis.page.write import write_page
from embed_ops.errors import PackageError, RunError, StageError
from embed_ops.runs.record import Record
from embed_ops.runs.statistics import VectorStatistics, report_of
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


def test_figures_are_those_of_numpy() -> None:
    """Norms, spread, dead dimensions, duplicates and explained variance."""
    x = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    x[:, 3] = 2
    x[100:110] = x[0]
    found = health(x, 0)
    np.testing.assert_allclose(found["norms"], np.linalg.norm(x.astype(np.float64), axis=1))
    np.testing.assert_allclose(
        found["explained"], np.cumsum(PCA().fit(x.astype(np.float64)).explained_variance_ratio_), atol=1e-9
    )
    assert (found["dead"], found["duplicates"], found["dim"]) == (1, 10, 10)
    few = PCA().fit(x[:6].astype(np.float64)).explained_variance_ratio_
    np.testing.assert_allclose(health(x[:6], 0)["explained"][:6], np.cumsum(few), atol=1e-9)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = unit @ unit.T
    assert found["mean_cosine"] == pytest.approx((pairs.sum() - 500) / (500 * 499), abs=0.02)
    assert any("never change" in line.text and line.level == "amber" for line in soundness(found))
    narrow = health((x + 30).astype(np.float32), 0)
    assert any("cone" in line.remedy and line.level == "amber" for line in soundness(narrow))


@pytest.mark.parametrize("rows", [1, 2, 4, 30])
@pytest.mark.parametrize("method", ["auto", "pca"])
def test_few_rows_have_figures_and_a_place(rows: int, method: str) -> None:
    """One row, rows that are all the same, fewer rows than a map needs: no error, finite places."""
    for x in (
        np.ones((rows, 5), np.float32),
        np.random.default_rng(1).normal(size=(rows, 5)).astype(np.float32),
    ):
        found = health(x, 0)
        assert soundness(found)
        plane, told = layout(x, method, 0)
        assert plane.shape == (rows, 2)
        assert np.isfinite(plane).all()
        assert told in ("t-SNE", "UMAP", "principal components")


def test_umap_where_it_is_installed() -> None:
    """With the extra the map is UMAP's, the same for the same seed, for few rows too.

    Without it the error names the extra.
    """
    x = mixture(16, 4, spread=0.3)(0, 300)
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(PackageError, match=r"embed-ops\[umap\]"):
            layout(x, "umap", 0)
        return
    for rows in (6, 300):
        plane, told = layout(x[:rows], "auto", 0)
        assert (plane.shape, told) == ((rows, 2), "UMAP")
        np.testing.assert_array_equal(plane, layout(x[:rows], "umap", 0)[0])


def test_neighbors_kept_are_those_of_scikit_learn() -> None:
    """The share of ten nearest rows that two spaces share; the same space keeps all.

    A turned one too.
    """
    draw = np.random.default_rng(2)
    x = draw.normal(size=(200, 8)).astype(np.float32)
    y = (x + 0.4 * draw.normal(size=x.shape)).astype(np.float32)
    near = [NearestNeighbors(n_neighbors=11, metric="cosine").fit(z).kneighbors(z)[1][:, 1:] for z in (x, y)]
    expected = np.mean(
        [len(set(left) & set(right)) / 10 for left, right in zip(*map(np.ndarray.tolist, near), strict=True)]
    )
    shares, here, there = kept_neighbors(x, y)
    assert shares.mean() == pytest.approx(expected, abs=1e-9)
    np.testing.assert_array_equal(here, near[0][:, 0])
    np.testing.assert_array_equal(there, near[1][:, 0])
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0].astype(np.float32)
    assert kept_neighbors(x, x @ turn)[0].mean() > 0.999
    rows = np.arange(1000, 1200)
    told = drift(x, (x + 1).astype(np.float32), rows)
    assert told.mean_moved == pytest.approx(np.sqrt(8) / np.sqrt(x.var(axis=0).sum()), rel=1e-4)
    assert drift(x, x[:, :3], rows).mean_moved is None
    # What moved most is a row of the sample, and its nearest ones are those of scikit-learn.
    most = drift(x, y, rows).most
    assert [item.kept for item in most] == sorted(shares)[: len(most)]
    assert all(item.nearest_here == 1000 + near[0][item.row - 1000, 0] for item in most)
    assert drift(x, x, rows).most == ()


def test_words_set_clusters_apart() -> None:
    """A word that is frequent in one cluster only comes first; without texts there are none."""
    labels = np.array([0, 0, 1, 1])
    texts = ["open file file", "close file", "thread lock", "thread open"]
    found = clusters_of(labels, np.array([0.2, 0.1, 0.3, 0.4]), texts, 5, {}, ["p", "q", "q", "q"])
    assert [item.words[0] for item in found] == ["file", "thread"]
    assert [item.central for item in found] == [(1, 0), (2, 3)]
    assert [item.labels for item in found] == [(("p", 0.5), ("q", 0.5)), (("q", 1.0),)]
    assert found[0].title == f"0: {' '.join(found[0].words[:2])}"
    assert clusters_of(labels, np.zeros(4), [""] * 4, 5, {})[0].words == ()
    known = clusters_of(np.array([0, 0, 1]), np.zeros(3), [""] * 3, 5, {0: 20, 1: 30})
    assert [(item.cluster, item.rows, item.all_rows) for item in known] == [(1, 1, 30), (0, 2, 20)]


def test_words_are_scored_as_published() -> None:
    """c-TF-IDF counted by hand.

    The share of a word in its cluster times log(1 + words of a mean cluster / frequency in all).
    """
    draw = np.random.default_rng(3)
    vocabulary = ["".join(draw.choice(list("abcdefgh"), 6)) for _ in range(60)]
    texts, labels = [" ".join(draw.choice(vocabulary, 12)) for _ in range(80)], draw.integers(0, 5, 80)
    counts = {
        c: Counter(" ".join(text for text, label in zip(texts, labels, strict=True) if label == c).split())
        for c in range(5)
    }
    everywhere, mean = (
        sum(counts.values(), Counter()),
        np.mean([counted.total() for counted in counts.values()]),
    )
    for cluster, words in distinguishing(labels, texts).items():
        mine = counts[cluster]
        scores = {
            word: number / mine.total() * np.log(1 + mean / everywhere[word]) for word, number in mine.items()
        }
        assert [scores[word] for word in words] == pytest.approx(sorted(scores.values(), reverse=True)[:8])


def test_statistics_of_all_rows_come_before_those_of_the_sample() -> None:
    """A dimension that is the same in the sample alone is not called dead.

    Statistics that are not whole are not used.
    """
    x = np.random.default_rng(4).normal(size=(900, 6)).astype(np.float32)
    x[:, 2], x[:20, 4], x[500] = 3, 1, 0
    x[:, 2] = 3
    sampled, every = health(x[:20], 0), report_of({"embedding": VectorStatistics.of(x)}, 900)["embedding"]
    assert sampled["dead"] == 2
    found = over_all_rows(sampled, every)
    assert (found["dead"], found["spread_rows"]) == (1, 900)
    np.testing.assert_allclose(found["mean"], x.mean(axis=0, dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(found["spread"], x.std(axis=0, dtype=np.float64), atol=1e-9)
    assert any("1 of 6 dimensions never change in all 900 rows" in line.text for line in soundness(found))
    for of_part in (None, {**every, "complete": False}):
        assert over_all_rows(sampled, of_part) is sampled
    same = soundness(health(np.ones((9, 3), np.float32), 0))
    assert "do not differ" in same[0].text
    assert not any("cosine" in line.text for line in soundness(health(np.ones((1, 3), np.float32), 0)))


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
    told = " ".join(line.text for line in course({**report, "idle": {"input": 0.5}}, 2.0))
    assert "2.0000 at 2 an hour, 20,000.00 for a million rows" in told
    assert "waited 50% of their time for input" in told
    assert "no rates" in course({}, None)[0].text
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


def test_colors_differ() -> None:
    """Any two of thirty-two colours, and each from the gray of others, are far apart in Lab."""
    rgb = np.array([[int(color[place : place + 2], 16) for place in (1, 3, 5)] for color in COLORS]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x = np.cbrt(linear @ np.array(to_xyz).T / [0.9505, 1.0, 1.089])
    lab = np.stack([116 * x[:, 1] - 16, 500 * (x[:, 0] - x[:, 1]), 200 * (x[:, 1] - x[:, 2])], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(lab))
    assert apart[:24, :24].min() > 25
    assert apart.min() > 20


def test_values_end_no_script() -> None:
    """What stands in a row can end no script and begin no tag, and is read back as it was."""
    values = [BAD, "</script>", "<!--", "\u2028", 'a"b\\', "é𝄞"]
    written = as_script(values)
    assert not set(written) & set("<>&\u2028")
    assert json.loads(written) == values


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
