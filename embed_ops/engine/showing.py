"""Draws progress: one live line on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import html
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

from embed_ops.engine.progress import SAY_EVERY_S, State, Totals, duration
from embed_ops.terminal import PlainConsole, plain_line

_REMEMBERED_S = 2.0
"""What took longer leaves a line on the terminal."""
_NOTEBOOK_EVERY_S = 0.5


class _Shown:
    """What all forms have: where things stand, and a thread that looks after a while."""

    every = SAY_EVERY_S

    def __init__(self) -> None:
        self.state = State()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look after a while."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show nothing more."""
        self._over.set()
        self._thread.join()

    def doing(self, what: str, how_far: str = "") -> None:
        """Show what is done from now on."""
        with self._lock:
            before, same = self.state, self.state.what == what and self.state.totals is None
            self.state = State(what, how_far, before.since if same else time.monotonic())
            if not same:
                self.turned(before)
        self.changed()

    def update(self, totals: Totals) -> None:
        """Show where the job stands."""
        with self._lock:
            since = self.state.since or time.monotonic()
            self.state = State(self.state.what, "", since, totals)
        self.changed()

    def turned(self, before: State) -> None:
        """Show that something else is being done."""

    def changed(self) -> None:
        """Show how things stand."""

    def tick(self) -> None:
        """Show that time has passed."""

    def _look_again(self) -> None:
        while not self._over.wait(self.every):
            with self._lock:
                self.tick()


class Plain(_Shown):
    """Writes lines to standard error, for logs: at once what is new, every ten seconds the rest."""

    def __init__(self) -> None:
        """Take standard error as it is now."""
        super().__init__()
        self._console = PlainConsole(stderr=True, soft_wrap=True)
        self._last = 0.0

    def say(self, sentence: str) -> None:
        """Write one line."""
        self._console.print(sentence)

    def turned(self, before: State) -> None:
        """Write what is done from now on."""
        if before.totals is not None:
            self.say(before.totals.line())
        if self.state.what:
            self.say(self.state.what)
            self._last = time.monotonic()

    def changed(self) -> None:
        """Write a line where the last one is old, or nothing was said of the job yet."""
        if self.state.totals is not None:
            self._after(SAY_EVERY_S)

    def tick(self) -> None:
        """Write that it goes on."""
        self._after(SAY_EVERY_S / 2)

    def __exit__(self, *raised: Any) -> None:
        """Write where the job stands at its end."""
        super().__exit__(*raised)
        if self.state.totals is not None:
            self.say(self.state.totals.line())

    def _after(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._last >= seconds and (line := self.state.line()):
            self._last = now
            self.say(line)


class _Line(ProgressColumn):
    """What is being done; of a job its figures; and how long it has been at it."""

    def __init__(self, shown: Live) -> None:
        # A second line would stay behind when the first one is drawn anew.
        super().__init__(Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self._shown = shown

    def render(self, task: RichTask) -> Text:
        """Write the line as it is now."""
        state = self._shown.state
        totals = state.totals
        if totals is None:
            # The time first: on a narrow terminal the rest may be cut.
            doing = ": ".join(part for part in (state.what, state.how_far) if part)
            return Text(plain_line(f"{duration(state.seconds)}, {doing}"))
        under_way = f"+{totals.under_way:,}" if totals.under_way else ""
        figures = [
            f"{totals.units:,}/{max(totals.units, totals.units_expected):,} units",
            f"{totals.rows:,}{under_way} rows",
        ]
        figures += [f"{totals.rate(totals.rows):,.0f}/s"] if totals.rows else []
        figures += [f"{totals.rejects:,} rejects"] if totals.rejects else []
        figures.append(duration(state.seconds))
        speed, left = totals.rate(totals.units), totals.units_expected - totals.units
        figures += [f"about {duration(left / speed)} left"] if speed and left > 0 else []
        return Text(", ".join(figures))


class _Bar(BarColumn):
    """A bar, where it is known how much there is."""

    def __init__(self, shown: Live) -> None:
        super().__init__(bar_width=10)
        self._shown = shown

    def render(self, task: RichTask) -> Any:
        """Draw it."""
        totals = self._shown.state.totals
        return super().render(task) if totals is not None and totals.units_expected else Text("")


class Live(_Shown):
    """Keeps one line on a terminal up to date; what took long leaves a line above it."""

    every = 0.5

    def __init__(self) -> None:
        """Take the terminal behind standard error."""
        super().__init__()
        console = PlainConsole(stderr=True)
        columns = (SpinnerColumn(finished_text="⠿", table_column=Column(width=1)), _Bar(self), _Line(self))
        self._progress = Progress(*columns, console=console, transient=True, expand=True)
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        """Take the line."""
        self._progress.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Give the line back, and leave what it said last."""
        super().__exit__(*raised)
        self._progress.stop()
        self._leave(self.state)

    def say(self, sentence: str) -> None:
        """Write one line above the live one."""
        self._progress.console.print(sentence)

    def turned(self, before: State) -> None:
        """Leave a line of what was done before."""
        self._leave(before)
        # Else it would count as finished, and its sign of life stand still.
        self._progress.reset(self._task)

    def changed(self) -> None:
        """Redraw."""
        totals = self.state.totals or Totals()
        total = max(1, totals.units, totals.units_expected)
        shown = bool(self.state.line())
        self._progress.update(self._task, visible=shown, completed=totals.units, total=total)

    def _leave(self, state: State) -> None:
        if state.totals is not None:
            self.say(state.totals.line())
        elif state.what and state.seconds >= _REMEMBERED_S:
            self.say(f"{state.what}: {duration(state.seconds)}")


class Notebook(_Shown):
    """Keeps one output of a notebook's cell up to date; needs no widgets."""

    every = _NOTEBOOK_EVERY_S

    def __init__(self) -> None:
        """Take the cell that runs."""
        super().__init__()
        from IPython.display import display

        self._lines: list[str] = []
        # IPython has no types of its own here.
        show: Any = display
        self._handle = show(self._content(""), raw=True, display_id=True)

    def __exit__(self, *raised: Any) -> None:
        """Leave what was said last."""
        super().__exit__(*raised)
        if self.state.totals is not None:
            self._lines.append(self.state.totals.line())
        self._draw("")

    def say(self, sentence: str) -> None:
        """Write one line above the one that changes."""
        with self._lock:
            self._lines.append(plain_line(sentence))
        self._draw(self.state.line())

    def turned(self, before: State) -> None:
        """Leave a line of what was done before."""
        if before.totals is not None:
            self._lines.append(before.totals.line())
        elif before.what and before.seconds >= _REMEMBERED_S:
            self._lines.append(plain_line(f"{before.what}: {duration(before.seconds)}"))

    def changed(self) -> None:
        """Draw what is new; how far it is waits for the next tick."""
        if self.state.totals is None and not self.state.how_far:
            self._draw(self.state.line())

    def tick(self) -> None:
        """Draw it."""
        self._draw(self.state.line())

    def _draw(self, line: str) -> None:
        self._handle.update(self._content(plain_line(line)), raw=True)

    def _content(self, line: str) -> dict[str, str]:
        text = "\n".join([*self._lines, *([line] if line else [])])
        return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
