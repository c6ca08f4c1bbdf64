"""Adds a kind of target as docs/adding-a-target.md tells it, and exports to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from guides import blocks
from made_run import make_run, mixture

import embed_ops.targets
from embed_ops.analysis import export as module
from embed_ops.analysis.export import export
from embed_ops.errors import SpecError, StorageError
from embed_ops.targets.registry import TARGETS, TargetKind

CODE, LINE = blocks("adding-a-target.md")
DIM, ROWS = 8, 700
DRAW = mixture(DIM, 4)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Follow the guide: one new file, one line in the registry. Then make a run."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "jsonl.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(embed_ops.targets, "__path__", [*embed_ops.targets.__path__, str(tmp_path / "new")])
    for kind, entry in eval(f"{{{LINE}}}", {"TargetKind": TargetKind}).items():
        monkeypatch.setitem(TARGETS, kind, entry)
    make_run(str(tmp_path / "run"), [400, 0, 300], DRAW, unit_rows=150)
    return tmp_path / "run"


def test_the_kind_of_the_guide(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes every row once and in order, goes on after a stop, and refuses other runs."""
    reading, calls = module.read_unit, iter(range(100))

    def failing(*words: object) -> object:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        return reading(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_unit", failing)
    with pytest.raises(StorageError, match="No space left"):
        export(str(run), str(tmp_path / "out"), "jsonl")
    assert len(list((tmp_path / "out").glob("*.jsonl"))) == 2
    assert export(str(run), str(tmp_path / "out"), "jsonl") == ROWS
    lines = [
        json.loads(line)
        for file in sorted((tmp_path / "out").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [line["row"] for line in lines] == list(range(ROWS))
    np.testing.assert_array_equal(np.array([line["vector"] for line in lines], np.float32), DRAW(0, ROWS))
    make_run(str(tmp_path / "other"), [10], DRAW, unit_rows=5)
    with pytest.raises(SpecError, match="another run"):
        export(str(tmp_path / "other"), str(tmp_path / "out"), "jsonl")
