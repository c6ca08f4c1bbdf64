"""`neighbors`: the nearest other rows of a run to each row.

Not fitted: `postprocessing/neighbors.py` compares the rows of a unit with all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from embed_ops.stages.base import OfOneRun


@dataclass(frozen=True)
class NeighborsModel(OfOneRun):
    """What was searched for, and how well; it says nothing of other rows.

    Attributes:
        k: rows of each row; `metric`: cosine or dot.
        probe: clusters that are searched of each row, 0 for all rows.
        recall: share of the exact neighbours of a sample that is found; `work`: share of all
            products that this takes.
    """

    kind: ClassVar[str] = "neighbors"
    instead: ClassVar[str] = "run the stage on their run, or `embed-ops neighbors`"
    k: int
    metric: str
    probe: int
    recall: float
    work: float

    def report(self) -> dict[str, Any]:
        """Say what was searched for, and how well where not all rows were searched."""
        asked: dict[str, Any] = {"k": self.k, "metric": self.metric}
        return asked | ({"probe": self.probe, "recall": self.recall, "work": self.work} if self.probe else {})
