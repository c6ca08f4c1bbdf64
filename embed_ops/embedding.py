"""The main job, seen from the driver: compare, check, run what is left, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

from embed_ops.attempt import Attempt, open_attempt
from embed_ops.errors import EmbedOpsError, RunError, Stopped, StorageError
from embed_ops.fingerprint import choices, resume
from embed_ops.job import Work
from embed_ops.ledger import Ledger, chain
from embed_ops.parity import require
from embed_ops.progress import Reporter, Silent, Totals
from embed_ops.record import Record
from embed_ops.registry import make_encoder
from embed_ops.report import build, counts
from embed_ops.run import Run
from embed_ops.run_dir import check_space
from embed_ops.spec import Spec
from embed_ops.steps import peak_memory
from embed_ops.tuning import Planned, settle

_UNITS_BEFORE_ABORT = 10

OpenSession = Callable[[], AbstractContextManager[bool]]


def default_session() -> AbstractContextManager[bool]:
    """Open a Ray of this machine's own, or the one that `RAY_ADDRESS` names."""
    from cluster.session import session

    return session()


def embed(
    spec: Spec,
    *,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
    stop_after_s: float | None = None,
) -> Run:
    """Embed what is left of a corpus, and report.

    Args:
        spec: the run.
        session: opens the Ray session; called only when something is left to embed.
        reporter: shows progress; by default nothing is shown.
        stop_after_s: seconds after which no further unit is begun.

    Raises:
        SourceError, ModelError, RunError: the input is unusable; nothing was written.
        ParityError: the vectors differ from the reference; nothing was written.
        StorageError, Stopped: the run ended early; the same call goes on.
    """
    attempt = open_attempt(spec, reporter or Silent(), stop_after_s)
    stock = attempt.stock()
    if stock.works:
        check_space(attempt.run.root, _space_needed(attempt, stock))
        _work(attempt, session, stock.works, stock.units_left)
    else:
        attempt.reporter.say("nothing is left to embed")
        _start(attempt)
    return _finish(attempt, spec.sink.path)


def retry(path: str, *, session: OpenSession = default_session, reporter: Reporter | None = None, stop_after_s: float | None = None) -> Run:
    """Read the rejects of a run again, embed those that can be, and merge them back in source order.

    Raises:
        RunError: there is no finished run at `path`, or its source has changed.
        StorageError, Stopped: it ended early; the same call goes on.
    """
    from embed_ops.retry import retry_work

    spec = Run(path).spec
    here = {"source": spec.source.model_copy(update={"on_change": "error"}), "sink": spec.sink.model_copy(update={"path": path})}
    attempt = open_attempt(spec.model_copy(update=here), reporter or Silent(), stop_after_s)
    stock = attempt.stock()
    if stock.works:
        raise RunError(f"{path}: the run is not finished: about {stock.units_left} units are missing; run its `embed` command first")
    works = retry_work(attempt.run, attempt.plan, stock.done)
    if works:
        attempt.resolved = resume(path, attempt.header["resolved"], attempt.spec)
        _work(attempt, session, works, len(works))
    else:
        attempt.reporter.say("no rejects to retry")
        _start(attempt)
    return _finish(attempt, path)


def _work(attempt: Attempt, session: OpenSession, works: Sequence[Work], units: int) -> None:
    """Open a session, check what can be checked there, and run the works."""
    from embed_ops.pipeline import require_room, threads_for

    with session() as alone:
        if alone:
            require_room(attempt.spec.resources)
        if attempt.fresh:
            weights = make_encoder(attempt.spec.encoder).weight_bytes()
            attempt.resolved = replace(attempt.resolved, threads_per_replica=threads_for(attempt.spec.resources, units, weights))
        _settle(attempt, units)
        _start(attempt)
        _run(attempt, works, units)


