"""Ends a worker process that hangs.

The timer runs in native code: it ends a process that holds the interpreter's lock, too. What the
process was doing goes to the worker's log.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def guard(seconds: float) -> Iterator[Callable[[], None]]:
    """End this process where it does not come to an end in time; gives what renews the time."""

    def renew() -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    renew()
    try:
        yield renew
    finally:
        faulthandler.cancel_dump_traceback_later()


def call_guarded(seconds: float, function: Callable[..., Value], *arguments: object) -> Value:
    """Call a function in a worker that ends itself where that takes longer."""
    with guard(seconds):
        return function(*arguments)
