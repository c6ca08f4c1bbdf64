"""A Ray of a command's own starts wherever it can, or says in one sentence why it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

START = """
from embed_ops.engine.ray_session import ray_session
with ray_session("local") as engine:
    print(engine.capacity().cores)
"""


def start(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Open a session in a process of its own."""
    given = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "RAY_TMPDIR")}
    line = [sys.executable, "-c", START]
    return subprocess.run(
        line, env=given | variables, cwd=folder, text=True, capture_output=True, check=False
    )


def test_a_long_temporary_folder() -> None:
    """Sockets lie below /tmp where the temporary folder leaves no room for their names."""
    with tempfile.TemporaryDirectory(prefix="x" * 90, dir="/tmp") as folder:
        started = start(Path(folder), TMPDIR=folder)
        assert started.returncode == 0, started.stderr
        assert int(started.stdout) >= 1


@pytest.mark.parametrize("place", ["long", "missing"])
def test_a_place_where_ray_can_not_start(place: str) -> None:
    """Whoever names a place of Ray's hears what is wrong with it, and how to do without."""
    with tempfile.TemporaryDirectory(prefix="x" * 90, dir="/tmp") as folder:
        where = folder if place == "long" else "/proc/nowhere"
        started = start(Path(folder), RAY_TMPDIR=where)
    assert started.returncode != 0
    [sentence] = [
        line for line in started.stderr.splitlines() if line.startswith("embed_ops.errors.EngineError")
    ]
    assert "Ray can't start on this machine" in sentence
    assert where in sentence
    assert "resources.engine=local needs no Ray" in sentence
