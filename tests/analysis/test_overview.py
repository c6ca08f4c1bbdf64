"""All runs below a folder: what their own files say, whatever has become of some of them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_run import make_run, mixture
from stage_runs import invoke
from tiny_runs import tiny_spec

from embed_ops import embed, list_runs, postprocess
from embed_ops.errors import RunError
from embed_ops.spec.spec import parse_stage

pytestmark = pytest.mark.usefixtures("engine")

BAD = "<script>x</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make runs below a folder: embedded, with stages, unfinished, damaged in several ways."""
    (tmp_path / "table.txt").write_text("a 1 0\nb 0 1\n")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/x.jsonl").write_text('{"t": "a"}\n{"t": "b a"}\n{"t": null}\n')
    source = {"kind": "jsonl", "path": str(tmp_path / "corpus"), "column": "t"}
    runs = tmp_path / "runs"
    fields = {"encoder__family": "static", "parity__rows": 2, "max_reject_fraction": 0.5}
    embed(tiny_spec(str(tmp_path / "table.txt"), source, runs / "tries/words", **fields))
    make_run(str(runs / "made"), [30], mixture(4, 2), unit_rows=10)
    stages = [{"kind": "normalize"}, {"kind": "kmeans", "k": 2}]
    postprocess(str(runs / "made"), [parse_stage(section) for section in stages])
    make_run(str(runs / "half"), [30], mixture(4, 2), unit_rows=10)
    header = json.loads((runs / "half/run.json").read_text()) | {"status": "running", "finished": None}
    (runs / "half/run.json").write_text(json.dumps(header))
    for name, content in (("torn", "{"), ("odd", json.dumps(header | {"spec": 5}))):
        (runs / BAD / name).mkdir(parents=True)
        (runs / BAD / name / "run.json").write_text(content)
    shutil.copytree(runs / "made", runs / "headless", ignore=shutil.ignore_patterns("run.json", "stages"))
    (runs / "loop").symlink_to(runs)
    (runs / "empty").mkdir()
    return runs


def test_lines_are_what_the_runs_say(folder: Path) -> None:
    """Each run once, stages below theirs, with the figures of its own report."""
    lines = list_runs(str(folder), price=3.6)
    by_path = {line.path: line for line in lines}
    assert [line.path for line in lines] == [
        f"{BAD}/odd",
        f"{BAD}/torn",
        "half",
        "headless",
        "made",
        "made/stages/normalize",
        "made/stages/kmeans",
        "tries/words",
    ]
    words, report = by_path["tries/words"], json.loads((folder / "tries/words/report.json").read_text())
    assert (words.status, words.kind, words.rows, words.rejects) == ("finished", "static", 2, 1)
    assert (words.parity, words.compared) == (report["parity"][0]["min"], 2)
    assert (words.rows_per_second, words.utilization) == (report["rows_per_second"], report["utilization"])
    header = json.loads((folder / "tries/words/run.json").read_text())
    spent = sum(entry["finished"] - entry["started"] for entry in header["attempts"])
    assert words.seconds == pytest.approx(spent)
    assert words.cost == pytest.approx(spent * 3.6 / 3600)
    kmeans = by_path["made/stages/kmeans"]
    assert (kmeans.parent, kmeans.kind, kmeans.model) == ("made/stages/normalize", "kmeans", "k 2")
    assert (by_path["half"].status, by_path["half"].rows) == ("broken off", 30)
    damaged = {line.path: line.wrong for line in lines if line.status == "damaged"}
    assert set(damaged) == {f"{BAD}/torn", f"{BAD}/odd", "headless"}
    assert "run.json is missing" in damaged["headless"]
    assert all(damaged.values())


def test_a_manifest_is_read_where_no_report_says_it(folder: Path) -> None:
    """That of a finished run is not looked at; a run itself can be named."""
    shutil.rmtree(folder / "tries/words/manifest")
    alone = list_runs(str(folder / "tries/words"))[0]
    among = next(line for line in list_runs(str(folder)) if line.path == "tries/words")
    assert alone == replace(among, path=".")
    with pytest.raises(RunError, match="no such folder"):
        list_runs(str(folder / "nowhere"))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """A table, JSON alone, a page that leads to reports; exit 2 where there is no run."""
    (folder / "tries/words/report.html").write_text("a page")
    page = tmp_path / "pages/runs.html"
    code, said = invoke("runs", folder, "--html", page, "--progress", "none")
    assert code == 0, said
    assert "broken off" in said
    assert f"{BAD}/torn: " in said
    html = page.read_text()
    assert 'href="../runs/tries/words/report.html"' in html
    assert (tmp_path / "pages" / "../runs/tries/words/report.html").exists()
    assert "&lt;script&gt;x&lt;/script&gt;/torn" in html
    assert not re.search(r"<script|https?://", html)
    code, said = invoke("runs", folder, "--json")
    assert code == 0
    assert len(json.loads(said)) == 8
    code, said = invoke("runs", folder / "empty", "--progress", "none")
    assert (code, "no run here or below" in said) == (2, True), said


def test_runs_of_a_store(folder: Path) -> None:
    """Behind fsspec the same lines come."""
    here = [(line.path, line.status, line.rows) for line in list_runs(str(folder / "made"))]
    there = [(line.path, line.status, line.rows) for line in list_runs(f"local://{folder}/made")]
    assert here == there
