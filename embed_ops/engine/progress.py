"""Progress: what a person who waits is told.

What is being done and for how long: live on a terminal or in a notebook, as plain lines elsewhere,
or not at all. `showing.py` draws it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

Style = Literal["auto", "rich", "plain", "none"]
SAY_EVERY_S = 10.0
"""Between two plain lines about the same thing."""


@dataclass
class Totals:
    """Where a job stands.

    Units and rows done of about so many, and what this attempt has counted since `started`.

    Attributes:
        under_way: inputs that were embedded, of units that are not written yet.
        latest: when the last unit so far was done.
    """

    units: int = 0
    units_expected: int = 0
    rows: int = 0
    tokens: int = 0
    rejects: int = 0
    started: float = 0.0
    under_way: int = 0
    latest: float = 0.0

    def add(self, rows: int, tokens: int = 0, rejects: int = 0) -> None:
        """Count a unit that is done."""
        self.units += 1
        self.rows += rows
        self.tokens += tokens
        self.rejects += rejects
        self.latest = time.time()

    def rate(self, what: int) -> float:
        """Give a count per second since the first unit began."""
        if not self.started:
            return 0.0
        # While what follows the last unit goes on, nothing becomes slower.
        over = self.latest if self.units and self.units >= self.units_expected else 0.0
        return what / max(1e-9, (over or time.time()) - self.started)

    def line(self) -> str:
        """Say it in one line."""
        left = max(0, self.units_expected - self.units)
        speed = self.rate(self.units)
        remaining = f", about {duration(left / speed)} left" if speed and left else ""
        under_way = f" (and {self.under_way:,} on their way)" if self.under_way else ""
        # A stage has no tokens and no rejects, and images have no tokens.
        of_text = f", {self.rate(self.tokens):,.0f} tokens/s" if self.tokens else ""
        of_text += f", {self.rejects:,} rejects" if self.tokens or self.rejects else ""
        units = f"{self.units:,} of about {self.units_expected:,} units"
        if self.units and not left:
            units = f"{self.units:,} unit{'' if self.units == 1 else 's'}"
        return (
            f"{units}, {self.rows:,} rows{under_way}, {self.rate(self.rows):,.0f} rows/s{of_text}{remaining}"
        )


class Reporter(Protocol):
    """Shows progress."""

    def say(self, sentence: str) -> None:
        """Show one sentence, which stays."""
        ...

    def doing(self, what: str, how_far: str = "") -> None:
        """Show what is done from now on, and for how long, until something else is.

        `how_far`: may change while the same thing is done.
        """
        ...

    def update(self, totals: Totals) -> None:
        """Show where the job stands."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, sentence: str) -> None:
        """Show nothing."""

    def doing(self, what: str, how_far: str = "") -> None:
        """Show nothing."""

    def update(self, totals: Totals) -> None:
        """Show nothing."""


@dataclass
class State:
    """What is being done, since when, and where it stands."""

    what: str = ""
    how_far: str = ""
    since: float = 0.0
    totals: Totals | None = None

    @property
    def seconds(self) -> float:
        """How long it has been done."""
        return time.monotonic() - self.since

    def line(self) -> str:
        """Say it in one line, "" where nothing is being done."""
        if self.totals is not None:
            return f"{self.totals.line()}, after {duration(self.seconds)}"
        if not self.what:
            return ""
        return ": ".join(part for part in (self.what, self.how_far, duration(self.seconds)) if part)


def duration(seconds: float) -> str:
    """Write a duration: 12 s, 3:05 min, 2:03 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds) // 60
    if minutes < 100:
        return f"{minutes}:{round(seconds) % 60:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; imports nothing."""
    module = sys.modules.get("IPython")
    shell = getattr(module, "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def somebody_looks() -> bool:
    """Tell whether a person sees what is shown: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or in_notebook()


@contextmanager
def reporter(style: Style = "auto") -> Iterator[Reporter]:
    """Open what the style asks for; "auto" is live on a terminal or in a notebook, else plain."""
    if style == "none":
        yield Silent()
        return
    from embed_ops.engine.showing import Live, Notebook, Plain

    live = style == "rich" or (style == "auto" and sys.stderr.isatty())
    shown: Live | Notebook | Plain
    if style == "auto" and in_notebook():
        shown = Notebook()
    else:
        shown = Live() if live else Plain()
    with shown:
        yield shown


@contextmanager
def shown_to(given: Reporter | None, progress: bool | None) -> Iterator[Reporter]:
    """Give what a call from Python reports to.

    Args:
        given: the caller's own.
        progress: show it or not; None: where a person looks.
    """
    if given is not None:
        yield given
        return
    asked = somebody_looks() if progress is None else progress
    with reporter("auto" if asked else "none") as shown:
        yield shown
