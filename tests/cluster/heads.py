"""A real Ray head with a job server on loopback that wants a token, and the commands that talk to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Head:
    """A head node in a process group of its own, with a home, a token and ports that nothing else uses."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32))
        port, dashboard = free_port(), free_port()
        self.gcs, self.address = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
        self.env |= {"HOME": str(self.folder), "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}
        binaries = Path(sys.executable).parent
        self.env["PATH"] = f"{binaries}:{self.env['PATH']}"
        line = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        line += [f"--object-store-memory={200 * 2**20}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        # The agent, which takes jobs, has a fixed port by default: any other Ray of this machine may hold it.
        line += [f"--dashboard-agent-listen-port={free_port()}"]
        line += [f"--temp-dir={self.folder / 'r'}", "--disable-usage-stats"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                line, env=self.env | {"RAY_AUTH_MODE": "token"}, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until its job server asks for a token."""
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(requests.exceptions.ConnectionError):
                answer = requests.get(f"{self.address}/api/jobs/", timeout=5)
                assert answer.status_code == 401, "the job server answers without a token"
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End its process and all that came from it, and no other Ray."""
        own = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(own[:-1], timeout=3)
        for process in [*left, own[-1]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start `embed-ops submit` with these words, as a user who has the token in a file does."""
        line = [sys.executable, "-m", "jobs.submit", *words, "--address", self.address]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(line, env=self.env | env, cwd=ROOT, text=True, start_new_session=True, **pipes)

    def run(self, *words: str, **env: str) -> tuple[int, str]:
        """Run it to its end: its exit code and everything it said."""
        process = self.start(*words, **env)
        said = process.communicate()[0]
        return process.returncode, said
