"""One process fetches while others wait.

Who gets what, and what a failure means for those who waited.
"""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embed_ops.encoders.hub import fetching
from embed_ops.encoders.hub.fetching import keep_trying, may_pass, once_per_node
from embed_ops.errors import StorageError


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep locks to this test, and waits short."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fetching, "LONGEST_WAIT_S", 0.01)


def test_one_fetches() -> None:
    """All get what one has fetched."""
    here: list[str] = []

    def fetch() -> str:
        time.sleep(0.05)
        here.append("fetched")
        return here[0]

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: once_per_node("a", lambda: here[0] if here else None, fetch), range(8)))
    assert got == ["fetched"] * 8
    assert here == ["fetched"]


def test_failure_is_shared_by_those_who_waited() -> None:
    """Who waits for a fetch that fails gets its error without a try; who comes later tries."""
    calls = []
    all_wait = threading.Barrier(4)

    def fetch() -> str:
        calls.append(1)
        time.sleep(0.3)
        raise StorageError("the hub is down")

    def ask() -> str:
        all_wait.wait()
        with pytest.raises(StorageError, match="the hub is down") as caught:
            once_per_node("b", lambda: None, fetch)
        return type(caught.value).__name__

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: ask(), range(4))) == ["StorageError"] * 4
    assert len(calls) == 1
    with pytest.raises(StorageError):
        once_per_node("b", lambda: None, fetch)
    assert len(calls) == 2


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What may pass is tried so many times, waiting as long as was asked; what may not, once.

    With the first failure it is said what helps where there is no network.
    """
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    monkeypatch.setattr(fetching, "TRIES", 4)

    def fail(error: Exception) -> int:
        tried = []

        def act() -> None:
            tried.append(1)
            raise error

        with pytest.raises(type(error)):
            keep_trying("it", act, asked=lambda _: 5.0, advice="Set HF_HUB_OFFLINE=1")
        return len(tried)

    assert fail(ConnectionResetError()) == 4
    assert ["HF_HUB_OFFLINE" in message for message in caplog.messages] == [True, False, False]
    assert [5.0 <= seconds <= 5.01 for seconds in slept] == [True] * 3
    assert fail(OSError("AWS Error SLOW_DOWN")) == 4
    assert fail(PermissionError()) == 1
    assert fail(OSError(28, "no space")) == 1


def test_what_may_pass() -> None:
    """Networks may recover, a fault of the program does not."""
    assert may_pass(TimeoutError())
    assert may_pass(RuntimeError("xet"))
    assert not may_pass(ValueError())
    assert not may_pass(FileNotFoundError())
