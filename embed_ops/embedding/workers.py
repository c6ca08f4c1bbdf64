"""What runs inside Ray's workers: the steps, guarded and watched.

A worker gives signs of life through Ray's store (`engine/pulse.py`); where it hangs and ends
itself, the engine starts another.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pyarrow as pa

from embed_ops.embedding.guarded import GuardedReplica, beating, guarded_units
from embed_ops.embedding.isolation import isolate
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import dump_outcome, from_block, to_block
from embed_ops.embedding.steps import write_unit
from embed_ops.embedding.unit import EmbeddedUnit, Failure, Outcome, PreparedUnit, Skipped
from embed_ops.engine.pulse import Pulse, asked_to_stop
from embed_ops.errors import EmbedOpsError, EngineError
from embed_ops.runs.work import Work


def _pulse(job: Job) -> Pulse:
    return Pulse(job.attempt, f"{socket.gethostname()}:{os.getpid()}")


def read(block: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Read and prepare the units of a work, watched: a block for each."""
    work = Work.load(block.column("work")[0].as_py())
    for unit in guarded_units(job, work, _pulse(job).beat, lambda: asked_to_stop(job.attempt)):
        yield to_block(unit)


class WatchedReplica(GuardedReplica):
    """A replica that is an actor. It begins no unit once the job is to stop."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        An error of ours that other nodes would meet too goes to the driver.
        """
        self._unusable: EmbedOpsError | None = None
        try:
            super().__init__(job, _pulse(job).beat)
        except EmbedOpsError as error:
            # Raised here, the engine would load the model again and again, and wrap the error
            # beyond recognition.
            self._unusable = error
            self.job = job

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embed a prepared unit, unless it comes too late."""
        unit = from_block(block)
        if not isinstance(unit, PreparedUnit):
            return block
        if self._unusable is not None:
            return to_block(Failure.of(self._unusable, unit.head.name))
        if self.job.late() or asked_to_stop(self.job.attempt):
            return to_block(Skipped(unit.head.name))
        self._beat("embedding")
        return to_block(self.embed(unit))


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
    with beating(_pulse(job).beat, "looking for rows at fault"):
        return isolate(job, work)
