"""A Ray of a command's own is reached by nobody else: its ports, its folder, its token."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embed_ops.engine.ray_alone import alone, keep_token_private
from embed_ops.errors import StorageError

SCRIPT = """
import json, psutil, ray
from embed_ops.engine.ray_session import ray_session

@ray.remote
def one():
    return 1

with ray_session("local"):
    assert ray.get(one.remote()) == 1
    found = [
        [process.name(), at.laddr.ip]
        for process in (psutil.Process(), *psutil.Process().children(recursive=True))
        for at in process.net_connections("inet")
        if at.status == psutil.CONN_LISTEN
    ]
    folder = ray._private.worker._global_node.get_session_dir_path()
print(json.dumps([found, folder]))
"""


def mode(path: Path) -> int:
    """Give the permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.ray
@pytest.mark.slow
def test_nobody_else_reaches_it(tmp_path: Path) -> None:
    """Every port is on loopback, the session's folder in one of mode 0700, the token 0600."""
    temporary = Path("/tmp") / f"e{os.getpid()}"
    temporary.mkdir()
    told = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told |= {"HOME": str(tmp_path), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=told, capture_output=True, text=True, timeout=300, check=True
    )
    listening, session = json.loads(done.stdout.splitlines()[-1])
    assert len(listening) >= 4
    assert {address.removeprefix("::ffff:") for _, address in listening} == {"127.0.0.1"}
    assert session.startswith(f"{temporary}/embed-ops-{os.getuid()}/ray/session_")
    assert mode(temporary / f"embed-ops-{os.getuid()}") == 0o700
    assert mode(tmp_path / ".ray" / "auth_token") == 0o600


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process a home and a temporary folder of its own, and no word about tokens."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_token_is_for_its_user(home: Path) -> None:
    """A new one is made closed, one that is open is closed and kept, and none is made unasked."""
    token = home / ".ray" / "auth_token"
    keep_token_private()
    made = token.read_text()
    assert (mode(token), len(made)) == (0o600, 64)
    token.chmod(0o644)
    keep_token_private()
    assert (mode(token), token.read_text()) == (0o600, made)
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/x")]
)
def test_what_the_user_has_chosen_stays(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mode, or a token that the environment brings, is left as it is."""
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not (home / ".ray").exists()


def test_the_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lies in the user's own folder, or where `RAY_TMPDIR` says; what is set is set back."""
    monkeypatch.setattr("embed_ops.engine.ray_alone._LONGEST", 400)
    before = dict(os.environ)
    with alone() as options:
        assert options == {"_temp_dir": f"{home}/embed-ops-{os.getuid()}/ray"}
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    with alone() as options:
        assert options == {}
    monkeypatch.delenv("RAY_TMPDIR")
    assert dict(os.environ) == before
    (home / f"embed-ops-{os.getuid()}").chmod(0o777)
    with pytest.raises(StorageError, match="open to others"), alone():
        pass
