"""Where a fit of `kmeans` stands between two rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embed_ops.errors import StageError
from embed_ops.numerics.tiles import Floats, Ints, Vectors
from embed_ops.stages.base import SHARDS
from embed_ops.stages.kmeans.seeding import DrawnRows

Phase = Literal["collect", "reserve", "seed", "weigh", "cell-seed", "cell-weigh", "step", "polish", "done"]


@dataclass(frozen=True)
class State:
    """Where a fit stands.

    Attributes:
        phase: what comes next; `turn`: how often it was done.
        rows, dim, seed: of the run.
        sizes: (SHARDS,) rows of the sample.
        reserve: random rows of the sample; `scale`: mean variance of a dimension in them.
        candidates: (candidates, dim) of the seeding; `ids`: their row indexes.
        coarse: (cells, dim) coarse centres; `cells`: (candidates,) the cell of each candidate,
            ascending.
        centers: (k, dim); `counts`: (k,) rows that each has seen.
        seen: rows since low clusters were last reassigned; `spares`: rows that the next step is to
            offer for them.
        average: moving average of the inertia of a row; `least`: its least so far; `stale`: steps
            since.
        inertia: of a row in the latest round.
    """

    phase: Phase
    rows: int
    dim: int
    seed: int
    turn: int = 0
    sizes: Ints | None = None
    reserve: DrawnRows | None = None
    scale: float = 0.0
    candidates: Vectors | None = None
    ids: Ints | None = None
    cells: Ints | None = None
    coarse: Vectors | None = None
    centers: Floats | None = None
    counts: Floats | None = None
    seen: int = 0
    spares: int = 0
    average: float | None = None
    least: float | None = None
    stale: int = 0
    steps: int = 0
    inertia: float = math.nan

    @property
    def sampled(self) -> int:
        """Rows of the sample, 0 before it is collected."""
        return 0 if self.sizes is None else int(self.sizes.sum())

    def of_each_shard(self, rows: int) -> int | None:
        """Find the least rows of each shard that make so many together, None for all."""
        sizes = there(self.sizes)
        if rows >= sizes.sum():
            return None
        each = -(-rows // SHARDS)
        while np.minimum(sizes, each).sum() < rows:
            each += 1
        return int(each)


def there(value: Any) -> Any:
    """Give what an earlier phase has set.

    Raises:
        StageError: it has not.
    """
    if value is None:
        raise StageError(
            "kmeans: the state of the fit lacks what an earlier phase finds; begin anew with --refit"
        )
    return value
