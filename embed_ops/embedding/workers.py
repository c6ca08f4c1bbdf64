"""What runs inside Ray's workers: the steps, guarded and watched.

A worker gives signs of life (`engine/pulse.py`), and ends itself where it hangs: the engine then
starts another.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from embed_ops.embedding.forward import Batch
from embed_ops.embedding.isolation import isolate
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import dump_outcome, from_block, to_block
from embed_ops.embedding.replica import Replica, Turn
from embed_ops.embedding.steps import read_and_prepare, write_unit
from embed_ops.embedding.unit import EmbeddedUnit, Failure, Outcome, PreparedUnit, Skipped
from embed_ops.engine.guard import guard
from embed_ops.engine.pulse import Pulse, asked_to_stop
from embed_ops.errors import EmbedOpsError, EngineError
from embed_ops.runs.work import Work

_BEAT_S = 1.0


def _pulse(job: Job) -> Pulse:
    return Pulse(job.attempt, f"{socket.gethostname()}:{os.getpid()}")


@contextmanager
def _beating(life: Pulse, doing: str) -> Iterator[None]:
    """Give signs of life from a thread, where the work itself can't."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_S):
            life.beat(doing)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def read(block: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Read and prepare the units of a work, watched: a block for each."""
    life, work = _pulse(job), Work.load(block.column("work")[0].as_py())
    units = read_and_prepare(job, work, lambda: asked_to_stop(job.attempt))
    while True:
        life.beat("reading")
        with guard(job.spec.resources.hang_seconds):
            unit = next(units, None)
        if unit is None:
            return
        yield to_block(unit)


class WatchedReplica(Replica):
    """A replica that gives signs of life and ends itself where a batch hangs.

    It begins no unit once the job is to stop.
    """

    def __init__(self, job: Job) -> None:
        """Load the model; that it takes long is no sign of trouble.

        An error of ours that other nodes would meet too goes to the driver.
        """
        self._life = _pulse(job)
        self._unusable: EmbedOpsError | None = None
        try:
            with _beating(self._life, "loading the model"):
                super().__init__(job)
        except EmbedOpsError as error:
            # Raised here, the engine would load the model again and again, and wrap the error
            # beyond recognition.
            self._unusable = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embed a prepared unit, unless it comes too late."""
        unit = from_block(block)
        if not isinstance(unit, PreparedUnit):
            return block
        if self._unusable is not None:
            return to_block(Failure.of(self._unusable, unit.head.name))
        if self.job.late() or asked_to_stop(self.job.attempt):
            return to_block(Skipped(unit.head.name))
        self._life.beat("embedding")
        return to_block(self.embed(unit))

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
        self._life.beat("embedding")
        self._renew()


def write(block: pa.Table, job: Job) -> pa.Table:
    """Write an embedded unit; its outcome, as JSON in `record`, is all that reaches the driver."""
    message = from_block(block)
    if isinstance(message, PreparedUnit):
        raise EngineError(f"{message.head.name}: prepared and not embedded")
    outcome = write_unit(message, job) if isinstance(message, EmbeddedUnit) else message
    return pa.table({"record": [dump_outcome(outcome)]})


def isolate_watched(job: Job, work: Work) -> list[Outcome]:
    """Isolate, watched.

    Children that hang are ended by this process, so it is alive for as long as it takes.
    """
    with _beating(_pulse(job), "looking for rows at fault"):
        return isolate(job, work)
