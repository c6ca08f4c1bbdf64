"""Law 2 with real kills: the command is killed and run again.

The bytes are those of a run that was never touched.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import docstrings, write_bad, write_parquet
from tiny_runs import contents, no_session

from embed_ops import Run, Spec, embed
from embed_ops.errors import HeldError
from embed_ops.runs.verify.run import verify

UNITS = 30


class Command:
    """The same `embed-ops embed` command, as often as it is asked for."""

    def __init__(self, corpus: Path, model: str, run: Path, on: str = "local") -> None:
        self.run = run
        words = [f"source.path={corpus}", "source.column=text", f"encoder.model={model}", f"sink.path={run}"]
        words += ["source.keep=['id']", "resources.unit_rows=20", "resources.replicas=2"]
        # bfloat16, so that law 2 is held where rounding is coarse; without the parity check a start
        # takes half the time.
        words += ["encoder.dtype=bfloat16", "parity.rows=0"]
        # A slow forward pass leaves time to kill between units: one thread, one text at a time.
        words += ["resources.token_budget=1", f"resources.engine={on}"]
        self.words = words
        self.line = [sys.executable, "-m", "embed_ops", "embed", *words, "--progress", "plain"]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it as a session of its own, as a shell does."""
        return subprocess.Popen(
            self.line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def finish(self) -> dict[str, object]:
        """Run it to its end and give the report."""
        done = subprocess.run(self.line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, object] = json.loads((self.run / "report.json").read_text())
        return found

    def done(self) -> int:
        """Count the units that stand whole in the run directory."""
        return sum(1 for _ in (self.run / "data").rglob("*.parquet"))

    def wait_for(self, process: subprocess.Popen[bytes], units: int) -> None:
        """Wait until so many units are done, or the process has ended."""
        while self.done() < units and process.poll() is None:
            time.sleep(0.02)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 600 docstrings in six files: thirty units of twenty rows."""
    folder = tmp_path_factory.mktemp("killed") / "corpus"
    write_parquet(folder, docstrings(600), files=6)
    return folder


@pytest.fixture(scope="module")
def untouched(corpus: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give the bytes of a run that was never killed, on worker processes."""
    run = tmp_path_factory.mktemp("untouched") / "run"
    embed(Spec.load(None, Command(corpus, tiny, run).words))
    found = contents(run)
    assert len(found) == UNITS
    return found


KILL_AT = [
    7,
    *(pytest.param(units, marks=pytest.mark.slow) for units in (0, 1, 3, 5, 10, 13, 16, 20, 25, 29)),
]


@pytest.mark.parametrize("units", KILL_AT)
def test_kill_and_go_on(
    units: int, on: str, corpus: Path, tiny: str, tmp_path: Path, untouched: dict[str, bytes]
) -> None:
    """Kill -9 of the driver after so many units.

    The same command again computes only what is missing, to the same bytes, on either engine.
    """
    command = Command(corpus, tiny, tmp_path / "run", on)
    process = command.start()
    command.wait_for(process, units)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for_workers(process.pid)
    done = {name for name in contents(tmp_path / "run") if name.startswith("data/")}
    assert process.returncode == -signal.SIGKILL, "the job was over before it could be killed"
    stamps = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in done}
    report = command.finish()
    assert contents(tmp_path / "run") == untouched
    assert report["units_skipped"] == len(done)
    whole = [part for part in range(6) if sum(f"data/part={part}/" in name for name in done) == UNITS // 6]
    assert report["spans_read"] == 6 - len(whole), (
        "a span with nothing missing was read, or one with something missing was not"
    )
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in done} == stamps, (
        "a finished unit was written again"
    )
    assert verify(str(tmp_path / "run"), source=True).differences == []
    assert not list((tmp_path / "run" / "tmp").iterdir()), "temporary files of the dead attempt were left"


