"""`neighbors`: the nearest other rows of a run to each row.

Not fitted: `postprocessing/neighbors.py` compares the rows of a unit with all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embed_ops.errors import StageError
from embed_ops.numerics.tiles import Vectors


@dataclass(frozen=True)
class NeighborsModel:
    """What was searched for, and how well; it says nothing of other rows.

    Attributes:
        k: rows of each row; `metric`: cosine or dot.
        probe: clusters that are searched of each row, 0 for all rows.
        recall: share of the exact neighbours of a sample that is found; `work`: share of all
            products that this takes.
    """

    kind: ClassVar[str] = "neighbors"
    k: int
    metric: str
    probe: int
    recall: float
    work: float

    @property
    def dim(self) -> int | None:
        """Width of the vectors that it takes."""
        return None

    def transform(self, x: npt.NDArray[Any]) -> Any:
        """Refuse: neighbours are among the rows of a run.

        Raises:
            StageError: always.
        """
        raise StageError(
            "neighbors: a model of it can't be applied to other rows: run the stage on their run, or "
            "`embed-ops neighbors`"
        )

    def columns(self, x: Vectors, name: str) -> dict[str, npt.NDArray[np.float32]]:
        """Refuse, as `transform`."""
        raise StageError(
            "neighbors: a model of it can't be applied to other rows: run the stage on their run, or "
            "`embed-ops neighbors`"
        )

    def report(self) -> dict[str, Any]:
        """Say what was found."""
        found: dict[str, Any] = {"k": self.k, "metric": self.metric}
        return found | ({"probe": self.probe, "recall": self.recall, "work": self.work} if self.probe else {})
