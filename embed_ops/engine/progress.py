"""Progress: what a person sees while a job runs.

A live line on a terminal, plain lines elsewhere, or nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

from embed_ops.terminal import PlainConsole

Style = Literal["auto", "rich", "plain", "none"]
SAY_EVERY_S = 10.0
"""Between two sentences about the same loop."""
SHOWN_AFTER_S = 2.0
"""Seconds that a call in memory takes before its bar is shown."""


@dataclass
class Totals:
    """Where a job stands.

    Units and rows done of about so many, and what this attempt has counted since `started`.
    """

    units: int = 0
    units_expected: int = 0
    rows: int = 0
    tokens: int = 0
    rejects: int = 0
    started: float = 0.0

    def rate(self, what: int) -> float:
        """Give a count per second since the first unit began."""
        return what / max(1e-9, time.time() - self.started) if self.started else 0.0

    def line(self) -> str:
        """Say it in one line."""
        left = max(0, self.units_expected - self.units)
        speed = self.rate(self.units)
        remaining = f", about {left / speed:.0f} s left" if speed and left else ""
        # A stage has no tokens and no rejects.
        of_text = (
            f", {self.rate(self.tokens):.0f} tokens/s, {self.rejects} rejects"
            if self.tokens or self.rejects
            else ""
        )
        return (
            f"{self.units} of about {max(self.units, self.units_expected)} units, {self.rows} rows, "
            f"{self.rate(self.rows):.0f} rows/s"
            f"{of_text}{remaining}"
        )


class Reporter(Protocol):
    """Shows progress."""

    def say(self, sentence: str) -> None:
        """Show one sentence."""
        ...

    def update(self, totals: Totals) -> None:
        """Show where the job stands."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, sentence: str) -> None:
        """Show nothing."""

    def update(self, totals: Totals) -> None:
        """Show nothing."""


class Ticker:
    """Says how a long loop goes on, every ten seconds at most."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._last = time.monotonic()

    def say(self, sentence: str) -> None:
        """Show a sentence, unless the last one is younger than that."""
        now = time.monotonic()
        if now - self._last >= SAY_EVERY_S:
            self._last = now
            self._reporter.say(sentence)


class Plain:
    """Writes a line every ten seconds to standard error, for logs."""

    def __init__(self) -> None:
        self._console = PlainConsole(stderr=True, soft_wrap=True)
        self._last = 0.0

    def say(self, sentence: str) -> None:
        """Write one line."""
        self._console.print(sentence)

    def update(self, totals: Totals) -> None:
        """Write a line where the last one is old, or the job is over."""
        now = time.monotonic()
        if now - self._last >= SAY_EVERY_S:
            self._last = now
            self.say(totals.line())


class _Rates(ProgressColumn):
    """Rows, rows/s, tokens/s and rejects."""

    def render(self, task: RichTask) -> Text:
        """Write the figures of the latest totals."""
        totals: Totals | None = task.fields.get("totals")
        if totals is None:
            return Text("starting")
        figures = f"{totals.rows:,} rows, {totals.rate(totals.rows):,.0f}/s"
        of_text = (
            f", {totals.rate(totals.tokens):,.0f} tokens/s, {totals.rejects:,} rejects"
            if totals.tokens or totals.rejects
            else ""
        )
        return Text(figures + of_text)


class Live:
    """Keeps one line on a terminal up to date."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("units", total=None, totals=None)

    def say(self, sentence: str) -> None:
        """Write one line above the live one."""
        self._progress.console.print(sentence)

    def update(self, totals: Totals) -> None:
        """Redraw."""
        expected = max(totals.units, totals.units_expected)
        self._progress.update(self._task, completed=totals.units, total=expected, totals=totals)


class Bar:
    """A line on the terminal that shows how far a call is, once it has taken seconds."""

    def __init__(self, rows: int, asked: bool | None) -> None:
        self._shown = sys.stderr.isatty() if asked is None else asked
        self._rows, self._began, self._done = rows, time.monotonic(), 0
        self._wait = 0.0 if asked else SHOWN_AFTER_S
        self._progress: Any = None

    def batch(self, places: Any) -> None:
        """Count a batch."""
        self._done += len(places)
        if not self._shown or time.monotonic() - self._began < self._wait:
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


@contextmanager
def reporter(style: Style = "auto") -> Iterator[Reporter]:
    """Open what the style asks for; "auto" is live on a terminal and plain elsewhere."""
    if style == "auto":
        style = "rich" if sys.stderr.isatty() else "plain"
    if style == "none":
        yield Silent()
    elif style == "plain":
        yield Plain()
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            _Rates(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=PlainConsole(stderr=True)) as progress:
            yield Live(progress)
