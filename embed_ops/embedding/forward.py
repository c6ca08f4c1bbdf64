"""The forward pass of a unit: token batches in, vectors in the order of the inputs out.

What memory can't hold is halved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.batching import RULES, BatchRule, token_batches
from embed_ops.encoders.base import Encoder, FloatArray, IntArray, InWindows, Launched, dims_of
from embed_ops.encoders.runtimes import Runtime, runtime_of
from embed_ops.numerics.ragged import Places, offsets_of, runs
from embed_ops.schema import Reason

if TYPE_CHECKING:
    from embed_ops.encoders.device import BusyClock

Batch = npt.NDArray[np.int64]
Result = TypeVar("Result")


@dataclass
class Room:
    """What a replica has learned of its memory.

    A batch that is as large in both ways as one that did not fit is halved beforehand, to the
    halves that running out of memory would give. So a replica that has learned and one that has not
    form the same batches.

    Attributes:
        refused: (positions, longest input) of the batches that did not fit.
    """

    refused: list[tuple[int, int]] = field(default_factory=list)

    def refuses(self, positions: int, longest: int) -> bool:
        """Tell whether a batch would not fit."""
        return any(positions >= most and longest >= width for most, width in self.refused)


@dataclass(frozen=True)
class Embedded:
    """What a unit's inputs became.

    Attributes:
        vectors: {output: (inputs, dim) float32} in the order given; NaN where an input is too
            large.
        offsets: {output: (inputs + 1,)} where inputs have other numbers of vectors than one each:
            where those of each begin.
        lengths: (inputs,) int32.
        positions: what went through the model, padding included.
        halved: batches that memory could not hold.
        refused: {place of an input that has no vector: why}, such as those that memory can't hold
            alone.
    """

    vectors: dict[str, FloatArray]
    lengths: IntArray
    positions: int
    halved: int = 0
    refused: dict[int, Reason] = field(default_factory=dict)
    offsets: dict[str, Places] = field(default_factory=dict)

    def forget(self, inputs: Mapping[int, Reason]) -> Embedded:
        """Take the vectors of some inputs out, and say why."""
        places = np.array(sorted(inputs), np.int64)
        for name, vectors in self.vectors.items():
            vectors[_places(self.offsets.get(name), places)] = np.nan
        return replace(self, refused={**self.refused, **inputs})


def _places(offsets: Places | None, inputs: Batch) -> Batch:
    """Find the places of the vectors of inputs, in their order."""
    return inputs if offsets is None else runs(offsets[inputs], offsets[inputs + 1] - offsets[inputs])


def embed_inputs(
    encoder: Encoder,
    inputs: pa.Table,
    budget: int,
    room: Room | None = None,
    before: Callable[[Batch], None] | None = None,
    *,
    rule: BatchRule = RULES["cpu"],
    overlap: bool = True,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    clock: BusyClock | None = None,
    runtime: Runtime | None = None,
) -> Embedded:
    """Embed a unit's inputs in token batches formed from these inputs alone.

    A batch is collected only after the next one is launched, so that a GPU never waits for the host
    to pad it.

    Args:
        encoder: loaded.
        inputs: one row per distinct input.
        budget: padded positions of a batch.
        room: what the replica has learned of its memory.
        before: called with the places of a batch, (batch,) int64, before it is launched.
        rule: how batches are formed.
        overlap: launch a batch before the one in front of it is collected.
        turn: held while batches are under way, and not while they are formed.
        clock: measures how long the device computes.
        runtime: tells an error of memory from others; None: torch.
    """
    lengths = encoder.lengths(inputs)
    batches = token_batches(lengths, budget, rule)
    offsets = _offsets(encoder, inputs)
    vectors = {
        name: np.full((int(offsets[name][-1]) if name in offsets else len(inputs), dim), np.nan, np.float32)
        for name, dim in dims_of(encoder.outputs()).items()
    }
    positions = sum(rule.positions(lengths[batch]) for batch in batches)
    flight = _Flight(
        encoder,
        inputs.combine_chunks(),
        lengths,
        vectors,
        offsets,
        room or Room(),
        before,
        overlap,
        rule,
        clock,
        runtime,
    )
    with turn():
        flight.run(batches)
    refused = dict.fromkeys(sorted(flight.too_large), Reason.TOO_LARGE)
    return Embedded(vectors, lengths, positions, flight.halved, refused, offsets)


def _offsets(encoder: Encoder, inputs: pa.Table) -> dict[str, Places]:
    """Find where the vectors of each input begin, of outputs that have not one each."""
    if not isinstance(encoder, InWindows):
        return {}
    counts = {output.name: encoder.counts(inputs, output.name) for output in encoder.outputs()}
    return {name: offsets_of(of_input) for name, of_input in counts.items() if of_input is not None}


@dataclass(frozen=True)
class _InFlight:
    """A batch that was launched and is not collected yet."""

    batch: Batch
    launched: Launched


@dataclass
class _Flight:
    """One unit on its way through the model."""

    encoder: Encoder
    inputs: pa.Table
    lengths: IntArray
    vectors: dict[str, FloatArray]
    offsets: dict[str, Places]
    room: Room
    before: Callable[[Batch], None] | None
    overlap: bool
    rule: BatchRule
    clock: BusyClock | None
    runtime: Runtime | None
    halved: int = 0
    too_large: list[int] = field(default_factory=list)

    def run(self, batches: list[Batch]) -> None:
        """Embed all batches, halving as needed."""
        queue = deque(batches)
        flying: _InFlight | None = None
        while queue:
            flying = self._take(queue, flying)
            if flying is not None and not (queue and self.overlap):
                # Nothing is to be launched in front of it. Where it does not fit, its halves are
                # in the queue now.
                self._collect(flying, queue)
                flying = None

    def _take(self, queue: deque[Batch], flying: _InFlight | None) -> _InFlight | None:
        """Launch the next batch, then collect the one in flight; gives what is in flight now."""
        batch = queue.popleft()
        if len(batch) > 1 and self.room.refuses(*self._size(batch)):
            self._halve(batch, queue)
            return flying
        launched = self._launch(batch)
        if flying is not None:
            self._collect(flying, queue)
            if launched is None:
                # What was in flight held memory too: with it gone the batch has a second try.
                launched = self._launch(batch)
        if launched is None:
            self._did_not_fit(batch, queue)
        return launched

    def _size(self, batch: Batch) -> tuple[int, int]:
        return self.rule.positions(self.lengths[batch]), int(self.lengths[batch].max())

    def _launch(self, batch: Batch) -> _InFlight | None:
        """Start a batch; None where memory ran out."""
        if self.before is not None:
            self.before(batch)
        launched = self._unless_out_of_memory(lambda: self._timed(self.inputs.take(pa.array(batch))))
        return None if launched is None else _InFlight(batch, launched)

    def _timed(self, batch: pa.Table) -> Launched:
        if self.clock is None:
            return self.encoder.launch(batch)
        return self.clock.timed(lambda: self.encoder.launch(batch))

    def _collect(self, flying: _InFlight, queue: deque[Batch]) -> None:
        """Wait for a batch and put its vectors in their places; where memory ran out, halve it."""
        vectors = self._unless_out_of_memory(flying.launched)
        if vectors is None:
            self._did_not_fit(flying.batch, queue)
            return
        for name, part in vectors.items():
            self.vectors[name][_places(self.offsets.get(name), flying.batch)] = part

    def _did_not_fit(self, batch: Batch, queue: deque[Batch]) -> None:
        if len(batch) == 1:
            self.too_large.append(int(batch[0]))
        else:
            self.room.refused.append(self._size(batch))
            self._halve(batch, queue)

    def _halve(self, batch: Batch, queue: deque[Batch]) -> None:
        self.halved += 1
        middle = len(batch) // 2
        queue.extendleft([batch[middle:], batch[:middle]])

    def _unless_out_of_memory(self, call: Callable[[], Result]) -> Result | None:
        try:
            return call()
        except Exception as error:
            runtime = self.runtime or runtime_of(None)
            if not runtime.ran_out_of_memory(error):
                raise
        runtime.release_memory()
        return None
