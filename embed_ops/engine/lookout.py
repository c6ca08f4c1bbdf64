"""The driver's lookout: asks between two units whether to stop, and whether workers live."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from embed_ops.engine import pulse
from embed_ops.engine.control import Control
from embed_ops.engine.feed import Feed
from embed_ops.engine.ray_alive import require_alive
from embed_ops.engine.stopping import LOOK_UP_S
from embed_ops.errors import EngineError

WATCH_EVERY_S = 5.0


@dataclass
class Lookout:
    """Looks up, between units, for the time of a `with`."""

    attempt: str
    control: Control
    _earlier: set[str] = field(default_factory=set)
    _looked: float = field(default_factory=time.monotonic)
    _told: bool = False

    def __post_init__(self) -> None:
        """Note which actors are not of this wave."""
        self._earlier = set(pulse.actors_of_this_job())

    def look_up(self, cause: str = "") -> None:
        """Hand a request to stop on to the workers, and every few seconds judge whether they live.

        Raises:
            EngineError: they do not.
        """
        require_alive()
        if self.control.stop.asked and not self._told:
            pulse.ask_to_stop(self.attempt)
            self._told = True
        if time.monotonic() - self._looked > WATCH_EVERY_S and (why := self.judge(cause)):
            raise EngineError(f"{why}. Run the same command again to go on")

    def judge(self, cause: str = "") -> str | None:
        """Say why the job should end, None if it should not."""
        now = self._looked = time.monotonic()
        why = self.control.watch.judge(pulse.pulses(self.attempt), pulse.pool_of(self._earlier, cause), now)
        self.control.gauges.pool(self.control.watch.pool)
        return why

    def units(self, feed: Feed[dict[str, Any]]) -> Iterator[str]:
        """Yield what the engine's records say, until none is left or a stop's grace is over."""
        with first_cause() as cause:
            try:
                while not self.control.stop.expired:
                    row = feed.take(LOOK_UP_S)
                    if row is not None:
                        self.control.watch.came_through(time.monotonic())
                        yield row["record"]
                    self.look_up(cause.text)
            except StopIteration:
                self.judge(cause.text)
            finally:
                self.control.deaths += self.control.watch.pool.deaths
                pulse.forget(self.attempt)


@contextmanager
def first_cause() -> Iterator[pulse.FirstCause]:
    """Take the engine's error log to a place where it can be quoted, and off the terminal."""
    log, cause = logging.getLogger("ray.data"), pulse.FirstCause()
    log.setLevel(logging.ERROR)
    shown = [
        handler
        for handler in log.handlers
        if type(handler) is logging.StreamHandler or "Console" in type(handler).__name__
    ]
    for handler in shown:
        log.removeHandler(handler)
    log.addHandler(cause)
    try:
        yield cause
    finally:
        log.removeHandler(cause)
        for handler in shown:
            log.addHandler(handler)
