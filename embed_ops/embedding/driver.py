"""The main job, seen from the driver: compare, check, run what is left, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from embed_ops.embedding.attempt import Attempt, open_attempt
from embed_ops.embedding.checks import require_space
from embed_ops.embedding.machine import command, machine
from embed_ops.embedding.report import build_report, count_units, left_out
from embed_ops.embedding.settings import resume
from embed_ops.embedding.settling import settle_attempt
from embed_ops.embedding.waves import retry_works, run_works
from embed_ops.encoders.registry import make_encoder
from embed_ops.engine.base import Engine
from embed_ops.engine.choice import ENGINES, Planned
from embed_ops.engine.memory import peak_memory
from embed_ops.engine.progress import Reporter, shown_to
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.engine.stopping import StopRequest, restored_sigterm
from embed_ops.errors import RunError, Stopped
from embed_ops.runs.header import FINISHED, RUNNING
from embed_ops.runs.run import Run, require_trust
from embed_ops.runs.statistics import report_of
from embed_ops.runs.work import Work
from embed_ops.schema import GRAPH
from embed_ops.sources.corpus import open_edges
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import remove_folder

RunWorks = Callable[[Attempt, Engine, Sequence[Work], int, StopRequest], None]

GRAPH_WORK = "work/graph"


def embed(
    spec: Spec | Mapping[str, Any],
    *,
    data: Any = None,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
    progress: bool | None = None,
    stop_after_s: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Embed what is left of a corpus, and report.

    Args:
        spec: the run; its tree will do.
        data: rows in memory: a pandas, Polars or Arrow table, or a dict of columns. They go beside
            the run, to `<sink.path>-data`, and are read from there.
        session: opens the engine; called only when something is left to embed.
        reporter: shows progress.
        progress: where there is no reporter, show it; by default on a terminal and in a notebook.
        stop_after_s: seconds after which no further unit is begun.
        stop: asks the job to stop early; by default one that SIGTERM asks.

    Raises:
        SourceError, ModelError, RunError: the input is unusable; nothing was written.
        ParityError: the vectors differ from the reference; nothing was written.
        StorageError, Stopped: the run ended early; the same call goes on.
    """
    if data is not None:
        from embed_ops.embedding.frame import with_frame

        spec = with_frame(spec, data)
    spec = spec if isinstance(spec, Spec) else Spec.parse(spec)
    with restored_sigterm(), shown_to(reporter, progress) as shown:
        stop = stop or StopRequest()
        stop.listen()
        attempt = open_attempt(spec, shown, stop_after_s)
        stock = attempt.stock()
        with attempt.heartbeat:
            if stock.works:
                require_space(attempt.spec, attempt.run, stock)
                _work(attempt, session, run_works, stock.works, stock.units_left, stop)
            else:
                attempt.reporter.say("nothing is left to embed")
                _start(attempt, attempt.header.status)
            return _finish(attempt, spec.sink.path)


