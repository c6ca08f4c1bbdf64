"""The page of a run: its figures against numpy and scikit-learn, and the page in a browser."""

from __future__ import annotations

import importlib.util
import json
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

from embed_ops.analysis.page.health import (
    clusters_of,
    distinguishing,
    drift,
    health,
    kept_neighbors,
    layout,
    over_all_rows,
)
from embed_ops.analysis.page.verdict import completeness, course, soundness, stage_course, throughput
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
    assert any("never change" in line.text and line.warning for line in soundness(found))
    narrow = health((x + 30).astype(np.float32), 0)
    assert any("cone" in line.text and line.warning for line in soundness(narrow))


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
    assert kept_neighbors(x, y) == pytest.approx(expected, abs=1e-9)
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0].astype(np.float32)
    assert kept_neighbors(x, x @ turn) > 0.999
    told = drift(x, (x + 1).astype(np.float32))
    assert told["mean_moved"] == pytest.approx(np.sqrt(8) / np.sqrt(x.var(axis=0).sum()), rel=1e-4)
    assert "mean_moved" not in drift(x, x[:, :3])


def test_words_set_clusters_apart() -> None:
    """A word that is frequent in one cluster only comes first; without texts there are none."""
    labels = np.array([0, 0, 1, 1])
    texts = ["open file file", "close file", "thread lock", "thread open"]
    found = clusters_of(labels, np.array([0.2, 0.1, 0.3, 0.4]), list("abcd"), texts, 5, {})
    assert [item["words"][0] for item in found] == ["file", "thread"]
    assert [item["central"] for item in found] == [["b", "a"], ["c", "d"]]
    assert clusters_of(labels, np.zeros(4), list("abcd"), [""] * 4, 5, {})[0]["words"] == []
    known = clusters_of(np.array([0, 0, 1]), np.zeros(3), list("abc"), [""] * 3, 5, {0: 20, 1: 30})
    assert [(item["cluster"], item["rows"], item["all_rows"]) for item in known] == [(1, 1, 30), (0, 2, 20)]


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
        "complete: 10 of 15 rows",
        "5 rows are rejects (33.33%)",
        "1 file could not",
        "2 rows were left out",
        "cut (40.0%)",
        "3 words",
    ):
        assert part in text
    for planned, said in (
        (70, "not complete, running: 10 of 70 rows"),
        (None, "10 rows have vectors, in 1 unit; how many are left"),
    ):
        first = completeness("running", [record()], {}, planned)[0]
        assert first.warning
        assert said in first.text
    stage = stage_course({"seconds": {"total": 9.0, "fit": 5.0, "steady": 2.0}, "rows_per_second": 50.0})
    assert [line.text for line in stage] == [
        "9.0 s in all, 5.0 s to fit, 2.0 s to apply",
        "50 rows/s applied",
    ]
    assert stage_course({})[0].warning
    report = {
        "rows": 100,
        "rows_per_second": 5.0,
        "tokens_per_second": 9.0,
        "seconds": {"total": 3600, "startup": 1.0, "steady": 9.0},
    }
    told = " ".join(line.text for line in course({**report, "idle": {"input": 0.5}}, 2.0))
    assert "2.0000 at 2 an hour, 20,000.00 for a million rows" in told
    assert "waited 50%" in told
    assert "no rates" in course({}, None)[0].text
    timed = [
        record(unit=f"a.{place}", seconds={"started": 10.0 + place, "finished": 12.0 + place})
        for place in range(20)
    ]
    seconds, rates = throughput(timed)
    assert sum(rates) * (seconds[1] - seconds[0]) == pytest.approx(200)


def test_every_kind_of_run_has_a_page(run: Path, tmp_path: Path) -> None:
    """A run, one that is not finished, an empty one, one without kept columns; against another.

    What is not there is refused.
    """
    page = Path(write_page(str(run), price=1.0, against=str(run), method="pca")).read_text()
    assert len(page) < 10_000_000
    assert "ten nearest rows kept" in page
    assert "100.0%" in page
    assert "http://" not in page.replace("http://www.w3.org", "")[:2000]
    assert BAD not in page
    shutil.copytree(run, tmp_path / "half")
    header = json.loads((tmp_path / "half/run.json").read_text())
    (tmp_path / "half/run.json").write_text(json.dumps(header | {"status": "stopped"}))
    for part in sorted((tmp_path / "half/manifest").iterdir())[1:]:
        part.unlink()
    half = Path(write_page(str(tmp_path / "half"))).read_text()
    assert "the run is stopped: finish it" in half
    assert "not complete, stopped: 200 of 900 rows have vectors, in 1 unit" in half
    make_run(str(tmp_path / "cut"), [500, 400], mixture(12, 5, spread=0.3), unit_rows=130)
    cut = Path(
        write_page(str(run), str(tmp_path / "c.html"), against=str(tmp_path / "cut"), method="pca")
    ).read_text()
    assert "<th>rows compared</th><td>900</td>" in cut
    make_run(str(tmp_path / "sparse"), [0] * 90 + [50], mixture(3, 2))
    assert "50 rows by" in Path(write_page(str(tmp_path / "sparse"), method="pca")).read_text()
    make_run(str(tmp_path / "bare"), [40], mixture(3, 2))
    assert (
        "40 rows by"
        in Path(write_page(str(tmp_path / "bare"), str(tmp_path / "b.html"), method="pca")).read_text()
    )
    make_run(str(tmp_path / "one"), [1], mixture(3, 2))
    assert "1 rows by" in Path(write_page(str(tmp_path / "one"))).read_text()
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


@pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs chromium and chromedriver",
)
def test_the_page_in_a_browser(run: Path, tmp_path: Path) -> None:
    """It opens without an error, draws, shows the row under the pointer, runs nothing of it."""
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    page = write_page(str(run), str(tmp_path / "page.html"), color="kind", method="pca")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    switches = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-sync",
    )
    for switch in (
        *switches,
        "disable-component-update",
        f"user-data-dir={tmp_path / 'profile'}",
        "window-size=1200,1600",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver")))
    )
    try:
        driver.get(f"file://{page}")
        wait = WebDriverWait(driver, 30)
        wait.until(
            lambda found: found.execute_script(
                "return Bokeh.documents.length > 0 && Bokeh.documents.every(doc => doc.is_idle)"
            )
        )
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert driver.title == f"embed-ops: {run}"
        place = driver.execute_script(
            """
            const views = Object.values(Bokeh.index.roots ?? Bokeh.index);
            const view = views.find(v => v.model.title && v.model.title.text.includes('coloured by'));
            const data = view.model.renderers[0].data_source.data;
            const box = view.el.getBoundingClientRect();
            const frame = view.frame;
            const x = frame.x_scale.compute(data.x[5]), y = frame.y_scale.compute(data.y[5]);
            return [box.left + x, box.top + y];
            """
        )
        body = driver.find_element(By.TAG_NAME, "body")
        ActionChains(driver).move_to_element_with_offset(body, 0, 0).perform()
        driver.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": place[0], "y": place[1]}
        )
        text = wait.until(
            lambda found: found.execute_script(
                """
                const all = node => [...node.querySelectorAll('*')];
                const walk = node => all(node).flatMap(
                    n => n.shadowRoot ? [n.shadowRoot, ...walk(n.shadowRoot)] : []);
                const tips = walk(document).flatMap(
                    root => [...root.querySelectorAll('.bk-tooltip-row-value, .bk-Tooltip')]);
                return tips.map(n => n.innerText).join(' ');
                """
            )
        )
        assert "k" in text
        assert "document.title" in text
        assert driver.title == f"embed-ops: {run}"
    finally:
        driver.quit()
