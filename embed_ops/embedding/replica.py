"""A loaded copy of the model, which embeds prepared units: the step between reading and writing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embed_ops.embedding import loaded
from embed_ops.embedding.forward import Batch, Embedded, Room, embed_inputs
from embed_ops.embedding.job import Job
from embed_ops.embedding.storing import vector_table
from embed_ops.embedding.unit import EmbeddedUnit, Failure, ForwardPass, PreparedUnit
from embed_ops.encoders.base import gather
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.encoders.windows.parts import DOCUMENT
from embed_ops.engine.memory import peak_memory
from embed_ops.schema import Reason

_MOMENTS = 4
"""First units before which the rate of a product is measured again."""
_LEAST_RATE = 10e9
"""FLOP/s below which one product takes longer than that is worth: an emulated type."""


@dataclass
class Turn:
    """A unit's time on the device.

    Attributes:
        started: when it began, in seconds since 1970; `seconds`: how long it took.
        free_since: when the device was done with the unit before; `idle`: seconds from then to
            this one.
        busy: seconds in which the device computed.
    """

    started: float = 0.0
    seconds: float = 0.0
    free_since: float = 0.0
    idle: float = 0.0
    busy: float = 0.0


class Replica:
    """One loaded copy of the model: embeds units one after the other.

    On a GPU a second thread may have the next unit in hand: batches of one unit alone are on the
    device (`turn`), while another is formed or packed.
    """

    def __init__(self, job: Job) -> None:
        """Load the model on this process's share of the machine, and measure what it can do."""
        self.job, chosen = job, job.resolved
        self.runtime = device = runtime_of(job.spec.encoder)
        device.require_device(chosen.device)
        device.use_threads(chosen.threads_per_replica)
        device.choose_kernels(chosen.device)
        device.use_memory_share(chosen.device, chosen.gpus_per_replica)
        self.encoder = loaded.load(job.encoder, chosen)
        self._gemm = device.gemm_flops_per_second(chosen.device, chosen.dtype)
        device.forget_peak(chosen.device)
        # Its first use may build a model beside this one: not while another thread computes.
        self.encoder.flops(np.ones(1, np.int32))
        self.clock = device.busy_clock(chosen.device)
        self._device_name = device.device_name(chosen.device)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._moments = _MOMENTS
        self._room = Room()
        self._free_since: float | None = None
        self._on_device = threading.Lock()

    def embed(self, unit: PreparedUnit) -> EmbeddedUnit | Failure:
        """Embed a prepared unit."""
        try:
            return self._embed(unit)
        except (Exception, SystemExit) as error:
            if self.runtime.lost_device(error):
                self.lost(error)
            # The engine never replaces an actor that left by SystemExit.
            return Failure.of(error, unit.head.name)

    def lost(self, error: BaseException) -> None:
        """Do nothing where the device can't be used any more: for replicas that are replaced."""

    def compute(self, inputs: pa.Table, turn: Turn) -> Embedded:
        """Put the inputs through the model; `before_batch` is called before each batch."""
        return embed_inputs(
            self.encoder,
            inputs,
            self.job.resolved.token_budget,
            self._room,
            self.before_batch,
            rule=self.job.resolved.rule,
            turn=lambda: self.take(turn),
            clock=self.clock,
            runtime=self.runtime,
        )

    def before_batch(self, batch: Batch) -> None:
        """Do nothing: for replicas that are watched."""

    @contextmanager
    def take(self, turn: Turn) -> Iterator[None]:
        """Have the device for one unit."""
        with self._on_device:
            now = time.time()
            turn.free_since = now if self._free_since is None else self._free_since
            turn.idle = now - turn.free_since
            self.measure_again()
            turn.started, clock = time.time(), time.perf_counter()
            busy = 0.0 if self.clock is None else self.clock.seconds
            yield
            turn.seconds = time.perf_counter() - clock
            turn.busy = turn.seconds if self.clock is None else self.clock.seconds - busy
            self._free_since = time.time()

    def measure_again(self) -> None:
        """Look at other moments what the device can do: others may have had it while we loaded."""
        if self._moments == 0 or self._gemm < _LEAST_RATE:
            return
        chosen, self._moments = self.job.resolved, self._moments - 1
        try:
            self._gemm = max(
                self._gemm, self.runtime.gemm_flops_per_second(chosen.device, chosen.dtype, tries=1)
            )
        except Exception as error:  # each runtime has its own
            if not self.runtime.ran_out_of_memory(error):
                raise

    @property
    def _own_rate(self) -> float:
        """The rate of this replica's share: alone for a moment, it has all of a GPU."""
        share = self.job.resolved.gpus_per_replica
        return self._gemm * (share if 0 < share < 1 else 1.0)

    def _embed(self, unit: PreparedUnit) -> EmbeddedUnit:
        turn = Turn()
        embedded = self.compute(unit.inputs, turn)
        # A unit that was ready before this replica was free did not keep it waiting: what came
        # behind did.
        waited = min(turn.idle, max(0.0, unit.head.ready - turn.free_since))
        forward = ForwardPass(
            replica=self.name,
            gemm=self._own_rate,
            tokens=int(embedded.lengths.sum()),
            positions=embedded.positions,
            flops=self.encoder.flops(embedded.lengths),
            seconds=turn.seconds,
            busy=turn.busy,
            device=self._device_name,
            device_memory=self.runtime.device_memory(self.job.resolved.device),
            idle_input=waited,
            idle_output=turn.idle - waited,
            halved=embedded.halved > 0,
        )
        memory = peak_memory()
        vectors = vector_table(gather(self.encoder, unit.inputs, embedded.vectors, unit.documents))
        return EmbeddedUnit(
            head=unit.head,
            rows=unit.rows,
            vectors=vectors,
            rejects=unit.rejects,
            number_of_inputs=len(unit.inputs),
            started=turn.started,
            memory=memory,
            refused=by_document(unit.inputs, embedded.refused),
            forward=forward,
        )


def by_document(inputs: pa.Table, refused: Mapping[int, Reason]) -> dict[int, Reason]:
    """Say which distinct texts lack a vector, where inputs are their windows."""
    if DOCUMENT not in inputs.schema.names:
        return dict(refused)
    of_window = inputs.column(DOCUMENT).to_pylist()
    return {of_window[place]: reason for place, reason in refused.items()}
