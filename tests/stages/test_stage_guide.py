"""Adds a stage as docs/adding-a-stage.md tells it, fits it and applies it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guides import blocks, copy_package, insert, run_in
from inline import open_inline
from made_run import make_run
from stage_runs import DIM, DRAW, rows_of

import embed_ops.stages
from embed_ops import load_model, postprocess
from embed_ops.errors import StageError
from embed_ops.runs.verify.run import verify
from embed_ops.spec import stage as sections
from embed_ops.stages.registry import STAGES, StageKind, make_stage
from embed_ops.stages.rounds import fit

MODULE, SECTION, MEMBER, LINE = blocks("adding-a-stage.md")
[TOML] = blocks("adding-a-stage.md", "toml")
FIT = """
import json, sys, tomllib
import numpy as np
from embed_ops.spec.spec import Spec
from embed_ops.stages.registry import make_stage
from embed_ops.stages.rounds import fit

tree = {"source": {"path": "in", "column": "text"}, "encoder": {"model": "m"}, "sink": {"path": "out"}}
[stage] = Spec.parse({**tree, **tomllib.loads(sys.argv[1])}).stage
x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
y = fit(make_stage(stage), x).transform(x)
print(json.dumps({"kind": stage.kind, "energy": float(np.square(y, dtype=np.float64).sum(axis=1).mean())}))
"""
FILES = [700, 0, 500]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Follow the guide: one new file, a section, one line of the registry. Give such a section."""
    names = dict(vars(sections))
    exec(SECTION, names)
    monkeypatch.setattr(sections, "RescaleSpec", names["RescaleSpec"], raising=False)
    monkeypatch.setitem(sections.KINDS, "rescale", names["RescaleSpec"])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "rescale.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(embed_ops.stages, "__path__", [*embed_ops.stages.__path__, str(tmp_path / "new")])
    for kind, entry in eval(f"{{{LINE}}}", {"StageKind": StageKind}).items():
        monkeypatch.setitem(STAGES, kind, entry)
    return names["RescaleSpec"](kind="rescale")


def test_followed_to_the_letter(tmp_path: Path) -> None:
    """In a copy of the package, with what the guide says and no more, a spec can ask for it."""
    package = copy_package(tmp_path / "copy")
    (package / "stages/rescale.py").write_text(MODULE, encoding="utf-8")
    insert(package / "spec/stage.py", "StageSpec = ", SECTION + "\n\n")
    insert(package / "spec/stage.py", '    | Annotated[ClassifySpec, Tag("classify")]', MEMBER, 4)
    insert(package / "stages/registry.py", '    "dedup": ', LINE, 4)
    answer = run_in(package, FIT, TOML)
    assert answer == {"kind": "rescale", "energy": pytest.approx(1.0, rel=1e-6)}


def test_the_stage_of_the_guide(spec: Any, tmp_path: Path) -> None:
    """Over a run: lengths are right, the model says the same in memory, and the run verifies."""
    run = tmp_path / "run"
    make_run(str(run), FILES, DRAW, unit_rows=300)
    [done] = postprocess(str(run), [spec], session=open_inline)
    stage = Path(done.path)
    x, scaled = rows_of(run), rows_of(stage)
    assert scaled.shape == (sum(FILES), DIM)
    assert np.square(scaled, dtype=np.float64).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-6)
    model = load_model(str(stage))
    np.testing.assert_array_equal(model.transform(x), scaled)
    assert fit(make_stage(spec), x).length == pytest.approx(model.length, rel=1e-12)
    report = json.loads((stage / "report.json").read_text())
    assert (report["kind"], report["model"]) == ("rescale", {"length": model.length})
    assert verify(str(stage)).differences == []


def test_a_fit_goes_on_from_what_it_kept(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind its only pass, it reads nothing twice: its dataclasses are found again."""
    run = tmp_path / "run"
    make_run(str(run), FILES, DRAW, unit_rows=300)
    kind = type(make_stage(spec))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "model", _fails)
        with pytest.raises(OSError, match="No space left"):
            postprocess(str(run), [spec], session=open_inline)
    monkeypatch.setattr(kind, "summarize", _fails)
    [done] = postprocess(str(run), [spec], session=open_inline)
    np.testing.assert_array_equal(load_model(done.path).transform(rows_of(run)), rows_of(Path(done.path)))


def _fails(*_: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_without_rows(spec: Any, tmp_path: Path) -> None:
    """What the stage refuses is told before anything is written."""
    make_run(str(tmp_path / "run"), [0, 0], DRAW)
    with pytest.raises(StageError, match="rescale: the run has no rows"):
        postprocess(str(tmp_path / "run"), [spec], session=open_inline)
    assert not (tmp_path / "run" / "stages").exists()
