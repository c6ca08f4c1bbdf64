"""Stages over a finished run, seen from the driver.

Compare, fit what is not fitted, apply to what is left, report.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from embed_ops.engine.base import Capacity, Claim, Engine
from embed_ops.engine.choice import Planned, Wanted
from embed_ops.engine.memory import peak_memory
from embed_ops.engine.progress import Reporter, Totals, shown_to
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.engine.stopping import StopRequest, restored_sigterm
from embed_ops.errors import EmbedOpsError, RunError, SpecError, Stopped
from embed_ops.postprocessing.asked import Asked, asked_stages, require_fitting
from embed_ops.postprocessing.clusters import write_by_cluster
from embed_ops.postprocessing.fold import begin_fit, run_fit
from embed_ops.postprocessing.stage_run import StageRun, open_stage
from embed_ops.postprocessing.units import measure, model_calls
from embed_ops.postprocessing.whole_run import WholeRun, whole_run
from embed_ops.runs.header import Fit
from embed_ops.runs.models import write_model
from embed_ops.runs.rows import RunRows
from embed_ops.runs.run import Run
from embed_ops.runs.statistics import report_of
from embed_ops.spec.spec import Spec
from embed_ops.spec.stage import StageSpec
from embed_ops.stages.base import FitInput, MeasuredModel
from embed_ops.stages.registry import fitted_by_rounds, make_stage


def postprocess(
    run: Spec | str,
    stages: Sequence[StageSpec] = (),
    *,
    output: str | None = None,
    model: str | None = None,
    any_space: bool = False,
    refit: bool = False,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
    progress: bool | None = None,
    stop_after_s: float | None = None,
    stop: StopRequest | None = None,
) -> list[Run]:
    """Run stages over a finished run, each into a run directory of its own.

    One that is finished is left as it is.

    Args:
        run: a spec, whose `[[stage]]` list is run over its `sink.path`; or the address of a run.
        stages: what to run, where `run` is an address.
        output: run directory of a single stage, by default `<run>/stages/<name>`.
        model: the run of a stage whose model is applied instead of fitting one; for a single stage.
        any_space: apply a model, or a probe, though it was fitted on vectors of another model.
        refit: delete what earlier commands have made and begin anew.
        session: opens the engine; called only when something is left to do.
        reporter: shows progress.
        progress: where there is no reporter, show it; by default on a terminal and in a notebook.
        stop_after_s: seconds after which nothing further is begun.
        stop: asks to stop early; by default one that SIGTERM asks.

    Raises:
        RunError, StageError: an input is unusable, or a run directory is of another stage; nothing
            was written there.
        StorageError, EngineError, Stopped: ended early; the same call goes on.
    """
    root = run.sink.path if isinstance(run, Spec) else run
    wanted = run.stage if isinstance(run, Spec) else tuple(stages)
    asked = asked_stages(
        root, wanted, run.seed if isinstance(run, Spec) else 0, output, model, any_space=any_space
    )
    if len(asked) > 1:
        require_fitting(root, wanted)
    deadline = None if stop_after_s is None else time.time() + stop_after_s
    with restored_sigterm(), shown_to(reporter, progress) as shown, ExitStack() as open_session:
        stop = stop or StopRequest()
        stop.listen()
        on: Wanted = run.resources.engine if isinstance(run, Spec) else "auto"
        command = _Command(asked, shown, stop, deadline, session, open_session, on)
        return [command.run_stage(number, refit=refit) for number in range(len(asked))]


class _Command:
    """The stages of one command."""

    def __init__(
        self,
        asked: Sequence[Asked],
        reporter: Reporter,
        stop: StopRequest,
        deadline: float | None,
        session: OpenSession,
        open_session: ExitStack,
        wanted: Wanted,
    ) -> None:
        self._asked = asked
        self._reporter = reporter
        self._kernels: set[str] = set()
        self._stop = stop
        self._deadline = deadline
        self._session = session
        self._open_session = open_session
        self._wanted = wanted
        self._engine: Engine | None = None

    def run_stage(self, number: int, *, refit: bool) -> Run:
        """Run one stage to its end; others that read the same rows share its passes over them."""
        here = open_stage(self._asked[number], refit=refit)
        asked = here.asked
        if here.finished:
            self._reporter.say(f"{asked.spec.folder}: nothing is left to do")
            return Run(asked.path)
        if here.stale:
            self._reporter.say(_stale(here))
        with ExitStack() as hearts:
            hearts.enter_context(here.heartbeat)
            whole = whole_run(asked.spec)
            # What is refused is refused before an engine is started for it.
            start = _first_state(here) if here.model is None and whole is None else None
            opened = self._open(here.rows)
            engine = opened.claiming(_claim(asked.spec, opened.capacity()))
            here.publish_start()
            try:
                if here.model is None and whole is None:
                    self._fit(here, start, self._companions(number, here, hearts), engine)
                elif here.model is None and whole is not None:
                    self._reporter.doing(f"{asked.spec.folder}: going over {here.rows.rows:,} rows")
                    _prepare(here, whole, engine)
                self._apply(here, whole, engine)
                self._reporter.doing(f"measuring {asked.spec.folder}")
                if getattr(asked.spec, "by_cluster", False):
                    here.written |= write_by_cluster(here.job, here.rows, engine)
                _finish(here, engine)
            except KeyboardInterrupt:
                raise self._stopped(here, "interrupted; run the same command again to go on") from None
            except Stopped as error:
                raise self._stopped(here, str(error)) from None
            except BaseException:
                self._stopped(here, "")
                raise
        return Run(asked.path)

    def _open(self, rows: RunRows) -> Engine:
        """Open the session where there is none yet."""
        if self._engine is None:
            size, say = sum(record.bytes for record in rows.records), self._reporter.doing
            planned = Planned(rows.rows, size, self._wanted, say)
            opened = self._open_session.enter_context(self._session(planned))
            # A session that opens may take SIGTERM for itself.
            self._stop.listen()
            self._engine = opened.until(self._stop, self._deadline)
        return self._engine

    def _companions(self, number: int, here: StageRun, hearts: ExitStack) -> list[tuple[StageRun, Any]]:
        """Open the later stages that read the same vectors and are not fitted yet.

        Each with its first state.
        """
        companions = []
        for asked in self._asked[number + 1 :]:
            if asked.input != here.asked.input or not fitted_by_rounds(asked.spec):
                continue
            other = open_stage(asked)
            if other.model is None and not other.finished and other.job.vectors == here.job.vectors:
                start = _first_state(other)
                hearts.enter_context(other.heartbeat)
                other.publish_start()
                other.publish("stopped")
                companions.append((other, start))
        return companions

    def _fit(
        self, here: StageRun, start: Any, companions: Sequence[tuple[StageRun, Any]], engine: Engine
    ) -> None:
        clock = time.time()
        fits = [
            begin_fit(run.job, run.rows, make_stage(run.job.spec), state)
            for run, state in [(here, start), *companions]
        ]
        here.model = run_fit(fits[0], fits[1:], engine, self._reporter)
        here.header = replace(here.header, fit=Fit(time.time() - clock, fits[0].progress.rounds))
        # Of all fits: a companion finds later what was read for it now.
        self._kernels |= {kernel for fit in fits for kernel in fit.kernels}
        if fits[0].progress.rounds:
            # What the model's last bits depend on beside the rows, the spec and the versions.
            kernels = sorted({*here.header.resolved.get("kernels", ()), *self._kernels})
            here.header = replace(here.header, resolved={**here.header.resolved, "kernels": kernels})
        write_model(here.run.root, here.model, here.job.attempt)

    def _apply(self, here: StageRun, whole: WholeRun | None, engine: Engine) -> None:
        self._reporter.doing(f"applying {here.asked.spec.folder} to {here.rows.rows:,} rows")
        totals = Totals(units_expected=len(here.rows.records) - here.skipped, started=time.time())
        if here.asked.model is not None:
            write_model(here.run.root, here.model, here.job.attempt)
        calls_of = model_calls if whole is None else whole.unit_calls
        units = calls_of(here.job, here.rows, here.model, here.done, engine)
        for _, written in engine.each(units.function, units.calls):
            record = here.take(written)
            totals.add(record.rows)
            self._reporter.update(totals)

    def _stopped(self, here: StageRun, why: str) -> EmbedOpsError:
        here.stop()
        return Stopped(f"{here.asked.spec.folder}: {why}")


def _stale(here: StageRun) -> str:
    """Say that the input has changed, and what that means."""
    older = "; its model is of the earlier state: --refit fits anew" if here.older_model else ""
    return f"{here.asked.spec.folder}: {len(here.stale)} units of its input have changed{older}"


def _claim(spec: StageSpec, capacity: Capacity) -> Claim:
    """Say what a worker of a stage takes.

    Raises:
        SpecError: no worker will ever fit.
    """
    gpus = spec.gpus_per_worker
    if gpus > capacity.devices and not capacity.elastic:
        raise SpecError(
            f"{spec.folder}: gpus_per_worker: a worker needs {gpus:g} GPU, and this machine has "
            f"{capacity.devices:g}; leave it out to compute on CPUs: labels and neighbours are the same"
        )
    return Claim(devices=gpus)


def _first_state(here: StageRun) -> Any:
    """Check what a stage is asked for against its input, and give the first state of its fit."""
    return make_stage(here.job.spec).start(FitInput(here.rows.rows, here.job.vectors.dim, here.job.seed))


def _prepare(here: StageRun, whole: WholeRun, engine: Engine) -> None:
    """Do what a stage over a whole run does before its first unit."""
    clock = time.time()
    here.model = whole.prepare(here.job, here.rows, engine)
    here.header = replace(here.header, fit=Fit(time.time() - clock, 1))
    write_model(here.run.root, here.model, here.job.attempt)


def _finish(here: StageRun, engine: Engine) -> None:
    """Write the report and the final status, and delete what is not needed any more.

    Raises:
        RunError: the input has changed meanwhile.
    """
    here.journal.flush()
    if RunRows(here.rows.root).content != here.rows.content:
        raise RunError(
            f"{here.rows.root.path}: has changed while {here.asked.spec.folder} was computed from it; run "
            "the same command again: it goes on from what has changed"
        )
    written = [
        record for record in here.records.values() if record.attempt == here.job.attempt and record.seconds
    ]
    steady = (
        max(r.seconds["finished"] for r in written) - min(r.seconds["started"] for r in written)
        if written
        else 0.0
    )
    fit = here.header.fit
    report = {
        "kind": here.asked.spec.kind,
        "rows": here.rows.rows,
        "units": len(here.rows.records),
        "units_skipped": here.skipped,
        "seconds": {
            "total": time.time() - here.began,
            "steady": steady,
            "fit": fit.seconds if fit else None,
        },
        "rounds": fit.rounds if fit else 0,
        "rows_per_second": sum(record.rows for record in written) / steady if steady else None,
        "model": here.model.report(),
        "model_of_earlier_input": here.older_model,
        "quality": _quality(here, engine),
        "statistics": report_of(here.run.manifest.statistics(), here.rows.rows),
        "peak_memory": {"driver": peak_memory(), "worker": engine.memory},
        "resolved": here.header.resolved,
        "spec": here.header.spec,
    }
    here.finish(report)
    here.clear_work()


def _quality(here: StageRun, engine: Engine) -> dict[str, Any]:
    """Ask how good the model is, where its columns tell."""
    if not isinstance(here.model, MeasuredModel):
        return {}
    summary = measure(here.job, here.rows, here.model, here.label, engine)
    return {} if summary is None else here.model.quality(summary)
