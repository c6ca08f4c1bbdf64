"""The job in worker processes of this command: works in, outcomes out.

    Work         a span and its units that are done             (driver)
    embed_units  in a worker: reads, embeds and writes one unit after the other
    Outcome      the unit's record, or why there is none        (driver)

No unit crosses a process. A span is large, so where works are few several workers take one: each
reads all of it, and embeds every n-th unit.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from embed_ops.embedding.guarded import GuardedReplica, guarded_units
from embed_ops.embedding.isolation import isolate
from embed_ops.embedding.job import Job
from embed_ops.embedding.resources import replica_claim, replica_count
from embed_ops.embedding.steps import write_unit
from embed_ops.embedding.unit import EmbeddedUnit, Failure, Outcome, PreparedUnit, Written
from embed_ops.engine.control import Control
from embed_ops.engine.local_tasks import LocalEngine
from embed_ops.engine.processes import Died
from embed_ops.engine.watch import Pool
from embed_ops.engine.worker_process import Beat, Item, Raised, asked_to_stop, beat
from embed_ops.errors import EmbedOpsError, EngineError, Stopped
from embed_ops.runs.work import Work
from embed_ops.sources.units import UnitEnd

_FEW = 4
"""Works for each worker below which they are shared: the last ones would wait for each other."""

_replicas: dict[str, GuardedReplica] = {}
"""That of this process, by attempt."""


def embed_units(job: Job, work: Work, every: int, first: int) -> Iterator[Outcome]:
    """Take units that a work lacks through all steps; of `every` in a row one, the `first`."""
    for unit in guarded_units(job, work, beat, asked_to_stop, every, first):
        if isinstance(unit, PreparedUnit):
            embedded = _replica(job).embed(unit)
            beat("writing")
            yield write_unit(embedded, job) if isinstance(embedded, EmbeddedUnit) else embedded
        else:
            yield unit


def _replica(job: Job) -> GuardedReplica:
    """Load the model once per process."""
    if job.attempt not in _replicas:
        _replicas.clear()
        _replicas[job.attempt] = GuardedReplica(job, beat)
    return _replicas[job.attempt]


def run_units(
    engine: LocalEngine, job: Job, works: Sequence[Work], units: int, control: Control
) -> Generator[Outcome, None, None]:
    """Run every unit that the works lack, and yield its outcome as soon as it is known.

    A work whose worker dies is begun once more, without the units that came back.

    Arguments as of `pipeline.run_units`.
    """
    threads, gpus = job.resolved.threads_per_replica, job.resolved.gpus_per_replica
    most = replica_count(engine.capacity(), job.spec.resources, units, threads, gpus)[1]
    watched = _Watched(control, most)
    shares = most if len(works) < _FEW * most else 1
    # What is missing because of a stop is told by the units that are missing.
    with suppress(Stopped):
        wave = _Wave(engine, job, most, watched)
        yield from wave.run([(work, shares, first) for work in works for first in range(shares)])
        yield from wave.run([(work, 1, 0) for work in wave.unfinished()])


class _Wave:
    """Works on their way through the workers, and what has come back of each."""

    def __init__(self, engine: LocalEngine, job: Job, most: int, watched: _Watched) -> None:
        self._engine, self._job, self._most, self._watched = engine, job, most, watched
        self._works: dict[str, Work] = {}

    def unfinished(self) -> list[Work]:
        """List the works whose worker has died, less the units that came back."""
        return list(self._works.values())

    def run(self, shares: Sequence[tuple[Work, int, int]]) -> Generator[Outcome, None, None]:
        """Run shares of works, and yield what becomes of their units."""
        job, watched = self._job, self._watched
        resolved = job.resolved
        claim = replica_claim(
            self._engine.capacity(), resolved.threads_per_replica, resolved.gpus_per_replica, self._most
        )
        calls = [(job, *share) for share in shares]
        done: dict[str, dict[str, UnitEnd]] = {}
        died: dict[str, Work] = {}
        said = self._engine.stream(embed_units, calls, claim=claim, most=self._most, look_up=watched.look_up)
        with closing(said):
            for number, message in said:
                work = shares[number][0]
                name = work.span.first_unit
                match message:
                    case Item(outcome):
                        watched.came_through(number)
                        if isinstance(outcome, Written):
                            end = UnitEnd(outcome.record.next_source, outcome.record.next_position)
                            done.setdefault(name, {})[outcome.unit] = end
                        yield outcome
                    case Died(how):
                        watched.died(how)
                        died[name] = work
                    case Raised(error):
                        failure = error if isinstance(error, EmbedOpsError) else EngineError(error)
                        yield Failure.of(failure, name)
                    case Beat(_, inputs):
                        watched.beat(number, inputs)
        self._works = {
            name: replace(work, done={**work.done, **done.get(name, {})}) for name, work in died.items()
        }


def isolate_units(
    engine: LocalEngine, job: Job, works: Sequence[Work], control: Control
) -> Generator[Outcome, None, None]:
    """Embed the units that the works lack in processes of their own, a call for each work.

    Yields as `run_units` does.
    """
    resolved = job.resolved
    each = engine.each(
        isolate,
        [(job, work) for work in works],
        claim=replica_claim(engine.capacity(), resolved.threads_per_replica, resolved.gpus_per_replica),
        # It ends its children where they hang, and takes as long as it takes.
        look_up=lambda: None,
        failed=lambda number, error: [Failure.of(error, works[number].span.first_unit)],
    )
    with closing(each), suppress(Stopped):
        for _, outcomes in each:
            yield from outcomes


class _Watched:
    """What the driver sees of the workers of a wave."""

    def __init__(self, control: Control, most: int) -> None:
        self._control, self._most = control, most
        self._deaths, self._cause = 0, ""
        self._beats, self._under_way = 0, dict[int, int]()

    def came_through(self, number: int) -> None:
        """Note a unit of a call."""
        self._under_way[number] = 0
        self._control.watch.came_through(time.monotonic())

    def beat(self, number: int, inputs: int) -> None:
        """Note a sign of life of a call, and the inputs that it has begun."""
        self._beats += 1
        self._under_way[number] = self._under_way.get(number, 0) + inputs

    def died(self, how: str) -> None:
        """Note a death."""
        self._deaths, self._cause = self._deaths + 1, self._cause or how
        self._control.deaths += 1

    def look_up(self) -> None:
        """Judge whether the workers live.

        Raises:
            EngineError: they do not.
        """
        pool = Pool(self._most, 0, self._deaths, self._cause)
        self._control.under_way(sum(self._under_way.values()))
        why = self._control.watch.judge({"": str(self._beats)}, pool, time.monotonic())
        if why:
            raise EngineError(f"{why}. Run the same command again to go on")
