"""Embedding a unit where memory runs out: halves, remembered limits, inputs that never fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from embed_ops.embedding.forward import Room, embed_inputs
from embed_ops.encoders.base import Encoder, FloatArray, IntArray, Output
from embed_ops.numerics.kinds import Dense


@pytest.fixture(autouse=True)
def _few_objects() -> Iterator[None]:
    """Take what the other tests have loaded out of the way.

    Memory is collected after each batch that does not fit.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Narrow:
    """An encoder with room for so many positions, whose vectors are (first token, tokens).

    The real ones need gigabytes to fail.
    """

    def __init__(self, room: int, *, late: bool = False) -> None:
        self.room = room
        self.late = late
        self.tried: list[int] = []

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Count the tokens."""
        return np.array([len(row) for row in inputs.column("tokens").to_pylist()], np.int32)

    def outputs(self) -> tuple[Output, ...]:
        """Give one output."""
        return (Output("embedding", Dense(2)),)

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Run out of memory at once, or behind."""
        rows = batch.column("tokens").to_pylist()
        positions = len(rows) * max(len(row) for row in rows)
        self.tried.append(positions)
        if positions > self.room and not self.late:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def collect() -> Mapping[str, FloatArray]:
            if positions > self.room:
                raise MemoryError
            return {"embedding": np.array([[row[0], len(row)] for row in rows], np.float32)}

        return collect


def inputs_of(lengths: list[int]) -> pa.Table:
    """Make inputs whose first token is their index."""
    return pa.table(
        {"tokens": pa.array([[n] * length for n, length in enumerate(lengths)], pa.list_(pa.int32()))}
    )


LENGTHS = [3, 4, 1, 4, 4, 4, 2, 4, 4, 4, 3, 3]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("room", [1000, 20, 12, 8, 4])
def test_every_input_keeps_its_place(room: int, late: bool) -> None:
    """However little fits, each vector is that of its input.

    Memory may run out at the start of a batch or behind it.
    """
    encoder = Narrow(room, late=late)
    found = embed_inputs(cast(Encoder, encoder), inputs_of(LENGTHS), 24)
    expected = np.array([[n, length] for n, length in enumerate(LENGTHS)], np.float32)
    np.testing.assert_array_equal(found.vectors["embedding"], expected)
    assert found.refused == {}
    assert (found.halved > 0) == (room < 24)


@pytest.mark.parametrize("late", [False, True])
def test_an_input_that_never_fits_is_named(late: bool) -> None:
    """Inputs too large alone have no vector; all others do."""
    found = embed_inputs(cast(Encoder, Narrow(3, late=late)), inputs_of(LENGTHS), 24)
    assert found.refused == {n: "too_large" for n, length in enumerate(LENGTHS) if length > 3}
    missing = np.isnan(found.vectors["embedding"]).any(axis=1)
    assert np.flatnonzero(missing).tolist() == list(found.refused)


def test_what_did_not_fit_is_not_tried_again() -> None:
    """A replica halves beforehand what it learned not to fit, to the same batches."""
    encoder, room = Narrow(8), Room()
    embed_inputs(cast(Encoder, encoder), inputs_of(LENGTHS), 24, room)
    first = [positions for positions in encoder.tried if positions <= 8]
    assert any(positions > 8 for positions in encoder.tried)
    encoder.tried.clear()
    embed_inputs(cast(Encoder, encoder), inputs_of(LENGTHS), 24, room)
    assert encoder.tried == first


def test_other_errors_pass_through() -> None:
    """Only memory is forgiven."""

    class Broken(Narrow):
        """Fails for another reason."""

        def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
            """Fail."""
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        embed_inputs(cast(Encoder, Broken(10)), inputs_of([1, 2]), 24)
