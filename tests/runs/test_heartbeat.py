"""The heartbeat: who is at work on a run, and who is dead."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embed_ops.errors import HeldError
from embed_ops.runs.heartbeat import DEAD_AFTER_S, NAME, Heartbeat, new_attempt
from embed_ops.storage.files import locate


def beat(folder: Path, attempt: str, age: float = 0.0) -> None:
    """Write the heartbeat of another attempt."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps({"attempt": attempt, "beat": time.time() - age}))


def hold(folder: Path) -> Heartbeat:
    """Make the heartbeat of this process."""
    return Heartbeat(locate(str(folder)), new_attempt())


def test_beats_while_it_holds(tmp_path: Path) -> None:
    """Nothing is written before `begin`; the file stands until the end of the `with`, and goes."""
    with hold(tmp_path / "run") as heartbeat:
        assert not (tmp_path / "run").exists()
        heartbeat.begin()
        assert json.loads((tmp_path / "run" / NAME).read_text())["beat"] <= time.time()
    assert not (tmp_path / "run" / NAME).exists()


def test_second_is_told_who(tmp_path: Path) -> None:
    """A second attempt is refused by name, and leaves the first one's file alone."""
    began = int((time.time() - 5) * 1000)
    beat(tmp_path, f"other-host-77-{began}")
    before = (tmp_path / NAME).read_bytes()
    with (
        pytest.raises(
            HeldError, match=r"at work on this run: host other-host, pid 77, since 20\d\d-"
        ) as caught,
        hold(tmp_path),
    ):
        pass
    assert caught.value.exit_code == 3
    assert (tmp_path / NAME).read_bytes() == before


def test_begun_in_the_same_moment(tmp_path: Path) -> None:
    """Of two that both saw nobody, the one that writes first holds the run."""
    with hold(tmp_path) as ours:
        beat(tmp_path, f"other-host-77-{int(time.time() * 1000)}")
        with pytest.raises(HeldError, match="other-host"):
            ours.begin()
    assert "other-host" in (tmp_path / NAME).read_text(), "the file of the other one was taken away"


def test_the_dead_are_forgotten(tmp_path: Path) -> None:
    """A dead process here, a silent one elsewhere and a file that is no heartbeat hold nothing."""
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    now = int(time.time() * 1000)
    dead = [
        (f"{socket.gethostname()}-{int(gone.stdout)}-{now}", 0.0),
        (f"{socket.gethostname()}-{os.getpid()}-1000", 0.0),
        (f"other-host-77-{now}", DEAD_AFTER_S + 1),
    ]
    for attempt, age in dead:
        beat(tmp_path, attempt, age)
        with hold(tmp_path) as heartbeat:
            heartbeat.begin()
            assert attempt not in (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text("not json")
    with hold(tmp_path) as heartbeat:
        heartbeat.begin()
    assert not (tmp_path / NAME).exists()


def test_another_one_took_over(tmp_path: Path) -> None:
    """A holder that was taken for dead does not take away the file of the one that took over."""
    with hold(tmp_path) as heartbeat:
        heartbeat.begin()
        beat(tmp_path, f"other-host-77-{int(time.time() * 1000)}")
    assert "other-host" in (tmp_path / NAME).read_text()


@pytest.mark.parametrize("beat_of", [4e9, math.nan, math.inf])
def test_beats_that_tell_nothing(beat_of: float, tmp_path: Path) -> None:
    """Where a beat is of the future, or no time at all, the age of the file counts."""
    attempt = f"other-host-77-{int(time.time() * 1000)}"
    (tmp_path / NAME).write_text(json.dumps({"attempt": attempt, "beat": beat_of}))
    with pytest.raises(HeldError, match="other-host"), hold(tmp_path):
        pass
    long_ago = time.time() - DEAD_AFTER_S - 5
    os.utime(tmp_path / NAME, (long_ago, long_ago))
    with hold(tmp_path) as heartbeat:
        heartbeat.begin()


def test_containers_of_one_name(tmp_path: Path) -> None:
    """A process id of another PID namespace is not looked for here, though hosts share a name."""
    host = new_attempt().rsplit("-", 2)[0]
    assert host.startswith(f"{socket.gethostname()}.")
    now = int(time.time() * 1000)
    nobody = 2**22 + 1
    for name, held in ((f"{socket.gethostname()}.0123abcd", True), (host, False)):
        beat(tmp_path, f"{name}-{nobody}-{now}")
        if held:
            with (
                pytest.raises(HeldError, match=rf"host {socket.gethostname()}, pid {nobody}"),
                hold(tmp_path),
            ):
                pass
        else:
            with hold(tmp_path) as heartbeat:
                heartbeat.begin()


@pytest.mark.parametrize("name", ["h-²-1", "h-1-²", f"h-{10**40}-1", f"h-1-{10**40}", "--", "h-1-", ""])
def test_names_that_are_no_attempt(name: str, tmp_path: Path) -> None:
    """They hold a run while their beat is young, and end no command."""
    beat(tmp_path, name, DEAD_AFTER_S + 1)
    with hold(tmp_path) as heartbeat:
        heartbeat.begin()
    beat(tmp_path, name)
    with pytest.raises(HeldError), hold(tmp_path):
        pass
