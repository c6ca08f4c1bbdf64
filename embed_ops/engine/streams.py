"""Standard output and standard error that never end a job.

A log on a full disk and a pipe that nobody reads any more raise where something is shown. What is
shown decides nothing: the job goes on, and its exit code is that of the job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class LastingStream:
    """A text stream that drops what it can't write.

    Attributes:
        stream: what is written to.
        failure: the first error of writing, None as long as there was none.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is held back, or drop it."""
        self._try(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self.stream, name)

    def _try(self, act: Any) -> None:
        if self.failure is not None:
            return
        try:
            act()
        except UnicodeError:
            # A terminal without these characters shows their escapes.
            self.stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
            with suppress(OSError, ValueError):
                act()
        except (OSError, ValueError) as error:
            self.failure = error
            self._let_go()

    def _let_go(self) -> None:
        """Give the interpreter's own flush at exit somewhere to write to."""
        with suppress(OSError, ValueError, AttributeError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


def _hold_places() -> None:
    """Open what was closed of the first three descriptors.

    Else the next file to be opened would take the place, and what is shown would go into it.
    """
    for place in range(3):
        try:
            os.fstat(place)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let nothing that is shown raise, for the time of a `with`; at its end all is written."""
    _hold_places()
    before = sys.stdout, sys.stderr
    out, err = (LastingStream(stream or open(os.devnull, "w")) for stream in before)  # noqa: PTH123
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        out.flush()
        if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
            err.write(f"embed-ops: standard output can't be written: {out.failure}\n")
        err.flush()
        sys.stdout, sys.stderr = before
