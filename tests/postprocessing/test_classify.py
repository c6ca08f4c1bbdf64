"""A probe through the commands: judged, saved, applied to every row as a stage.

Pairs with scores.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture
from stage_runs import invoke, rows_of
from tiny_runs import contents

from embed_ops import Run, load_model
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify

DRAW = mixture(8, 4, spread=0.2)
CENTERS = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def labels(first: int, end: int) -> dict[str, pa.Array]:
    """Name each row by the component that it was drawn from."""
    x = DRAW(first, end)
    nearest = ((x[:, None] - CENTERS[None]) ** 2).sum(axis=2).argmin(axis=1) if len(x) else np.zeros(0, int)
    return {"kind": pa.array([f"kind {place}" for place in nearest.tolist()], pa.string())}


@pytest.fixture(scope="module")
def run(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run."""
    path = tmp_path_factory.mktemp("classify") / "run"
    make_run(str(path), [1200, 0, 800], DRAW, unit_rows=500, keep=labels)
    return path


def test_every_row_gets_a_label(run: Path, tmp_path: Path) -> None:
    """The stage gives what the saved probe gives, verifies, and comes back to the byte."""
    code, said = invoke("evaluate", run, "--label", "kind", "--progress", "none")
    assert code == 0, said
    assert "always kind" in said
    figures = json.loads((run / "probes/kind/evaluation.json").read_text())
    assert figures["linear_probe"]["accuracy"] > 0.95
    assert invoke("classify", run, "--model", run / "probes/kind", "--progress", "none")[0] == 0
    stage = run / "stages/classify"
    assert verify(str(stage)).differences == []
    probe = load_model(str(run / "probes/kind"))
    np.testing.assert_array_equal(rows_of(stage, "probabilities"), probe.probabilities(rows_of(run)))
    table = Run(str(stage)).open().to_table()
    best = vectors_of(table["probabilities"]).argmax(axis=1)
    assert table["predicted"].to_pylist() == [probe.classes[place] for place in best.tolist()]
    assert np.all(table["probability"].to_numpy() == vectors_of(table["probabilities"]).max(axis=1))
    files = sorted((stage / "data").rglob("*.parquet"))
    assert min(pq.read_metadata(file).num_rows for file in files) == 0
    assert {pq.read_schema(file).field("predicted").type for file in files} == {pa.string()}
    before = contents(stage)
    next((stage / "data").rglob("*.parquet")).unlink()
    assert invoke("classify", run, "--model", run / "probes/kind", "--progress", "none")[0] == 0
    assert contents(stage) == before
    assert (
        invoke(
            "evaluate",
            run,
            "--label",
            "kind",
            "--seed",
            5,
            "--output",
            tmp_path / "other",
            "--progress",
            "none",
        )[0]
        == 0
    )
    code, said = invoke("classify", run, "--model", tmp_path / "other", "--progress", "none")
    assert (code, "stage.probe" in said) == (2, True), said


def test_what_can_not_be_classified(run: Path, tmp_path: Path) -> None:
    """No probe, a model of another kind, a probe of another width: one sentence each."""
    code, said = invoke(
        "classify", run, "--model", tmp_path, "--output", tmp_path / "a", "--progress", "none"
    )
    assert (code, "no model here" in said) == (2, True), said
    make_run(
        str(tmp_path / "wide"),
        [300],
        mixture(9, 4),
        keep=lambda first, end: {"kind": pa.array(np.arange(first, end) % 3)},
    )
    assert invoke("evaluate", tmp_path / "wide", "--label", "kind", "--progress", "none")[0] == 0
    code, said = invoke(
        "classify",
        run,
        "--model",
        tmp_path / "wide/probes/kind",
        "--output",
        tmp_path / "b",
        "--progress",
        "none",
    )
    assert (code, "takes vectors of width 9" in said) == (2, True), said
    assert invoke("evaluate", run, "--progress", "none")[0] == 2


def test_pairs_with_scores(minilm_run: tuple[Run, list[str]], tmp_path: Path) -> None:
    """Cosines of texts rank pairs as people would; a file without the columns is refused."""
    rows = [
        "a,b,score",
        "a cat sat,a kitten was sitting,5",
        "open a file,compress a directory,2",
        "a cat sat,parse dates,0",
        "sum,add numbers,4",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    code, said = invoke("evaluate", minilm_run[0].path, "--pairs", tmp_path / "pairs.csv")
    assert code == 0, said
    correlation = re.search(r"rank correlation \(Spearman\) │ (\S+)", said)
    assert correlation is not None, said
    assert float(correlation[1]) > 0.7
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    code, said = invoke("evaluate", minilm_run[0].path, "--pairs", tmp_path / "bad.csv")
    assert (code, "no column 'score': 'a', 'b' and 'score' are looked for" in said) == (2, True), said
