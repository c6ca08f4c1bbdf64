"""Waves: units run until none is missing.

All of them together, those that are missing once more, and the last few in isolation.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from embed_ops.embedding.attempt import Attempt
from embed_ops.embedding.resources import replica_count
from embed_ops.embedding.unit import Failure, Outcome, Skipped, Written
from embed_ops.engine.base import Engine
from embed_ops.engine.control import Control, Gauges
from embed_ops.engine.progress import Totals
from embed_ops.engine.stopping import StopRequest
from embed_ops.engine.watch import Watch
from embed_ops.errors import DeviceError, EmbedOpsError, ModelError, Stopped, StorageError
from embed_ops.redaction import redacted
from embed_ops.runs.ledger import chain
from embed_ops.runs.record import Record
from embed_ops.runs.work import Work

_UNITS_BEFORE_ABORT = 10
_ERRORS_BEFORE_ABORT = 10
"""Units that may fail in a row before any has come through: where so many do, the next thousand
would too."""
_FEW = 8
"""Spans with missing units that go to isolation at once: rows that kill are rare, lost nodes lose
many units."""


_RUNNERS = {"ray": "embed_ops.embedding.pipeline", "local": "embed_ops.embedding.local"}


def run_works(attempt: Attempt, engine: Engine, works: Sequence[Work], units: int, stop: StopRequest) -> None:
    """Run the works until none of their units is missing.

    Raises:
        StorageError, EngineError, Stopped: the run ended early; everything that is done is kept,
            and `run.json` says "stopped".
    """
    _Waves(attempt, engine, stop, Totals(units_expected=units)).run(works, units)


def retry_works(
    attempt: Attempt, engine: Engine, works: Sequence[Work], units: int, stop: StopRequest
) -> None:
    """Run works that read the rejects of units again, each of a unit that is done.

    Raises:
        StorageError, EngineError, Stopped: as `run_works`.
    """
    _RetryWaves(attempt, engine, stop, Totals(units_expected=units)).run(works, units)


def stopped(attempt: Attempt, why: str) -> EmbedOpsError:
    """Keep what is done, and say how to go on."""
    attempt.stop()
    done = len(attempt.stock().done)
    return Stopped(f"{why}. {done} units are done and kept; run the same command again to go on")


@dataclass
class _Waves:
    """The works of one attempt on their way."""

    attempt: Attempt
    engine: Engine
    stop: StopRequest
    totals: Totals
    gauges: Gauges | None = None
    failures: list[Failure] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    """Units that were written, or need not be."""

    def run(self, works: Sequence[Work], units: int) -> None:
        """Run all waves, and let `run.json` say so if they end early."""
        attempt = self.attempt
        chosen = attempt.resolved
        attempt.measured.spans_read += len(works)
        attempt.measured.replicas = replica_count(
            self.engine.capacity(),
            attempt.spec.resources,
            units,
            chosen.threads_per_replica,
            chosen.gpus_per_replica,
        )[1]
        try:
            self._run(works, units)
        except KeyboardInterrupt:
            raise stopped(attempt, "interrupted") from None
        except Stopped:
            raise
        except BaseException:
            attempt.stop()
            raise

    def _run(self, works: Sequence[Work], units: int) -> None:
        say = self.attempt.reporter.say
        left = self._together(works, works, units)
        if len(left) > _FEW:
            say(f"units of {len(left)} spans are missing because workers or nodes died; running them again")
            left = self._together(works, left, len(left))
        if left:
            say(
                f"units of {len(left)} spans are missing because workers died on them; looking for the "
                "rows at fault, each in a process"
            )
            left = self._apart(works, left)
        if left:
            raise stopped(
                self.attempt,
                f"units are missing, the first is {self._first_missing(left[0])}: their workers died "
                "each time",
            )

    def _together(self, works: Sequence[Work], now: Sequence[Work], units: int) -> Sequence[Work]:
        """Run some of the works on the pool, and list those that have not come back whole."""
        control, runner = self._control(), _runner_of(self.engine)
        left = self._wave(
            works, control, lambda: runner.run_units(self.engine, self.attempt.job, now, units, control)
        )
        if left and not self.totals.units and control.watch.pool.cause:
            self.attempt.reporter.say(f"no unit came through; the first cause: {control.watch.pool.cause}")
        return left

    def _apart(self, works: Sequence[Work], now: Sequence[Work]) -> Sequence[Work]:
        """Run some of the works in isolation, and list those that have not come back whole."""
        control, runner = self._control(), _runner_of(self.engine)
        return self._wave(
            works, control, lambda: runner.isolate_units(self.engine, self.attempt.job, now, control)
        )

    def _control(self) -> Control:
        """Make what steers one wave."""
        attempt = self.attempt
        self.gauges = self.gauges or self.engine.gauges(redacted(attempt.spec.sink.path))
        hang_seconds, replicas = attempt.spec.resources.hang_seconds, attempt.measured.replicas
        watch = Watch(hang_seconds, replicas, time.monotonic())
        return Control(self.stop, watch, self.gauges, under_way=self._show_under_way)

    def _show_under_way(self, inputs: int) -> None:
        """Show that units move, long before they are written."""
        if inputs != self.totals.under_way:
            self.totals.under_way = inputs
            self.attempt.reporter.update(self.totals)

    def _wave(
        self,
        works: Sequence[Work],
        control: Control,
        run: Callable[[], Generator[Outcome, None, None]],
    ) -> Sequence[Work]:
        """Take what a wave gives, and list the works that have not come back whole."""
        try:
            # Closed by hand: an error that ends the wave would keep the generator, and with it the
            # pool, alive.
            with closing(run()) as outcomes:
                self._take(outcomes)
        finally:
            self.attempt.measured.deaths += control.deaths
            self.attempt.journal.flush()
        self._raise_first_failure()
        left = self._left(works)
        if left and self.stop.asked:
            raise stopped(self.attempt, "stopped by a request (SIGTERM)")
        if left and self.attempt.job.late():
            raise stopped(self.attempt, "stopped in time, as asked")
        return left

    def _take(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Skipped):
                continue
            if isinstance(outcome, Failure):
                self._keep_failure(outcome)
                continue
            self.returned.add(outcome.unit)
            if isinstance(outcome, Written):
                record = self.attempt.take(outcome)
                self._count(record)
                if self.gauges is not None:
                    self.gauges.unit(record, outcome.forward.replica, outcome.forward.gemm, self.totals)
                self.attempt.reporter.update(self.totals)
                self._stop_on_rejects()

    def _keep_failure(self, failure: Failure) -> None:
        """Keep a failure until the wave is over, unless the others would meet it too."""
        for kind in (StorageError, ModelError, DeviceError):
            if failure.kind == kind.__name__:
                raise kind(failure.error)
        self.failures.append(failure)
        if not self.totals.units and len(self.failures) >= _ERRORS_BEFORE_ABORT:
            self._raise_first_failure()

    def _raise_first_failure(self) -> None:
        if self.failures:
            first = self.failures[0]
            none = "" if self.totals.units else " and none came through"
            raise stopped(
                self.attempt,
                f"{len(self.failures)} units failed{none}, the first ({first.unit}) with: "
                f"{first.error}\n{first.traceback}",
            )

    def _left(self, works: Sequence[Work]) -> Sequence[Work]:
        """List the works that have not come back whole: the records tell."""
        return self.attempt.stock().works

    def _first_missing(self, work: Work) -> str:
        return next(item for item in chain(work.span, self.attempt.records) if isinstance(item, str))

    def _count(self, record: Record) -> None:
        totals = self.totals
        totals.started = totals.started or record.seconds["started"]
        tokens = 0 if self.attempt.spec.source.modality in ("image", "tensor") else record.tokens
        totals.add(record.rows, tokens, record.rejects + record.file_rejects)

    def _stop_on_rejects(self) -> None:
        """Stop a job that burns its hours on rejects."""
        limit, totals = self.attempt.spec.abort_reject_fraction, self.totals
        share = totals.rejects / max(1, totals.rejects + totals.rows)
        if totals.units >= _UNITS_BEFORE_ABORT and share > limit:
            raise stopped(
                self.attempt,
                f"{share:.0%} of the rows are rejects, more than abort_reject_fraction = {limit}; see "
                "rejects/ for why",
            )


def _runner_of(engine: Engine) -> Any:
    """Give the module whose `run_units` and `isolate_units` are for this engine."""
    return importlib.import_module(_RUNNERS[engine.name])


class _RetryWaves(_Waves):
    """Works of units that are done: only what comes back tells which are left."""

    def _left(self, works: Sequence[Work]) -> Sequence[Work]:
        return [work for work in works if work.span.first_unit not in self.returned]

    def _first_missing(self, work: Work) -> str:
        return work.span.first_unit

    def _stop_on_rejects(self) -> None:
        """Go on: a retry is about rejects."""
