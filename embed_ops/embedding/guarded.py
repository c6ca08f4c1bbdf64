"""Steps in a worker that gives signs of life, and ends itself where it hangs.

Whoever gave it the work starts another.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embed_ops.embedding.forward import Batch
from embed_ops.embedding.job import Job
from embed_ops.embedding.replica import Replica, Turn
from embed_ops.embedding.steps import read_and_prepare
from embed_ops.embedding.unit import Failure, PreparedUnit
from embed_ops.engine.guard import guard
from embed_ops.runs.work import Work

Beat = Callable[..., None]
"""Gives a sign of life: says what is being done, and of how many inputs at once."""
_BEAT_S = 1.0


@contextmanager
def beating(beat: Beat, doing: str) -> Iterator[None]:
    """Give signs of life from a thread, where the work itself can't."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(_BEAT_S):
            beat(doing)

    threading.Thread(target=go_on, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def guarded_units(
    job: Job, work: Work, beat: Beat, stopping: Callable[[], bool], every: int = 1, first: int = 0
) -> Iterator[PreparedUnit | Failure]:
    """Read and prepare units of a work, each in the time that the spec allows.

    Arguments as of `read_and_prepare`.
    """
    units = read_and_prepare(job, work, stopping, every, first)
    while True:
        beat("reading")
        with guard(job.spec.resources.hang_seconds):
            unit = next(units, None)
        if unit is None:
            return
        yield unit


class GuardedReplica(Replica):
    """A replica that gives signs of life and ends its process where a batch hangs."""

    def __init__(self, job: Job, beat: Beat) -> None:
        """Load the model; that it takes long is no sign of trouble."""
        self._beat = beat
        with beating(beat, "loading the model"):
            super().__init__(job)

    @contextmanager
    def take(self, turn: Turn) -> Iterator[None]:
        """Have the device, guarded from then on: waiting for it takes as long as another unit."""
        with super().take(turn), guard(self.job.spec.resources.hang_seconds) as self._renew:
            yield

    def measure_again(self) -> None:
        """Measure, guarded too."""
        with guard(self.job.spec.resources.hang_seconds):
            super().measure_again()

    def lost(self, error: BaseException) -> None:
        """End this process: another takes its place, and the unit."""
        sys.stderr.write(f"embed-ops: this replica's GPU can't be used any more: {error}\n")
        sys.stderr.flush()
        os._exit(1)

    def before_batch(self, batch: Batch) -> None:
        """Give a sign of life, and this batch its time."""
        self._beat("embedding", len(batch))
        self._renew()
