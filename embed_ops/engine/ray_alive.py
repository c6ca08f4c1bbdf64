"""Looks after the parts of Ray that a driver can't do without: this machine's raylet, the GCS.

Where one of them is gone, Ray itself ends the process of a driver, a minute later, without a word
and with exit code 1, which here says "done, with rejects".
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from embed_ops.errors import EngineError
from embed_ops.terminal import plain

_EVERY_S = 1.0
_PATIENCE_S = 40.0
"""How long a part may not answer: a GCS that is started anew takes less, and Ray waits for 60 s."""
_GRACE_S = 10.0
"""How long the driver has to end by itself, which it can't where it waits for Ray."""
_AGAIN = "Run the same command again to go on"


@dataclass
class Parts:
    """The parts of Ray that a driver hangs on.

    Attributes:
        node: Ray's own account of the session.
        own: this process has started them.
        left: the session is being closed, which ends them: none is missed any more.
    """

    node: Any
    own: bool
    left: bool = False
    _answered: dict[str, float] = field(default_factory=dict)

    def lost(self) -> str | None:
        """Say which part is gone, None while all are there."""
        if self.left:
            return None
        if self.own:
            dead = {str(kind) for kind, _ in self.node.dead_processes()} & {"raylet", "gcs_server"}
            return f"Ray's {min(dead)} on this machine has died" if dead else None
        host, _, port = str(self.node.gcs_address).rpartition(":")
        inet = socket.AF_INET6 if ":" in host else socket.AF_INET
        asked: dict[str, tuple[int, Any]] = {
            f"Ray's head {host}:{port}": (inet, (host.strip("[]"), int(port))),
            "the raylet of this machine": (socket.AF_UNIX, self.node.raylet_socket_name),
        }
        for part, (family, address) in asked.items():
            if _answers(family, address):
                self._answered[part] = time.monotonic()
            silent = time.monotonic() - self._answered.setdefault(part, time.monotonic())
            if silent > _PATIENCE_S:
                return f"{part} has not answered for {silent:.0f} s"
        return None


def _answers(family: int, address: Any) -> bool:
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as asked:
        asked.settimeout(_EVERY_S)
        asked.connect(address)
        return True
    return False


class _Loss:
    """What the session of this process has lost: drivers that look up end by it."""

    why: str | None = None


def require_alive() -> None:
    """End what waits for Ray once Ray is gone.

    Raises:
        EngineError: it is.
    """
    if _Loss.why is not None:
        raise EngineError(f"{_Loss.why}. {_AGAIN}")


@contextmanager
def looked_after(lost: Callable[[], str | None]) -> Iterator[None]:
    """Ask again and again, for the time of a `with`, whether a part of Ray is gone.

    If one is, whoever looks up has ten seconds to end; then the process ends, by the exit code of
    a job that is not finished.
    """
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_EVERY_S):
            if (why := lost()) is not None:
                _Loss.why = why
                break
        else:
            return
        if not ended.wait(_GRACE_S):
            with suppress(OSError, ValueError):
                sys.stderr.write(plain(f"embed-ops: {why}. {_AGAIN}\n"))
                sys.stderr.flush()
            os._exit(EngineError.exit_code)

    watcher = threading.Thread(target=ask, name="ray-alive", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        _Loss.why = None
