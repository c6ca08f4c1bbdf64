"""The guard ends a process at the first deadline of all its threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import threading, time
from embed_ops.engine.guard import guard
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "program",
    [
        "with guard(0.5): time.sleep(50)",
        # The other thread's guard, which ends, must not take this one's away.
        """
def other():
    with guard(100): pass
with guard(1.0):
    threading.Thread(target=other).start()
    time.sleep(50)
""",
        # Nor may a later deadline displace an earlier one.
        """
def other():
    with guard(0.5): time.sleep(50)
with guard(100):
    threading.Thread(target=other).start()
    time.sleep(50)
""",
    ],
    ids=["alone", "another ends", "another is earlier"],
)
def test_a_process_that_hangs(program: str) -> None:
    """It ends itself, and says where it hung."""
    ended = run(program)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "<string>" in ended.stderr


def test_what_comes_to_its_end() -> None:
    """A guard that is renewed in time, or left, ends nothing."""
    ended = run(
        """
with guard(1.0) as renew:
    for _ in range(6):
        time.sleep(0.3)
        renew()
time.sleep(1.5)
"""
    )
    assert (ended.returncode, ended.stderr) == (0, "")