def _wait_for_workers(driver: int) -> None:
    """Wait until the workers of a killed driver have noticed: they share its session."""
    while True:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "stat=,args=", "-s", str(driver)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        # Ray's own agents linger for a minute; only workers write.
        working = [line for line in listed.splitlines() if not line.startswith("Z")]
        if not any("ray::Map" in line or "worker_process" in line for line in working):
            return
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("local", "ray"), ("ray", "local")])
def test_go_on_elsewhere(
    first: str, second: str, corpus: Path, tiny: str, tmp_path: Path, untouched: dict[str, bytes]
) -> None:
    """A run that was begun on one engine is finished on the other, to the same bytes."""
    command = Command(corpus, tiny, tmp_path / "run", first)
    process = command.start()
    command.wait_for(process, 9)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for_workers(process.pid)
    assert 0 < command.done() < UNITS
    Command(corpus, tiny, tmp_path / "run", second).finish()
    assert contents(tmp_path / "run") == untouched
    assert verify(str(tmp_path / "run"), source=True).differences == []


@pytest.mark.slow
def test_interrupt(on: str, corpus: Path, tiny: str, tmp_path: Path, untouched: dict[str, bytes]) -> None:
    """Ctrl-C ends the command with exit code 3 and says how to go on; the same command does."""
    command = Command(corpus, tiny, tmp_path / "run", on)
    process = command.start()
    command.wait_for(process, 2)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate()[0].decode()
    assert process.returncode == 3, output
    assert "run the same command again to go on" in output
    assert "Traceback" not in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    command.finish()
    assert contents(tmp_path / "run") == untouched


@pytest.mark.slow
def test_second_command_and_sigterm(
    on: str, corpus: Path, tiny: str, tmp_path: Path, untouched: dict[str, bytes]
) -> None:
    """A second command on a run says who is at work there, and stops.

    SIGTERM commits the units in flight and ends with exit code 3.
    """
    command = Command(corpus, tiny, tmp_path / "run", on)
    process = command.start()
    command.wait_for(process, 2)
    with pytest.raises(HeldError, match=f"host {socket.gethostname()}, pid {process.pid}, since 20"):
        embed(Spec.load(None, command.words), session=no_session)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0].decode()
    assert process.returncode == 3, output
    assert "stopped by a request (SIGTERM)" in output
    assert "Traceback" not in output
    done = {name: content for name, content in contents(tmp_path / "run").items() if name.startswith("data/")}
    assert done.items() <= untouched.items()
    assert len(done) < UNITS, "the job was over before it was stopped"
    records = Run(str(tmp_path / "run")).records()
    assert len(records) == len(done), "a unit in flight was written and not recorded"
    assert not (tmp_path / "run" / "heartbeat.json").exists()
    command.finish()
    assert contents(tmp_path / "run") == untouched


@pytest.mark.slow
def test_two_commands_at_once(
    on: str, corpus: Path, tiny: str, tmp_path: Path, untouched: dict[str, bytes]
) -> None:
    """Where two commands run at once all the same, the result is right."""
    commands = [Command(corpus, tiny, tmp_path / "run", on) for _ in range(2)]
    with (tmp_path / "log").open("wb") as log:
        first, second = [
            subprocess.Popen(command.line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            for command in commands
        ]
        while None in (first.poll(), second.poll()):
            (tmp_path / "run" / "heartbeat.json").unlink(missing_ok=True)
            time.sleep(0.001)
    outputs = (tmp_path / "log").read_text()
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert contents(tmp_path / "run") == untouched
    assert verify(str(tmp_path / "run"), source=True).differences == []


@pytest.mark.slow
def test_kill_with_bad_rows(on: str, tiny: str, tmp_path: Path) -> None:
    """A killed job over bad rows and cut files comes to the same data and reject files."""
    write_bad(tmp_path / "corpus", "jsonl", docstrings(120))
    words = ["source.kind=jsonl", "max_reject_fraction=1.0"]
    straight, killed = (
        Command(tmp_path / "corpus", tiny, tmp_path / name, on) for name in ("straight", "killed")
    )
    for command in (straight, killed):
        command.line += words
    assert subprocess.run(straight.line, capture_output=True, check=False).returncode == 1
    for units in (2, 9, 25):
        process = killed.start()
        killed.wait_for(process, units)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "the job was over before it could be killed"
        _wait_for_workers(process.pid)
    assert subprocess.run(killed.line, capture_output=True, check=False).returncode == 1
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    assert verify(str(tmp_path / "killed"), source=True).differences == []
