"""How a job is asked to stop early.

By SIGTERM, as machines that are taken away send it, or from another thread.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

LOOK_UP_S = 0.5
"""How often a driver that waits asks whether it is to stop."""
GRACE_S = 25.0
"""Kubernetes kills 30 s after SIGTERM, spot machines go 30 s to 120 s after it."""


@dataclass
class StopRequest:
    """Asks a job to finish what is in flight, and then to end with `Stopped`.

    It ends in any case when the grace is over.

    Attributes:
        grace_s: seconds that units in flight get.
    """

    grace_s: float = GRACE_S
    _asked: threading.Event = field(default_factory=threading.Event, repr=False)
    _at: float = 0.0

    def ask(self) -> None:
        """Ask the job to stop."""
        if not self._asked.is_set():
            self._at = time.monotonic()
            self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._asked.is_set()

    @property
    def expired(self) -> bool:
        """Whether the grace is over."""
        return self.asked and time.monotonic() - self._at > self.grace_s

    def listen(self) -> None:
        """Let SIGTERM ask, and a second one interrupt at once.

        In the main thread only, since no other may set handlers.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.ask()


@contextmanager
def restored_sigterm() -> Iterator[None]:
    """Give SIGTERM its handler back at the end of a `with`."""
    mine = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if mine else None
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
