"""The one loop that fits stages, as plain calls of an engine.

    a round over the run      a task for each group of blocks, then a tree of tasks that add
    a round over the sample   a task for each range of shards

What is divided, and in which order summaries are added, follows from the rows and the spec alone;
workers and nodes only decide who does it, and when. Stages that read the same rows in the same
round share the reading.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embed_ops.engine.base import Engine
from embed_ops.engine.progress import Reporter
from embed_ops.errors import StageError, Stopped
from embed_ops.numerics.tiles import Ints
from embed_ops.postprocessing.passes import (
    Part,
    SmallRounds,
    go_on,
    make_shards,
    merge,
    read_group,
    summarize_shards,
)
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.runs.rows import RunRows
from embed_ops.stages.base import SHARDS, Collected, Round, Stage
from embed_ops.stages.rounds import FAN_IN, added, divide, groups
from embed_ops.storage.files import walk
from embed_ops.storage.packing import pack, unpack

_CHECKPOINT_S = 20.0
_STATE = "state"


@dataclass(frozen=True)
class FitProgress:
    """How far a fit has come: rounds done, rows of the sample's shards, and the state (packed)."""

    rounds: int
    sizes: Ints
    state: Any


@dataclass
class OpenFit:
    """A fit on its way, kept in `work/`: a later command goes on from there."""

    job: StageJob
    rows: RunRows
    stage: Stage
    progress: FitProgress
    saved: float = 0.0
    kernels: set[str] = field(default_factory=set)
    """Kernels of matrix products of the workers that took part."""

    @property
    def todo(self) -> Round | None:
        """What it reads next."""
        return self.stage.round(self.progress.state)

    @property
    def folder(self) -> str:
        """Where the latest pass over the run is kept, below `work/`."""
        return f"round-{self.progress.rounds:04d}"

    def part(self, name: str) -> Part:
        """Give its part in a pass over a stretch, whose number is `name`.

        Raises:
            StageError: nothing is left to read.
        """
        if self.todo is None:
            raise StageError(f"{self.job.spec.folder}: is fitted already")
        return Part(self.job, self.todo, f"{self.folder}/{name}")

    def take(self, summary: Any, sizes: Ints | None = None) -> None:
        """Go on to the next round by what one has given.

        After a pass over the run the state is saved.

        Args:
            summary: sum of the round's summaries, or `Collected`.
            sizes: (SHARDS,) rows of the sample, where the round has made it.
        """
        whole = self.todo is not None and self.todo.over != "sample"
        state = self.stage.update(self.progress.state, summary)
        self.move(
            FitProgress(self.progress.rounds + 1, self.progress.sizes if sizes is None else sizes, state)
        )
        if whole:
            self.save()

    def move(self, progress: FitProgress) -> None:
        """Go on to where a fit stands now, and save that every few seconds."""
        self.progress = progress
        if time.monotonic() - self.saved > _CHECKPOINT_S:
            self.save()

    def save(self) -> None:
        """Save the state, from which a later command goes on."""
        self.job.keep(_STATE, pack(self.progress))
        self.saved = time.monotonic()


def begin_fit(job: StageJob, rows: RunRows, stage: Stage, start: Any) -> OpenFit:
    """Begin a fit at a first state, or where an earlier command has left it."""
    content = job.kept(_STATE)
    progress = FitProgress(0, np.zeros(SHARDS, np.int64), start) if content is None else unpack(content)
    return OpenFit(job, rows, stage, progress)


def run_fit(fit: OpenFit, others: Sequence[OpenFit], engine: Engine, reporter: Reporter) -> Any:
    """Go through the rounds of a fit to its end, and give its model.

    Args:
        fit: what is fitted.
        others: fits that will want the same rows; a pass over the run serves those that are about
            to read it too.
        engine: where to run.
        reporter: told how far it is.
    """
    try:
        _go_through(fit, others, engine, reporter)
    except Stopped:
        fit.save()
        raise
    return fit.stage.model(fit.progress.state)


def _go_through(fit: OpenFit, others: Sequence[OpenFit], engine: Engine, reporter: Reporter) -> None:
    while (todo := fit.todo) is not None:
        if todo.small:
            _several(fit, engine)
        elif todo.over == "sample":
            fit.take(_over_sample(fit, todo, engine))
        else:
            _read_run(
                [fit, *(other for other in others if other.todo is not None and other.todo.over != "sample")],
                engine,
                reporter,
            )
            if todo.over == "collect":
                sizes = _make_sample(fit, engine)
                fit.take(Collected(sizes), sizes)
            else:
                fit.take(_sum(fit, engine))
        if words := fit.stage.progress(fit.progress.state):
            reporter.doing(f"fitting {fit.job.spec.folder}", words)


def _read_run(fits: Sequence[OpenFit], engine: Engine, reporter: Reporter) -> None:
    """Read the run once for all fits, but for stretches whose findings are kept already."""
    rows = fits[0].rows
    kept = [{name for name, _ in walk(fit.job.run, f"{WORK}/{fit.folder}")} for fit in fits]
    shared = [engine.share(fit.progress.state) for fit in fits]
    calls = []
    for number, (first, end) in enumerate(groups(rows.rows)):
        missing = [place for place in range(len(fits)) if f"{number:06d}" not in kept[place]]
        if missing:
            parts = [fits[place].part(f"{number:06d}") for place in missing]
            calls.append((parts, rows.stretch(first, end), *(shared[place] for place in missing)))
    names = ", ".join(fit.job.spec.folder for fit in fits)
    reporter.doing(f"fitting {names}")
    for count, (_, kernel) in enumerate(engine.each(read_group, calls), start=1):
        for fit in fits:
            fit.kernels.add(kernel)
        reporter.doing(f"fitting {names}", f"read {count:,} of {len(calls):,} stretches")


def _sum(fit: OpenFit, engine: Engine) -> Any:
    """Add the summaries of the groups, in a tree that depends on their number alone."""
    names = [f"{fit.folder}/{number:06d}" for number in range(len(groups(fit.rows.rows)))]
    level = 0
    while len(names) > FAN_IN:
        level += 1
        parts = [names[first : first + FAN_IN] for first in range(0, len(names), FAN_IN)]
        merged = [f"{fit.folder}/level-{level}-{number:06d}" for number in range(len(parts))]
        engine.all(merge, [(fit.job, part, name) for part, name in zip(parts, merged, strict=True)])
        names = merged
    return added([unpack(fit.job.kept(name) or b"") for name in names])


def _make_sample(fit: OpenFit, engine: Engine) -> Ints:
    """Make the shards of the sample from what the groups kept, and give their rows."""
    count = len(groups(fit.rows.rows))
    sizes = engine.all(make_shards, [(fit.job, fit.folder, count, list(shards)) for shards in divide(FAN_IN)])
    return np.concatenate(sizes).astype(np.int64)


def _over_sample(fit: OpenFit, todo: Round, engine: Engine) -> Any:
    state = engine.share(fit.progress.state)
    sizes = fit.progress.sizes.tolist()
    parts = engine.all(
        summarize_shards, [(fit.job, todo, state, list(shards), sizes) for shards in divide(todo.tasks)]
    )
    fit.kernels |= {part.kernel for part in parts}
    return added([part.summary for part in parts if part.summary is not None])


def _several(fit: OpenFit, engine: Engine) -> None:
    """Go through small rounds in one task."""
    before = fit.progress
    small: SmallRounds
    [small] = engine.all(go_on, [(fit.job, before.state, before.sizes.tolist())])
    fit.kernels.add(small.kernel)
    fit.move(FitProgress(before.rounds + small.rounds, before.sizes, small.state))
