"""Ends a worker process that hangs.

The timer runs in native code: it ends a process that holds the interpreter's lock, too. What the
process was doing goes to the worker's log. A process has one timer, so it is set to the first
deadline of all threads.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")


_deadlines: dict[object, float] = {}
_lock = threading.Lock()
_LEAST_S = 0.001


def _set_timer() -> None:
    if not _deadlines:
        faulthandler.cancel_dump_traceback_later()
        return
    seconds = max(_LEAST_S, min(_deadlines.values()) - time.monotonic())
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)


@contextmanager
def guard(seconds: float) -> Iterator[Callable[[], None]]:
    """End this process where it does not come to an end in time; gives what renews the time."""
    mine = object()

    def renew() -> None:
        with _lock:
            _deadlines[mine] = time.monotonic() + seconds
            _set_timer()

    renew()
    try:
        yield renew
    finally:
        with _lock:
            del _deadlines[mine]
            _set_timer()


def call_guarded(seconds: float, function: Callable[..., Value], *arguments: object) -> Value:
    """Call a function in a worker that ends itself where that takes longer."""
    with guard(seconds):
        return function(*arguments)
