"""`run.json`: what it says, which ones are refused, and how a command begins and ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embed_ops.errors import HeldError, RunError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FORMAT, AttemptEntry, Fit, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.run import Run
from embed_ops.runs.writer import RunWriter, known_header
from embed_ops.sources.plan import Plan

NO_PLAN = Plan((), (), pa.schema([]))
HEADER = RunHeader.new({"kind": "pca"}, {"model": "none"}, {"dtype": "float32"}, 5.0)


def tree(path: Path) -> dict[str, Any]:
    """Read `run.json` as others would."""
    content: dict[str, Any] = json.loads((path / "run.json").read_text())
    return content


def test_a_header_survives_its_file(tmp_path: Path) -> None:
    """What was written is what is read, with all fields and with as few as there can be."""
    run = RunDir.at(str(tmp_path))
    entries = (
        AttemptEntry("a-1-1", 6.0),
        AttemptEntry("a-1-2", 7.0, 9.0, {"rows": 3, "rows_per_second": None}),
    )
    full = replace(
        HEADER,
        finished=9.0,
        status="finished",
        attempts=entries,
        parent="../..",
        model={"dim": 4},
        measured={"float32": 1.5},
        fit=Fit(2.5, 3),
    )
    for header in (HEADER, full):
        run.write_header(header, "a-1-1")
        assert run.read_header() == header
    assert tree(tmp_path)["attempts"] == [
        {"attempt": "a-1-1", "started": 6.0},
        {"attempt": "a-1-2", "started": 7.0, "finished": 9.0, "rows": 3, "rows_per_second": None},
    ]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """A header of a new run has these keys and no others; each run has an id of its own."""
    RunDir.at(str(tmp_path)).write_header(HEADER, "a-1-1")
    written = tree(tmp_path)
    assert sorted(written) == sorted(
        [
            "checksum",
            "format",
            "id",
            "spec",
            "fingerprint",
            "resolved",
            "status",
            "started",
            "finished",
            "attempts",
            "parent",
        ]
    )
    assert written["format"] == FORMAT == 1
    assert len(bytes.fromhex(written["id"])) == 16
    assert RunHeader.new({}, {}, {}, 0.0).id != HEADER.id


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"spec": 1}', b'{"format": "1"}'])
def test_what_is_no_header_is_refused(content: bytes, tmp_path: Path) -> None:
    """Broken JSON, and JSON of something else, are told to be no run's."""
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json: not a run's: .*choose another folder"):
        Run(str(tmp_path))


@pytest.mark.parametrize(
    "change", [{"format": FORMAT + 1}, {"format": 40, "attempts": "other", "spec": None}]
)
def test_a_newer_format_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """The file, both formats and what to do are named, whatever else the file holds."""
    run = RunDir.at(str(tmp_path))
    run.write_header(HEADER, "a-1-1")
    newer = tree(tmp_path) | change
    (tmp_path / "run.json").write_text(json.dumps(newer))
    message = (
        rf"/run\.json: the run has format {newer['format']}, .* up to {FORMAT}: install a newer embed-ops"
    )
    for ask in (run.read_header, lambda: Run(str(tmp_path)), lambda: known_header(run)):
        with pytest.raises(RunError, match=message):
            ask()


@pytest.mark.parametrize("name", ["id", "spec", "fingerprint", "resolved", "status", "attempts", "parent"])
def test_missing_keys_are_named(name: str, tmp_path: Path) -> None:
    """A file without a key that every run has is no run's, and the key is named."""
    run = RunDir.at(str(tmp_path))
    run.write_header(HEADER, "a-1-1")
    lacking = tree(tmp_path)
    del lacking[name]
    (tmp_path / "run.json").write_text(json.dumps(lacking))
    with pytest.raises(RunError, match=f"not a run's: it lacks {name};"):
        run.read_header()


@pytest.mark.parametrize(
    "change", [{"attempts": [{}]}, {"attempts": 3}, {"attempts": ["a"]}, {"fit": {"x": 1}}]
)
def test_keys_of_another_shape_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """Attempts and fits that can't be taken in are an error that names the file."""
    run = RunDir.at(str(tmp_path))
    run.write_header(HEADER, "a-1-1")
    (tmp_path / "run.json").write_text(json.dumps(tree(tmp_path) | change))
    with pytest.raises(RunError, match=r"run\.json: not a run's"):
        run.read_header()


def test_the_life_of_a_header(tmp_path: Path) -> None:
    """A command begins, stops, and a second one goes on and finishes: one id, two entries."""
    run = RunDir.at(str(tmp_path / "run"))
    assert known_header(run) is None
    first = RunWriter(run, new_attempt(), 10.0, HEADER)
    assert first.fresh
    with first.heartbeat:
        first.begin(NO_PLAN)
        assert (tree(tmp_path / "run")["status"], first.fresh) == ("running", False)
        with pytest.raises(HeldError), RunWriter(run, new_attempt(), 11.0, HEADER).heartbeat:
            pass
        first.stop()
    assert (tree(tmp_path / "run")["status"], tree(tmp_path / "run")["finished"]) == ("stopped", None)
    header = known_header(run)
    assert header is not None
    second = RunWriter(run, new_attempt(), 20.0, header)
    with second.heartbeat:
        second.begin(NO_PLAN)
        second.finish({"rows": 7, "units": 1}, {"rows": 7})
    written = tree(tmp_path / "run")
    assert (written["status"], written["id"], written["started"]) == ("finished", HEADER.id, 5.0)
    assert [entry["started"] for entry in written["attempts"]] == [10.0, 20.0]
    assert "finished" not in written["attempts"][0]
    assert written["attempts"][1]["rows"] == 7
    assert written["attempts"][1]["finished"] <= written["finished"]
    assert run.read_json("report.json") == {"rows": 7, "units": 1}
    assert not list((tmp_path / "run").glob("tmp/*/*"))