def retry(
    path: str,
    *,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
    progress: bool | None = None,
    stop_after_s: float | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Read the rejects of a run again and embed those that can be.

    They are merged with the rows of their units, in source order. Arguments as of `embed`.

    Raises:
        RunError: there is no finished run at `path`, or its source has changed.
        StorageError, Stopped: it ended early; the same call goes on.
    """
    from embed_ops.embedding.retry import retry_work

    spec = require_trust(Run(path).spec, path)
    if spec.source.kind == GRAPH:
        raise RunError(
            f"{path}: a node that comes back changes the vectors of its neighbours: mend the tables and "
            "embed them to another sink.path"
        )
    here = {
        "source": spec.source.strict(),
        "sink": spec.sink.model_copy(update={"path": path}),
    }
    with restored_sigterm(), shown_to(reporter, progress) as shown:
        stop = stop or StopRequest()
        stop.listen()
        attempt = open_attempt(spec.model_copy(update=here), shown, stop_after_s)
        stock = attempt.stock()
        if stock.works:
            raise RunError(
                f"{path}: the run is not finished: about {stock.units_left} units are missing; run its "
                "`embed` command first"
            )
        works = retry_work(attempt.run, attempt.plan, stock.done)
        with attempt.heartbeat:
            if works:
                attempt.resolved = resume(path, attempt.header.resolved, attempt.spec)
                _work(attempt, session, retry_works, works, len(works), stop)
            else:
                attempt.reporter.say("no rejects to retry")
                _start(attempt, attempt.header.status)
            return _finish(attempt, path)


def _work(
    attempt: Attempt,
    session: OpenSession,
    run: RunWorks,
    works: Sequence[Work],
    units: int,
    stop: StopRequest,
) -> None:
    """Open a session, check what can be checked there, and run the works."""
    with session(_planned(attempt, works)) as opened:
        engine = opened.until(stop, attempt.deadline)
        attempt.reporter.say(f"on {ENGINES[engine.name]} ({engine.why})")
        # A session that opens may take SIGTERM for itself.
        stop.listen()
        if attempt.spec.source.kind == GRAPH:
            from embed_ops.embedding.graph.run import run_graph

            model = make_encoder(attempt.spec.encoder).describe()
            attempt.header = replace(attempt.header, model=model)
            _start(attempt)
            run_graph(attempt, engine)
            return
        attempt.share_machine(engine.capacity(), units)
        settle_attempt(attempt, engine, units)
        if stop.asked:
            raise Stopped(
                "stopped by a request (SIGTERM) before the first unit; run the same command again to go on"
            )
        _start(attempt)
        attempt.reporter.doing(
            "loading the model into its workers", f"about {units:,} {'unit' if units == 1 else 'units'} to do"
        )
        run(attempt, engine, works, units, stop)
        attempt.reporter.doing("writing the report")


def _planned(attempt: Attempt, works: Sequence[Work]) -> Planned:
    """Say how much is to do, for the choice of an engine."""
    pieces = [piece for work in works for piece in work.span.pieces]
    rows = [piece.rows for piece in pieces]
    known = [count for count in rows if count is not None]
    size = sum(piece.bytes for piece in pieces)
    if isinstance(attempt.spec.source, GraphSourceSpec):
        # Edges are most of a graph.
        size += sum(file.size for file in open_edges(attempt.spec.source).files)
    wanted, say = attempt.spec.resources.engine, attempt.reporter.doing
    return Planned(sum(known) if len(known) == len(rows) else None, size, wanted, say)


def _start(attempt: Attempt, status: str = RUNNING) -> None:
    """Publish what the run is, before its first unit.

    Stale outputs go before the new plan says so: a crash between leaves work, never lies.
    """

    def remove_stale() -> None:
        if attempt.stale:
            attempt.run.remove_stale(attempt.stale, attempt.records, attempt.name)

    attempt.begin(attempt.plan, remove_stale, FINISHED if status == FINISHED else RUNNING)


def _earlier_report(attempt: Attempt) -> dict[str, Any] | None:
    """Read the report of the attempt before; a damaged one is written anew."""
    try:
        return attempt.run.read_json("report.json")
    except RunError as error:
        attempt.reporter.say(str(error))
        return None


def _finish(attempt: Attempt, path: str) -> Run:
    """Write the report and the final status; the run is named as the user named it."""
    attempt.measured.memory["driver"] = peak_memory()
    total = time.time() - attempt.began
    done = attempt.stock().done
    report = build_report(done, attempt.measured, total, asdict(attempt.resolved))
    if not attempt.measured.records and (earlier := _earlier_report(attempt)):
        # Rates stay those of the latest attempt that embedded something.
        report = earlier | count_units(done, attempt.measured)
        report["seconds"]["total"] = total
    report["left_out"] = left_out(attempt.corpus)
    report["modality"] = attempt.spec.source.modality
    # Those of the attempt before stay where this one embedded nothing.
    report = {"machine": machine(), "command": command()} | report
    report["statistics"] = report_of(attempt.run.manifest.statistics(), report["rows"])
    figures = {
        name: report[name] for name in ("rows", "units", "units_skipped", "rows_per_second", "seconds")
    }
    attempt.finish(report, figures)
    attempt.run.remove_unnamed_rejects(done)
    remove_folder(attempt.run.root, GRAPH_WORK)
    return Run(path)
