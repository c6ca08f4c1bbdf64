"""What every stage offers. Protocols.

Stages share no code by inheritance, and know no Ray and no files. Those that work on a whole run
follow a protocol of their own, `WholeRun` of `postprocessing/whole_run.py`.

A fit is a loop of rounds, which `postprocessing/fold.py` runs over a cluster and `rounds.fit` in
one process:

    state = stage.start(given)
    while (todo := stage.round(state)) is not None:
        state = stage.update(state, fold of stage.summarize(block, state) over the blocks of `todo`)
    model = stage.model(state)

What is folded depends on the rows alone and never on files, workers or the order in which they
finish: blocks are cut at multiples of `BLOCK_ROWS` of the global row index, and summaries are added
in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import StageError
from embed_ops.numerics.tiles import Ints, Vectors

SHARDS = 64
"""Logical shards of a sample: a constant, so that nothing depends on the number of workers."""


@dataclass(frozen=True)
class FitInput:
    """What a fit knows before it reads a row.

    How many there are, their width, and the seed of everything that draws.
    """

    rows: int
    dim: int
    seed: int


@dataclass(frozen=True)
class Round:
    """What a fit reads next.

    Attributes:
        name: shown as progress.
        over: "run": every row, in blocks; "collect": every row once, to keep about `rows` of them
            as the sample (chosen by a hash of the row's index, in an order that the hash decides,
            dealt to `SHARDS` shards); "sample": rows of that sample.
        begin: of "sample": place in each shard where to begin; past its end it goes on at its
            beginning.
        rows: of "collect": about how many; of "sample": how many of each shard, None for all of
            them.
        tasks: of "sample": tasks to divide the shards among. It decides the order of addition, so
            it may not depend on the machine.
    """

    name: str
    over: Literal["run", "collect", "sample"]
    begin: int = 0
    rows: int | None = None
    tasks: int = 1

    @property
    def small(self) -> bool:
        """Tell whether it is the work of a single task, which may go on with the next round."""
        return self.over == "sample" and self.tasks == 1


@dataclass(frozen=True)
class Block:
    """Rows that are summarised together.

    Attributes:
        x: (rows, dim) float32, finite; may not be written to.
        ids: (rows,) int64, global row indexes.
    """

    x: Vectors
    ids: Ints


class Summary(Protocol):
    """A mergeable partial result; a frozen dataclass of numpy arrays and numbers.

    Added in the order of the rows.
    """

    def __add__(self, other: Any) -> Any:
        """Merge with the summary of the rows that come next."""
        ...


@dataclass(frozen=True)
class Collected:
    """What a "collect" round gives to `update`.

    Rows of each shard of the sample, (SHARDS,) int64.
    """

    sizes: Ints


class Model(Protocol):
    """What a stage fitted: a frozen dataclass of numpy arrays and numbers.

    Saved as safetensors and JSON.
    """

    kind: ClassVar[str]

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes, None where it takes any."""
        ...

    def transform(self, x: npt.NDArray[Any]) -> Any:
        """Compute what the stage gives for `(rows, dim)` vectors.

        Vectors, codes or labels, a row each.
        """
        ...

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Compute the stage's columns for `(rows, dim)` vectors.

        One that holds vectors is called `name`.
        """
        ...

    def report(self) -> dict[str, Any]:
        """Say in numbers what was fitted, for `report.json`."""
        ...


class OfOneRun:
    """A model that says nothing of rows outside of its run: what refuses them."""

    kind: ClassVar[str]
    instead: ClassVar[str] = "run the stage on their run"
    """What to do, as the end of a sentence."""

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes: none is asked for."""
        return None

    def transform(self, x: npt.NDArray[Any]) -> Any:
        """Refuse: what is said of a row depends on the others.

        Raises:
            StageError: always.
        """
        raise StageError(f"{self.kind}: a model of it can't be applied to other rows: {self.instead}")

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Refuse, as `transform`."""
        columns: dict[str, npt.NDArray[Any]] = self.transform(x)
        return columns


@runtime_checkable
class MeasuredModel(Protocol):
    """A model of which it can be told from its new columns alone how good it is."""

    measured: ClassVar[tuple[str, ...]]
    """Columns that are read back."""

    def measure(self, columns: pa.Table, labels: pa.Array | None) -> Any:
        """Summarise the `measured` columns of a unit.

        Args:
            columns: (rows,) each.
            labels: one for all rows, or one each; None where no label was named.
        """
        ...

    def quality(self, summary: Any) -> dict[str, Any]:
        """Say in numbers how good it is, for `report.json`."""
        ...


class Stage(Protocol):
    """A follow-on step, made from its section of the spec.

    `State` is a frozen dataclass of numpy arrays, numbers, strings and None, which is saved between
    rounds.
    """

    def start(self, given: FitInput) -> Any:
        """Give the first state.

        Raises:
            StageError: the spec asks for what the data can't give, such as more clusters than rows.
        """
        ...

    def round(self, state: Any) -> Round | None:
        """Say what to read next, None once it is fitted."""
        ...

    def summarize(self, block: Block, state: Any) -> Any:
        """Summarise some rows; runs on workers."""
        ...

    def update(self, state: Any, summary: Any) -> Any:
        """Take in what a round gave: the sum of the summaries, or `Collected`."""
        ...

    def model(self, state: Any) -> Any:
        """Give the model of the last state."""
        ...

    def progress(self, state: Any) -> str:
        """Say where the fit stands in a few words, such as the inertia of the latest round.

        May be empty.
        """
        ...
