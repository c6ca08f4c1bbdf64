"""How far a call in memory is, on a terminal or in a notebook."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.progress import Progress

from embed_ops.engine.progress import in_notebook
from embed_ops.engine.showing import Notebook
from embed_ops.terminal import PlainConsole

SHOWN_AFTER_S = 2.0
"""Seconds that a call in memory takes before its bar is shown."""


class Bar:
    """A line that shows how far a call in memory is, once it has taken seconds."""

    def __init__(self, rows: int, asked: bool | None) -> None:
        """Show it if it is asked for; None: where a person looks."""
        self._notebook = in_notebook()
        self._shown = sys.stderr.isatty() or self._notebook if asked is None else asked
        self._rows, self._began, self._done = rows, time.monotonic(), 0
        self._wait = 0.0 if asked else SHOWN_AFTER_S
        self._progress: Progress | None = None
        self._cell: Notebook | None = None

    def batch(self, places: Any) -> None:
        """Count a batch."""
        self._done += len(places)
        if not self._shown or time.monotonic() - self._began < self._wait:
            return
        if self._notebook:
            self._cell = self._cell or Notebook().__enter__()
            self._cell.doing("embedding", f"{self._done:,} of {self._rows:,} rows")
            return
        if self._progress is None:
            self._progress = Progress(console=PlainConsole(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("embedding", total=self._rows)
        self._progress.update(self._task, completed=self._done)

    def unit(self, rows: int) -> None:
        """Note that so many rows are done: some of them may have been equal."""
        self._done = rows

    def close(self) -> None:
        """Take the line away."""
        if self._progress is not None:
            self._progress.stop()
        if self._cell is not None:
            self._cell.__exit__(None, None, None)
