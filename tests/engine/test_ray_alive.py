"""Where Ray itself is gone, a command ends as a job that is not finished: exit 3 and a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from heads import Head

pytestmark = [pytest.mark.slow, pytest.mark.ray]

WAIT = """
import time, ray
from embed_ops.engine import ray_alive
from embed_ops.engine.ray_session import ray_session
ray_alive._PATIENCE_S, ray_alive._GRACE_S = 3.0, {grace}
with ray_session({address!r}):
    print("joined", flush=True)
    while True:
        time.sleep(0.1)
        {look_up}
"""


def begin(address: str, look_up: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """Open a session in a process of its own, which then waits, or looks up too."""
    line = [
        sys.executable,
        "-c",
        WAIT.format(address=address, look_up=look_up, grace=1.0 if look_up == "pass" else 60.0),
    ]
    opened = subprocess.Popen(line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert opened.stdout is not None
    assert opened.stdout.readline() == "joined\n"
    return opened


def kill(part: str, among: psutil.Process) -> None:
    """Kill one of Ray's processes below another."""
    [found] = [child for child in among.children(recursive=True) if child.name() == part]
    found.kill()


@pytest.mark.parametrize("look_up", ["pass", "ray_alive.require_alive()"], ids=["waits", "looks up"])
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_ray_of_its_own(part: str, look_up: str) -> None:
    """The process that has started it sees it die."""
    home = Path(tempfile.mkdtemp(prefix="a", dir="/tmp"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    opened = begin("local", look_up, env | {"HOME": str(home)})
    kill(part, psutil.Process(opened.pid))
    said = opened.communicate(timeout=120)[1]
    assert opened.returncode == (3 if look_up == "pass" else 1)
    assert f"Ray's {part} on this machine has died. Run the same command again to go on" in said
    assert look_up == "pass" or "embed_ops.errors.EngineError" in said
    shutil.rmtree(home, ignore_errors=True)


def test_a_cluster_that_was_joined() -> None:
    """Its head does not answer for a while."""
    head = Head()
    head.wait()
    try:
        opened = begin(head.gcs, "pass", head.env)
        kill("gcs_server", psutil.Process(head.process.pid))
        said = opened.communicate(timeout=120)[1]
        assert opened.returncode == 3
        assert f":{head.gcs.rpartition(':')[2]} has not answered for" in said
    finally:
        head.stop()


def test_a_slow_end_is_no_loss() -> None:
    """A session that is closed ends its Ray itself: however long that takes, nothing is missed."""
    home = Path(tempfile.mkdtemp(prefix="a", dir="/tmp"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program = """
import time, psutil, ray
from embed_ops.engine import ray_alive
from embed_ops.engine.ray_session import ray_session
ray_alive._GRACE_S = 0.5
shutdown = ray.shutdown
def slow():
    [raylet] = [one for one in psutil.Process().children(recursive=True) if one.name() == "raylet"]
    raylet.kill()
    time.sleep(5)
    shutdown()
ray.shutdown = slow
with ray_session("local"):
    pass
print("done")
"""
    line = [sys.executable, "-c", program]
    ended = subprocess.run(
        line, env=env | {"HOME": str(home)}, text=True, capture_output=True, check=False, timeout=120
    )
    # Ray says on standard output as well that its raylet was killed.
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "done"), ended.stderr
    shutil.rmtree(home, ignore_errors=True)
