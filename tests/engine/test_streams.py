"""What is shown never ends a job: on a full disk, a pipe without a reader, a terminal in ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embed_ops.engine.streams import LastingStream, lasting_streams
from embed_ops.runs.verify.run import verify


def command(root: Path, *words: str) -> list[str]:
    """Make a whole small job, and give its command."""
    (root / "corpus").mkdir()
    (root / "corpus/a.txt").write_text("one\ntwo\n\n")
    (root / "table.txt").write_text("one 1 2\ntwo 2 1\n")
    return [
        *(sys.executable, "-m", "embed_ops", *words),
        *("source.kind=text", f"source.path={root}/corpus"),
        *("encoder.family=static", f"encoder.model={root}/table.txt", f"sink.path={root}/run"),
        *("max_reject_fraction=0.9", "--progress", "plain"),
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr", "both", "pipe", "closed"])
def test_a_job_ends_as_it_would(stream: str, tmp_path: Path) -> None:
    """The job is whole and its exit code is that of the job, whatever becomes of its words."""
    line = command(tmp_path, "embed")
    if stream == "closed":
        done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *line], check=False)
    elif stream == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(line, stdout=writer, stderr=writer, check=False)
        os.close(writer)
    else:
        with open("/dev/full", "w") as full:  # noqa: PTH123
            names = ["stdout", "stderr"] if stream == "both" else [stream]
            given = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | dict.fromkeys(names, full)
            done = subprocess.run(line, check=False, **given)  # type: ignore[call-overload]
    assert done.returncode == 0
    assert verify(str(tmp_path / "run")).ok
    if stream == "stdout":
        assert b"standard output can't be written: [Errno 28]" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.slow
def test_an_error_keeps_its_code(tmp_path: Path) -> None:
    """A sentence that can't be shown is not exit 1, which says that a job is done with rejects."""
    line = [*command(tmp_path, "embed"), "source.columm=x"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        assert subprocess.run(line, check=False, stdout=full, stderr=full).returncode == 2


def test_characters_that_a_terminal_lacks(tmp_path: Path) -> None:
    """They are shown as escapes."""
    with (tmp_path / "shown").open("w", encoding="ascii") as file:
        stream = LastingStream(file)
        stream.write("größe\n")
        stream.flush()
        assert stream.failure is None
        assert stream.encoding == "ascii"
    assert (tmp_path / "shown").read_text() == "gr\\xf6\\xdfe\n"


def test_streams_come_back() -> None:
    """After a command the interpreter has its own streams again."""
    before = sys.stdout, sys.stderr
    with lasting_streams():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
