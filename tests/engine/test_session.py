"""What a session says before it starts or joins anything.

Addresses, variables, usage statistics.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray

from embed_ops.engine.choice import Planned
from embed_ops.engine.ray_session import no_usage_statistics
from embed_ops.engine.session import session
from embed_ops.errors import AddressError, ClusterError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what a session sets from other tests, and the user's home and cluster out of this."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path)})
    os.environ.pop("RAY_ADDRESS", None)


MALFORMED = [
    "http://head:8265",
    "ray://head:10001",
    "head",
    "head:",
    ":6379",
    "head:port",
    "head:0",
    "head:65536",
    "a b:1",
    "head:6379/x",
    "",
]


@pytest.mark.parametrize("address", MALFORMED)
def test_malformed(address: str) -> None:
    """An address that can't be meant is exit code 2, and the sentence gives a form that can."""
    with pytest.raises(AddressError, match="host:port") as raised, session(Planned(), address):
        pass
    assert raised.value.exit_code == 2


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens, the sentence names who asked for it, and the exit code is 3."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (
        pytest.raises(ClusterError, match=f"--address {address}: no Ray cluster answers there") as raised,
        session(Planned(), address),
    ):
        pass
    assert raised.value.exit_code == 3
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", address)
    with (
        pytest.raises(ClusterError, match=f"RAY_ADDRESS {address}: no Ray cluster answers there"),
        session(Planned()),
    ):
        pass


def test_something_else_answers() -> None:
    """A port on which another program listens is told from a head that does not answer."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with (
            pytest.raises(ClusterError, match="no Ray head node answers there"),
            session(Planned(), f"127.0.0.1:{server.server_port}"),
        ):
            pass
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("config", "variable", "expected"),
    [
        (None, None, "0"),
        ({"usage_stats": True}, None, None),
        ({"usage_stats": False}, None, "0"),
        ("broken", None, "0"),
        (None, "1", "1"),
    ],
)
def test_usage_statistics(config: object, variable: str | None, expected: str | None, tmp_path: Path) -> None:
    """They are off, unless the user has turned them on."""
    (tmp_path / ".ray").mkdir()
    if config is not None:
        (tmp_path / ".ray" / "config.json").write_text(
            config if isinstance(config, str) else json.dumps(config)
        )
    os.environ.pop("RAY_USAGE_STATS_ENABLED", None)
    os.environ.pop("RAY_USAGE_STATS_CONFIG_PATH", None)
    if variable is not None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = variable
    no_usage_statistics()
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == expected


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_of_its_own_starts_in_silence() -> None:
    """What its native side remarks is nothing that a user can act on; Python is heard meanwhile."""
    code = (
        "import sys; from embed_ops.engine.session import session; "
        "from embed_ops.engine.choice import Planned\n"
        "with session(Planned(engine='ray')) as engine: sys.stderr.write(f'{engine.name}\\n')\n"
        "sys.stderr.write('over\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "ray\nover\n"
