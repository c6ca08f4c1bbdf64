"""Suspects: what the deaths of worker processes show of the rows of one unit.

They are halved: a group of inputs on which a process died is tried half by half, until one is left.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from embed_ops.schema import Reason

STEP_PATIENCE_S = 300.0
"""Least patience with steps that are no row's fault: reading, loading the model, writing."""
_TRIAL_PATIENCE_S = 30.0
"""Least patience with a trial, once it is known how long a batch takes."""


class Step(StrEnum):
    """What a child is about to do."""

    START = "start"
    READ = "reading the source"
    ROW = "row"
    """Prepare one row alone."""
    PREPARE = "prepare"
    """Prepare all rows that are left."""
    LOAD = "loading the model"
    TRIAL = "trial"
    """Embed a group of suspects, all others of their batch blank."""
    BATCH = "batch"
    """Embed a batch as planned, but for inputs that are known to kill."""
    WRITE = "writing"

    @property
    def embeds(self) -> bool:
        """Tell whether inputs go through the model."""
        return self in (Step.TRIAL, Step.BATCH)

    @property
    def narrows(self) -> bool:
        """Tell whether a death at this step shows which row is at fault."""
        return self.embeds or self in (Step.ROW, Step.PREPARE)


@dataclass
class Findings:
    """What earlier children have shown of one unit; a child is given it.

    Attributes:
        rows: {place in the unit: reason} of rows that can't be prepared.
        inputs: {distinct input: reason} of inputs that can't be embedded.
        careful: prepare row by row, since a child died while it prepared.
        trials: groups of inputs of one batch to embed alone, before the unit is embedded.
        longest: seconds that the slowest batch took; 0 if none came through.
        fruitless: deaths since a batch came through.
    """

    rows: dict[int, Reason] = field(default_factory=dict)
    inputs: dict[int, Reason] = field(default_factory=dict)
    careful: bool = False
    trials: deque[list[int]] = field(default_factory=deque)
    longest: float = 0.0
    fruitless: int = 0

    def patience(self, step: Step, hang_seconds: int) -> float:
        """Give the seconds after which a child at this step that says nothing is taken for hung."""
        if not step.narrows:
            return max(STEP_PATIENCE_S, hang_seconds)
        if step is Step.TRIAL and self.longest:
            return min(float(hang_seconds), max(_TRIAL_PATIENCE_S, 10 * self.longest))
        return float(hang_seconds)

    def came_through(self, seconds: float) -> None:
        """Take in that a batch or a trial took so long, and killed nobody."""
        self.longest = max(self.longest, seconds)
        self.fruitless = 0


@dataclass(frozen=True)
class Death:
    """How a child ended.

    Attributes:
        step: what it had said last.
        suspects: the rows, or inputs, of that step.
        reason: crashed or hung.
        how: it died, in words.
    """

    step: Step
    suspects: list[int]
    reason: Reason
    how: str


def learn(findings: Findings, death: Death, halved: set[tuple[int, ...]]) -> None:
    """Narrow the suspects down; `halved` keeps the groups that have been halved already."""
    if death.step is Step.PREPARE:
        findings.careful = True
    elif death.step is Step.ROW:
        findings.rows[death.suspects[0]] = death.reason
    else:
        suspects = [place for place in death.suspects if place not in findings.inputs]
        if death.step is Step.TRIAL:
            findings.trials.popleft()
        # Suspects that kill together but not apart are refused together, the second time.
        if len(suspects) == 1 or (death.step is Step.BATCH and tuple(suspects) in halved):
            findings.inputs |= dict.fromkeys(suspects, death.reason)
            return
        halved.add(tuple(suspects))
        middle = len(suspects) // 2
        findings.trials.extendleft([suspects[middle:], suspects[:middle]])
