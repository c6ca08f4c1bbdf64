"""Checksums of the files that no record has: what was flipped, emptied, added, removed is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline import open_inline
from made_run import make_run, mixture
from typer.testing import CliRunner

from embed_ops import Run, load_model, postprocess
from embed_ops.analysis.evaluate import save
from embed_ops.commands.cli import app
from embed_ops.embedding.vocabulary import write_vocabulary
from embed_ops.errors import StageError
from embed_ops.runs import writer
from embed_ops.runs.digests import DIGESTS_JSON
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage
from embed_ops.stages.classify import LinearProbe

KMEANS = {"kind": "kmeans", "k": 3, "by_cluster": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run with clusters in folders."""
    path = tmp_path_factory.mktemp("digests") / "run"
    make_run(str(path), [40, 30], mixture(4, 3), unit_rows=20)
    postprocess(str(path), [parse_stage(KMEANS)], session=open_inline)
    return path


@pytest.fixture
def stage(made: Path, tmp_path: Path) -> Path:
    """Copy the run, and give the run of its stage."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run" / "stages" / "kmeans"


def covered(stage: Path) -> list[Path]:
    """List the files that have a checksum in `digests.json` or in `run.json`, data files aside."""
    names = ("plan.parquet", "report.json", DIGESTS_JSON, "manifest/*", "model/*", "clusters/*/*")
    return [file for name in names for file in sorted(stage.glob(name))]


def damaged(content: bytes) -> Iterator[bytes]:
    """Flip a bit at the beginning, in the middle and at the end; empty; cut; lengthen."""
    for place in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 0x10
        yield bytes(changed)
    yield from (b"", content[:-1], content + b" ")


def test_every_damage_is_found(stage: Path) -> None:
    """A bit of any file, its end, all of it: `verify` names the file, and says no word too much."""
    assert verify(str(stage)).differences == []
    files = covered(stage)
    assert len(files) >= 8
    for file in files:
        content, name = file.read_bytes(), str(file.relative_to(stage))
        for other in damaged(content):
            file.write_bytes(other)
            assert [item.file for item in verify(str(stage)).differences] == [name]
        file.unlink()
        (gone,) = verify(str(stage)).differences
        assert (gone.file, gone.what.partition(":")[0]) == (name, "missing")
        file.write_bytes(content)
    assert verify(str(stage)).differences == []


@pytest.mark.parametrize(
    "name", ["manifest/00000009-0123abcd.parquet", "model/more.json", "clusters/cluster=9/x"]
)
def test_what_was_added_is_found(name: str, stage: Path) -> None:
    """A file that was not there when the run was finished is named."""
    (stage / name).parent.mkdir(exist_ok=True)
    (stage / name).write_bytes(next(iter((stage / "manifest").iterdir())).read_bytes())
    assert [item.file for item in verify(str(stage)).differences] == [name]


def test_the_command_says_so(stage: Path) -> None:
    """`verify` ends with 1 and names the file."""
    (stage / "report.json").write_bytes(b"")
    told = CliRunner().invoke(app, ["verify", str(stage)])
    assert told.exit_code == 1
    assert "report.json" in told.output


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_damaged_model_is_not_loaded(file: str, stage: Path) -> None:
    """`load_model` refuses a model that is not what was written, by the run and by the folder."""
    place = stage / "model" / file
    content = bytearray(place.read_bytes())
    assert load_model(str(stage)).dim == 4
    content[-3] = content[-3] ^ 1 if file.endswith("safetensors") else ord(" ")
    place.write_bytes(content)
    for address in (stage, stage / "model", f"{stage}/model/"):
        with pytest.raises(StageError, match=rf"{file}: changed since it was written"):
            load_model(str(address))
    shutil.copytree(stage / "model", stage.parents[2] / "alone")
    if file.endswith("safetensors"):
        assert load_model(str(stage.parents[2] / "alone")).dim == 4
    with pytest.raises(StageError, match="changed since"):
        postprocess(str(stage.parents[1]), [parse_stage(KMEANS)], session=open_inline)
    postprocess(str(stage.parents[1]), [parse_stage(KMEANS)], session=open_inline, refit=True)
    assert verify(str(stage)).differences == []


def test_a_probe_has_checksums(tmp_path: Path) -> None:
    """A probe that was damaged is refused, and a new one takes its place."""
    zeros = np.zeros((2, 4))
    probe = LinearProbe(("0", "1"), zeros[0], zeros[0] + 1, zeros, zeros[:, 0], 9, "label")
    save(str(tmp_path), probe, {"a": 1})
    assert sorted(json.loads((tmp_path / DIGESTS_JSON).read_text())) == [
        "evaluation.json",
        "model/model.json",
        "model/model.safetensors",
    ]
    text = (tmp_path / "model" / "model.json").read_text()
    (tmp_path / "model" / "model.json").write_text(text.replace("label", "lobel"))
    with pytest.raises(StageError, match="changed since"):
        load_model(str(tmp_path))
    save(str(tmp_path), probe, {"a": 2})
    assert load_model(str(tmp_path)).label == "label"


def test_a_run_of_before_verifies_as_before(stage: Path) -> None:
    """Runs without checksums have nothing to compare; neither has a model that was copied alone."""
    tree = json.loads((stage / "run.json").read_text())
    del tree["digests"], tree["checksum"]
    (stage / "run.json").write_text(json.dumps(tree))
    (stage / DIGESTS_JSON).unlink()
    assert verify(str(stage)).differences == []
    assert load_model(str(stage)).dim == 4


def test_an_export_and_a_command_again_leave_them_right(stage: Path) -> None:
    """Commands that read change nothing; the same command again finds nothing to do."""
    before = (stage / DIGESTS_JSON).read_bytes()
    postprocess(str(stage.parents[1]), [parse_stage(KMEANS)], session=open_inline)
    assert (stage / DIGESTS_JSON).read_bytes() == before
    unit = next(iter(sorted((stage / "data").rglob("*.parquet"))))
    unit.unlink()
    assert [item.file for item in verify(str(stage)).differences][-1].startswith("data/")
    postprocess(str(stage.parents[1]), [parse_stage(KMEANS)], session=open_inline)
    assert verify(str(stage)).differences == []


@pytest.mark.parametrize("kill_at", range(12))
def test_killed_at_any_file(kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before any file that `begin` or `finish` writes or deletes, the same call goes on.

    Meanwhile `verify` finds no other fault than that the run is not finished.
    """
    table = tmp_path / "table.txt"
    table.write_text("red 1 0\nblue 0 1\n")
    run = tmp_path / "run"
    write_vocabulary(str(table), str(run))
    next(iter((run / "data").rglob("*.parquet"))).unlink()
    acts = 0

    def killing(act: Any) -> Any:
        def killed(*args: Any, **kwargs: Any) -> Any:
            nonlocal acts
            acts += 1
            if acts > kill_at:
                raise KeyboardInterrupt
            return act(*args, **kwargs)

        return killed

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_digests", killing(writer.write_digests))
        patch.setattr(writer, "remove", killing(writer.remove))
        for name in ("write_header", "write_json", "write_plan", "write_unit"):
            patch.setattr(writer.RunDir, name, killing(getattr(writer.RunDir, name)))
        try:
            write_vocabulary(str(table), str(run))
        except KeyboardInterrupt:
            pass
        else:
            assert acts <= kill_at
    told = {item.file.partition("/")[0] for item in verify(str(run)).differences}
    assert told <= {"run.json", "data"}
    write_vocabulary(str(table), str(run))
    assert verify(str(run)).differences == []
    assert Run(str(run)).status == "finished"
