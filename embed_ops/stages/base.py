"""What every stage offers. Protocols: stages share no code by inheritance, and know no Ray and no files.

A fit is a loop of rounds, which `fold.py` runs over a cluster and `rounds.fit` in one process:

    state = stage.start(facts)
    while (todo := stage.round(state)) is not None:
        state = stage.update(state, fold of stage.summarize(block, state) over the blocks of `todo`)
    model = stage.model(state)

What is folded depends on the rows alone and never on files, workers or the order in which they finish: blocks are cut at
multiples of `BLOCK_ROWS` of the global row index, and summaries are added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BLOCK_ROWS = 8192
"""Rows that are summarised together."""
SHARDS = 64
"""Logical shards of a sample: a constant, so that nothing depends on the number of workers."""
TILE_ROWS = 1024
"""Rows of a matrix product: always the same, the last tile padded, since the shape of a product decides its last bits."""

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What a fit knows before it reads a row: how many there are, their width, and the seed of everything that draws."""

    rows: int
    dim: int
    seed: int


@dataclass(frozen=True)
class Round:
    """What a fit reads next.

    Attributes:
        name: shown as progress.
        over: "run": every row, in blocks; "collect": every row once, to keep about `rows` of them as the sample (chosen by a
            hash of the row's index, in an order that the hash decides, dealt to `SHARDS` shards); "sample": rows of that sample.
        begin: of "sample": place in each shard where to begin; past its end it goes on at its beginning.
        rows: of "collect": about how many; of "sample": how many of each shard, None for all of them.
        tasks: of "sample": tasks to divide the shards among. It decides the order of addition, so it may not depend on the machine.
    """

    name: str
    over: Literal["run", "collect", "sample"]
    begin: int = 0
    rows: int | None = None
    tasks: int = 1

    @property
    def small(self) -> bool:
        """Tell whether it is the work of a single task, which may go on with the next one where it is."""
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
    """A mergeable partial result; a frozen dataclass of numpy arrays and numbers. Added in the order of the rows."""

    def __add__(self, other: Any) -> Any:
        """Merge with the summary of the rows that come next."""
        ...


@dataclass(frozen=True)
class Collected:
    """What a "collect" round gives to `update`: rows of each shard of the sample, (SHARDS,) int64."""

    sizes: Ints


class Model(Protocol):
    """What a stage fitted: a frozen dataclass of numpy arrays and numbers, saved as safetensors and JSON."""

    kind: ClassVar[str]

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes, None where it takes any."""
        ...

    def transform(self, x: npt.NDArray[Any]) -> Any:
        """Compute what the stage gives for `(rows, dim)` vectors: vectors, codes or labels, a row each."""
        ...

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[Any]]:
        """Compute the stage's columns for `(rows, dim)` vectors; one that holds vectors is called `name`."""
        ...

    def report(self) -> dict[str, Any]:
        """Say in numbers what was fitted, for `report.json`."""
        ...


@runtime_checkable
class MeasuredModel(Protocol):
    """A model of which it can be told from its new columns alone how good it is."""

    measured: ClassVar[tuple[str, ...]]
    """Columns that are read back."""

    def measure(self, columns: pa.Table, labels: pa.Array | None) -> Any:
        """Summarise the `measured` columns of a unit, and labels of its rows (one for all, or one each), if any were named."""
        ...

    def quality(self, summary: Any) -> dict[str, Any]:
        """Say in numbers how good it is, for `report.json`."""
        ...


class Stage(Protocol):
    """A follow-on step, made from its section of the spec.

    `State` is a frozen dataclass of numpy arrays, numbers, strings and None, which is saved between rounds.
    """

    def start(self, facts: Facts) -> Any:
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
        """Take in what a round found: the sum of the summaries, or `Collected`."""
        ...

    def model(self, state: Any) -> Any:
        """Give the model of the last state."""
        ...

    def progress(self, state: Any) -> str:
        """Say where the fit stands in a few words, such as the inertia of the latest round; may be empty."""
        ...


def in_tiles(function: Callable[[Vectors], npt.NDArray[Any]], x: Vectors, rows: int = TILE_ROWS) -> npt.NDArray[Any]:
    """Compute row by row results in tiles of a fixed height, so that a row's bits do not depend on how many rows there are.

    Args:
        function: of `(rows, dim)`, gives an array of `rows` rows.
        x: (any, dim).
        rows: height of a tile; the last one is padded with zeros.
    """
    parts = []
    for first in range(0, max(1, len(x)), rows):
        tile = x[first : first + rows]
        if len(tile) < rows:
            padded = np.zeros((rows, x.shape[1]), x.dtype)
            padded[: len(tile)] = tile
            parts.append(function(padded)[: len(tile)])
        else:
            parts.append(function(tile))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def product(x: npt.NDArray[Any], mean: Floats | None, matrix: Floats) -> Vectors:
    """Compute (x - mean) @ matrix as (rows, columns) float32; float64 inside, since a large mean would eat the digits of a difference.

    Args:
        x: (rows, dim).
        mean: (dim,), or None where nothing is to be taken off.
        matrix: (dim, columns).
    """

    def of_tile(tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        wide = tile.astype(np.float64)
        return ((wide if mean is None else wide - mean) @ matrix).astype(np.float32)

    found: Vectors = in_tiles(of_tile, x)
    return found


def unit_length(x: npt.NDArray[Any]) -> Vectors:
    """Divide each row by its L2 norm, as float32; a row of zeros stays one."""
    wide = x.astype(np.float64)
    # Row by row: sums over several rows at once are split where a buffer ends, and so would depend on a row's place.
    norms = np.sqrt(np.vecdot(wide, wide))
    found: Vectors = (x / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    return found
