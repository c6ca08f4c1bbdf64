"""Waves: all units at once, those that are missing once more, and the last few in isolation, until none is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embed_ops.embedding.attempt import Attempt
from embed_ops.engine.progress import Totals
from embed_ops.engine.stopping import StopRequest
from embed_ops.engine.watch import Watch
from embed_ops.errors import EmbedOpsError, ModelError, Stopped, StorageError
from embed_ops.runs.ledger import chain
from embed_ops.runs.record import Record
from embed_ops.runs.work import Work

if TYPE_CHECKING:
    from embed_ops.engine.metrics import Metrics

_UNITS_BEFORE_ABORT = 10
_ERRORS_BEFORE_ABORT = 10
"""Units that may fail in a row before any has come through: where so many do, the next thousand
would too."""
_FEW = 8
"""Spans with missing units that go to isolation at once: rows that kill are rare, lost nodes lose
many units."""


def run_works(attempt: Attempt, works: Sequence[Work], units: int, stop: StopRequest) -> None:
    """Run the works until none of their units is missing.

    Raises:
        StorageError, EngineError, Stopped: the run ended early; everything that is done is kept,
            and `run.json` says "stopped".
    """
    from embed_ops.embedding.resources import replica_count

    attempt.measured.spans_read += len(works)
    attempt.measured.replicas = replica_count(
        attempt.spec.resources, units, attempt.resolved.threads_per_replica
    )[1]
    try:
        _Waves(attempt, stop, Totals(units_expected=units)).run(works, units)
    except KeyboardInterrupt:
        raise stopped(attempt, "interrupted") from None
    except Stopped:
        raise
    except BaseException:
        attempt.stop()
        raise


def stopped(attempt: Attempt, why: str) -> EmbedOpsError:
    """Keep what is done, and say how to go on."""
    attempt.stop()
    done = len(attempt.stock().done)
    return Stopped(f"{why}. {done} units are done and kept; run the same command again to go on")


@dataclass
class _Waves:
    """The works of one attempt on their way."""

    attempt: Attempt
    stop: StopRequest
    totals: Totals
    metrics: Metrics | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)

    def run(self, works: Sequence[Work], units: int) -> None:
        say = self.attempt.reporter.say
        left = self._wave(works, works, units)
        if len(left) > _FEW:
            say(f"units of {len(left)} spans are missing because workers or nodes died; running them again")
            left = self._wave(works, left, len(left))
        if left:
            say(
                f"units of {len(left)} spans are missing because workers died on them; looking for the "
                "rows at fault, each in a process"
            )
            left = self._wave(works, left, 0)
        if left:
            raise stopped(
                self.attempt,
                f"units are missing, the first is {self._first_missing(left[0])}: their workers died "
                "each time",
            )

    def _wave(self, works: Sequence[Work], now: Sequence[Work], units: int) -> Sequence[Work]:
        """Run some works, in isolation if `units` is 0, and list those that have not come back whole."""
        from embed_ops.embedding.pipeline import isolate_units, run_units
        from embed_ops.engine.lookout import Control
        from embed_ops.engine.metrics import Metrics

        watch = Watch(
            self.attempt.spec.resources.hang_seconds, self.attempt.measured.replicas, time.monotonic()
        )
        self.metrics = self.metrics or Metrics(self.attempt.spec.sink.path)
        control = Control(self.stop, watch, self.metrics)
        job = self.attempt.job
        try:
            # Closed by hand: an error that ends the wave would keep the generator, and with it the
            # pool, alive.
            with closing(
                run_units(job, now, units, control) if units else isolate_units(job, now, control)
            ) as results:
                self._take(results, retrying=works[0].retry is not None)
        finally:
            self.attempt.measured.deaths += control.deaths
            self.attempt.journal.flush()
        self._raise_first_error()
        left = self._left(works)
        if left and self.stop.asked:
            raise stopped(self.attempt, "stopped by a request (SIGTERM)")
        if left and job.late():
            raise stopped(self.attempt, "stopped in time, as asked")
        if left and not self.totals.units and control.watch.pool.cause and units:
            self.attempt.reporter.say(f"no unit came through; the first cause: {control.watch.pool.cause}")
        return left

    def _take(self, results: Iterator[dict[str, Any]], *, retrying: bool) -> None:
        attempt, totals = self.attempt, self.totals
        for result in results:
            if "skipped" in result:
                continue
            if "error" in result:
                for kind in (StorageError, ModelError):
                    if result["kind"] == kind.__name__:
                        raise kind(result["error"])
                self.errors.append(result)
                if not totals.units and len(self.errors) >= _ERRORS_BEFORE_ABORT:
                    self._raise_first_error()
                continue
            self.returned.add(result["unit"])
            if "unchanged" not in result:
                record = attempt.take(result)
                self._count(record)
                if self.metrics is not None:
                    self.metrics.unit(record, result, totals)
                attempt.reporter.update(totals)
                if not retrying:
                    self._stop_on_rejects()

    def _raise_first_error(self) -> None:
        if self.errors:
            first = self.errors[0]
            none = "" if self.totals.units else " and none came through"
            raise stopped(
                self.attempt,
                f"{len(self.errors)} units failed{none}, the first ({first['unit']}) with: "
                f"{first['error']}\n{first['traceback']}",
            )

    def _left(self, works: Sequence[Work]) -> Sequence[Work]:
        """List the works that have not come back whole.

        A retry is of units that are done, so only the answers tell.
        """
        if works[0].retry is not None:
            return [work for work in works if work.span.first_unit not in self.returned]
        return self.attempt.stock().works

    def _first_missing(self, work: Work) -> str:
        missing = (item for item in chain(work.span, self.attempt.records) if isinstance(item, str))
        return work.span.first_unit if work.retry is not None else next(missing)

    def _count(self, record: Record) -> None:
        totals = self.totals
        totals.started = totals.started or record.seconds["started"]
        totals.units += 1
        totals.rows += record.rows
        totals.tokens += record.tokens
        totals.rejects += record.rejects + record.file_rejects

    def _stop_on_rejects(self) -> None:
        """Stop a job that burns its hours on rejects; a retry is about rejects, and goes on."""
        limit, totals = self.attempt.spec.abort_reject_fraction, self.totals
        share = totals.rejects / max(1, totals.rejects + totals.rows)
        if totals.units >= _UNITS_BEFORE_ABORT and share > limit:
            raise stopped(
                self.attempt,
                f"{share:.0%} of the rows are rejects, more than abort_reject_fraction = {limit}; see "
                "rejects/ for why",
            )