def _space_needed(attempt: Attempt, stock: Ledger) -> int:
    """Guess the bytes of the vectors still to come; unknown row counts are taken from the text at 200 bytes a row."""
    encoder = make_encoder(attempt.spec.encoder)
    width = sum(encoder.dim(name) for name in encoder.outputs()) * (4 if attempt.spec.sink.dtype == "float32" else 2)
    pieces = [piece for work in stock.works for piece in work.span.pieces]
    rows = stock.rows_left if stock.rows_left is not None else sum(piece.rows or piece.bytes // 200 for piece in pieces)
    return rows * width


def _settle(attempt: Attempt, units: int) -> None:
    """Let a replica compare the first rows with the reference and, on a new run, choose what is "auto"."""
    from embed_ops.pipeline import on_a_replica

    spec = attempt.spec
    attempt.header["resolved"] = asdict(attempt.resolved)
    if spec.parity.rows == 0:
        attempt.header["model"] = make_encoder(spec.encoder).describe()
        return
    texts = attempt.corpus.head(attempt.plan, spec.parity.rows)
    attempt.reporter.say(f"comparing {len(texts)} rows with the reference")
    open_choices = choices(spec) if attempt.fresh else frozenset()
    stock = attempt.stock()
    planned = Planned(stock.rows_left, attempt.plan.bytes, _replicas(attempt, units))
    resolved = attempt.resolved
    found = on_a_replica(
        spec.resources, resolved.threads_per_replica, settle, spec.encoder, resolved, open_choices, spec.parity, texts, planned
    )
    require(found.found, spec.parity)
    attempt.resolved = found.resolved
    attempt.measured.parity = [asdict(item) for item in found.found]
    attempt.header |= {"model": found.model, "resolved": asdict(found.resolved)}
    if open_choices:
        attempt.header["measured"] = found.measured
        compiled = ", compiled" if found.resolved.compile else ""
        attempt.reporter.say(f"computing in {found.resolved.dtype}{compiled}, {found.resolved.token_budget} tokens at a time")
        if missing := found.measured.get("compile", {}).get("not tried"):
            attempt.reporter.say(f"not compiled: {missing}")


def _start(attempt: Attempt) -> None:
    """Publish what the run is, before its first unit.

    Stale outputs go before the new plan says so: a crash between leaves work, never lies.
    """
    attempt.header["attempts"].append({"attempt": attempt.name, "started": attempt.began})
    attempt.publish("running")
    if attempt.stale:
        attempt.run.remove_stale(attempt.stale, attempt.records, attempt.name)
    attempt.run.clean(attempt.records, attempt.name)
    attempt.run.write_plan(attempt.plan, attempt.name)


def _run(attempt: Attempt, works: Sequence[Work], units: int, *, again: bool = True) -> None:
    """Run the works; units that are missing afterwards, because a replica died on them, get one more wave."""
    errors: list[dict[str, Any]] = []
    returned: set[str] = set()
    totals = Totals(units_expected=units)
    attempt.measured.spans_read += len(works)
    attempt.measured.replicas = _replicas(attempt, units)
    try:
        for result in _results(attempt, works, units):
            if "error" in result:
                _take_error(result, errors)
                continue
            returned.add(result["unit"])
            if "unchanged" not in result:
                _count(totals, attempt.take(result))
                attempt.reporter.update(totals)
                _stop_on_rejects(attempt, totals, retrying=works[0].retry is not None)
    except KeyboardInterrupt:
        raise _stopped(attempt, "interrupted") from None
    except Stopped:
        raise
    except BaseException:
        attempt.publish("stopped")
        raise
    finally:
        attempt.flush(now=True)
    left = _left(attempt, works, returned)
    if errors:
        first = errors[0]
        raise _stopped(attempt, f"{len(errors)} units failed, the first ({first['unit']}) with: {first['error']}\n{first['traceback']}")
    if not left:
        return
    if attempt.job.late():
        raise _stopped(attempt, "stopped in time, as asked")
    if not again:
        raise _stopped(attempt, f"units are missing, first {_first_missing(attempt, left[0])}: their workers died twice")
    attempt.reporter.say(f"units of {len(left)} spans are missing because a worker died; running them again")
    _run(attempt, left, len(left), again=False)


def _left(attempt: Attempt, works: Sequence[Work], returned: set[str]) -> Sequence[Work]:
    """List the works that have not come back whole; a retry is of units that are done, so only the answers tell."""
    if works[0].retry is not None:
        return [work for work in works if work.span.first_unit not in returned]
    return attempt.stock().works


def _replicas(attempt: Attempt, units: int) -> int:
    from embed_ops.pipeline import replica_count

    return replica_count(attempt.spec.resources, units, attempt.resolved.threads_per_replica)[1]


def _results(attempt: Attempt, works: Sequence[Work], units: int) -> Iterator[dict[str, Any]]:
    from embed_ops.pipeline import run_units

    return run_units(attempt.job, works, units)


def _take_error(result: dict[str, Any], errors: list[dict[str, Any]]) -> None:
    if result["kind"] == StorageError.__name__:
        raise StorageError(result["error"])
    errors.append(result)


def _first_missing(attempt: Attempt, work: Work) -> str:
    missing = (item for item in chain(work.span, attempt.records) if isinstance(item, str))
    return work.span.first_unit if work.retry is not None else next(missing)


def _count(totals: Totals, record: Record) -> None:
    totals.started = totals.started or record.seconds["started"]
    totals.units += 1
    totals.rows += record.rows
    totals.tokens += record.tokens
    totals.rejects += record.rejects + record.file_rejects


def _stop_on_rejects(attempt: Attempt, totals: Totals, *, retrying: bool) -> None:
    """Stop a job that burns its hours on rejects; a retry is about rejects, and goes on."""
    limit = attempt.spec.abort_reject_fraction
    share = totals.rejects / max(1, totals.rejects + totals.rows)
    if not retrying and totals.units >= _UNITS_BEFORE_ABORT and share > limit:
        raise _stopped(attempt, f"{share:.0%} of the rows are rejects, more than abort_reject_fraction = {limit}; see rejects/ for why")


def _stopped(attempt: Attempt, why: str) -> EmbedOpsError:
    attempt.flush(now=True)
    attempt.publish("stopped")
    done = len(attempt.stock().done)
    return Stopped(f"{why}. {done} units are done and kept; run the same command again to go on")


def _finish(attempt: Attempt, path: str) -> Run:
    """Write the report and the final status; the run is named as the user named it."""
    attempt.measured.memory["driver"] = peak_memory()
    total = time.time() - attempt.began
    done = attempt.stock().done
    report = build(done, attempt.measured, total, asdict(attempt.resolved))
    if not attempt.measured.records and (earlier := attempt.run.read_json("report.json")):
        # Rates stay those of the latest attempt that embedded something.
        report = earlier | counts(done, attempt.measured)
        report["seconds"]["total"] = total
    attempt.run.write_json("report.json", report, attempt.name)
    figures = {name: report[name] for name in ("rows", "units", "units_skipped", "rows_per_second", "seconds")}
    attempt.header["attempts"][-1] |= {"finished": time.time(), **figures}
    attempt.publish("finished")
    attempt.run.remove_temporary(attempt.name)
    return Run(path)
