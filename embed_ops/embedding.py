"""The main job, seen from the driver: compare, check, run what is left, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from embed_ops import parity
from embed_ops.errors import EmbedOpsError, EngineError, RunError, SpecError, Stopped, StorageError
from embed_ops.filesystem import locate
from embed_ops.fingerprint import digest_of, fingerprint, require_same, resolve, resume
from embed_ops.job import Job, Resolved, Work
from embed_ops.ledger import Ledger, chain, take_stock
from embed_ops.plan import Plan
from embed_ops.progress import Reporter, Silent, Totals
from embed_ops.registry import make_encoder
from embed_ops.report import Measured, build, counts, reject_fraction
from embed_ops.run import Run
from embed_ops.run_dir import Record, RunDir, check_space, new_attempt
from embed_ops.sources.corpus import Corpus
from embed_ops.spec import Spec
from embed_ops.steps import peak_memory

_FLUSH_S = 10.0
_FLUSH_RECORDS = 1000
_UNITS_BEFORE_ABORT = 10

OpenSession = Callable[[], AbstractContextManager[None]]


def default_session() -> AbstractContextManager[None]:
    """Open a Ray of this machine's own, or the one that `RAY_ADDRESS` names."""
    from cluster.session import session

    return session()


@dataclass
class _Attempt:
    """One command on a run directory."""

    spec: Spec
    run: RunDir
    name: str
    began: float
    corpus: Corpus
    plan: Plan
    fingerprint: dict[str, Any]
    resolved: Resolved
    records: dict[str, Record]
    reporter: Reporter
    header: dict[str, Any]
    deadline: float | None
    measured: Measured = field(default_factory=Measured)
    unwritten: list[Record] = field(default_factory=list)
    flushed: float = 0.0

    @property
    def job(self) -> Job:
        """What workers are told."""
        digest = digest_of(self.fingerprint)
        roots = tuple(self.corpus.roots)
        return Job(self.spec, self.run.root, roots, self.plan.columns, self.resolved, digest, self.name, self.deadline)

    def stock(self) -> Ledger:
        """Compare the plan with what is done."""
        return take_stock(self.plan, self.records, self.spec.resources.unit_rows)

    def publish(self, status: str) -> None:
        """Write `run.json`, and the plan where it is new."""
        self.header["status"] = status
        self.header["finished"] = time.time() if status == "finished" else None
        self.run.write_json("run.json", self.header, self.name)

    def flush(self, *, now: bool) -> None:
        """Append the records that came in to the manifest, every few seconds or now."""
        due = time.monotonic() - self.flushed > _FLUSH_S or len(self.unwritten) >= _FLUSH_RECORDS
        if now or due:
            self.run.append_manifest(self.unwritten, self.name)
            self.unwritten.clear()
            self.flushed = time.monotonic()

    def take(self, result: dict[str, Any]) -> Record:
        """Keep the record of a unit that is done."""
        record = Record.parse(result)
        earlier = self.records.get(record.unit)
        if "retried" in record.flags and earlier is not None:
            record = _added(record, earlier)
        if self.measured.startup is None:
            self.measured.startup = record.seconds["started"] - self.began
        self.measured.add(record, result)
        self.records[record.unit] = record
        self.unwritten.append(record)
        self.flush(now=False)
        return record


def _added(record: Record, earlier: Record) -> Record:
    """Keep what was counted for the rows that were done before."""
    names = ("truncated", "inputs", "tokens", "positions", "flops")
    sums = {name: getattr(record, name) + getattr(earlier, name) for name in names}
    return replace(record, **sums, flags=sorted({*earlier.flags, *record.flags}))


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
    attempt = _open(spec, reporter or Silent(), stop_after_s)
    stock = attempt.stock()
    if stock.works:
        check_space(attempt.run.root, _space_needed(attempt, stock))
        with session():
            _check_parity(attempt)
            _start(attempt)
            _run(attempt, list(stock.works), stock.units_left)
    else:
        attempt.reporter.say("nothing is left to embed")
        if attempt.header["status"] != "finished":
            _start(attempt)
    return _finish(attempt)


def retry(path: str, *, session: OpenSession = default_session, reporter: Reporter | None = None, stop_after_s: float | None = None) -> Run:
    """Read the rejects of a run again, embed those that can be, and merge them back in source order.

    Raises:
        RunError: there is no finished run at `path`, or its source has changed.
        StorageError, Stopped: it ended early; the same call goes on.
    """
    from embed_ops.retry import retry_work

    attempt = _open(Run(path).spec, reporter or Silent(), stop_after_s)
    stock = attempt.stock()
    if stock.works:
        raise RunError(f"{path}: the run is not finished: about {stock.units_left} units are missing; run its `embed` command first")
    works = retry_work(attempt.run, attempt.plan, stock.done)
    if works:
        attempt.resolved = resume(path, attempt.header["resolved"], attempt.spec)
        with session():
            _check_parity(attempt)
            _start(attempt)
            _run(attempt, works, len(works), again=False)
    else:
        attempt.reporter.say("no rejects to retry")
    return _finish(attempt)


def _open(spec: Spec, reporter: Reporter, stop_after_s: float | None) -> _Attempt:
    """Compare the spec with the run directory and the corpus; only recovered records are written."""
    began, name = time.time(), new_attempt()
    run = RunDir(locate(spec.sink.path))
    header = run.read_header()
    encoder = make_encoder(spec.encoder)
    found = fingerprint(spec, encoder.fingerprint())
    if header is not None:
        require_same(spec.sink.path, header["fingerprint"], found)
    corpus = Corpus.open(spec.source)
    _require_apart(run, corpus)
    stale: tuple[str, ...] = ()
    records: dict[str, Record] = {}
    if header is None:
        plan, resolved = corpus.plan(), resolve(spec)
        header = {"spec": spec.model_dump(mode="json"), "fingerprint": found, "resolved": asdict(resolved)}
        header |= {"parent": None, "started": began, "finished": None, "status": "new", "attempts": []}
    else:
        plan, stale = corpus.update(run.read_plan(corpus.roots))
        records, broken = run.load_records(digest_of(found), name)
        if broken:
            reporter.say(f"{len(broken)} units are not as they were written and are embedded again: {', '.join(broken[:3])}")
        resolved = Resolved(**header["resolved"])
    deadline = None if stop_after_s is None else began + stop_after_s
    spec = _pinned(spec, encoder.describe().get("commit"))
    attempt = _Attempt(spec, run, name, began, corpus, plan, found, resolved, records, reporter, header, deadline)
    _drop_stale(attempt, set(stale))
    if header["attempts"] and attempt.stock().works:
        attempt.resolved = resume(spec.sink.path, header["resolved"], spec)
    return attempt


def _pinned(spec: Spec, commit: str | None) -> Spec:
    """Fix the model for all workers: a hub branch to its commit, a folder to its full path."""
    change = {"revision": commit} if commit else {"model": locate(spec.encoder.model).path}
    return spec.model_copy(update={"encoder": spec.encoder.model_copy(update=change)})


def _require_apart(run: RunDir, corpus: Corpus) -> None:
    """Refuse a run directory inside the source: its files would become source files of the next run."""
    for root in corpus.roots:
        if root.fs == run.root.fs and f"{run.root.path}/".startswith(f"{root.path.rstrip('/')}/"):
            if not any(part.startswith((".", "_")) for part in run.root.path[len(root.path) :].split("/")):
                raise SpecError(f"sink.path {run.root.path} lies inside the source {root.path}: choose a folder outside it")


def _drop_stale(attempt: _Attempt, stale: set[str]) -> None:
    """Remove the units of source files that have changed, then publish the new plan: a crash between leaves work, never lies."""
    for unit, record in list(attempt.records.items()):
        if any(part["source"] in stale for part in record.ranges):
            attempt.run.remove_unit(record, attempt.name)
            del attempt.records[unit]
    if stale:
        attempt.run.write_plan(attempt.plan, attempt.name)


def _space_needed(attempt: _Attempt, stock: Ledger) -> int:
    """Guess the bytes of the vectors still to come; unknown row counts are taken from the text at 200 bytes a row."""
    encoder = make_encoder(attempt.spec.encoder)
    width = sum(encoder.dim(name) for name in encoder.outputs()) * (4 if attempt.spec.sink.dtype == "float32" else 2)
    pieces = [piece for work in stock.works for piece in work.span.pieces]
    rows = stock.rows_left if stock.rows_left is not None else sum(piece.rows or piece.bytes // 200 for piece in pieces)
    return rows * width


def _check_parity(attempt: _Attempt) -> None:
    from embed_ops.pipeline import on_a_replica

    if attempt.spec.parity.rows == 0:
        attempt.header["model"] = make_encoder(attempt.spec.encoder).describe()
        return
    texts = attempt.corpus.head(attempt.plan, attempt.spec.parity.rows)
    attempt.reporter.say(f"comparing {len(texts)} rows with the reference")
    spec = attempt.spec
    measured = on_a_replica(spec.resources, parity.measure, spec.encoder, attempt.resolved, spec.parity, texts)
    parity.require(measured.found, spec.parity)
    attempt.resolved = replace(attempt.resolved, dtype=measured.dtype)
    attempt.measured.parity = [asdict(item) for item in measured.found]
    attempt.header |= {"model": measured.model, "resolved": asdict(attempt.resolved)}
    if measured.rates:
        attempt.header["dtype"] = {"rates": measured.rates, "refused": [asdict(item) for item in measured.refused]}
        attempt.reporter.say(f"computing in {measured.dtype}")


def _start(attempt: _Attempt) -> None:
    """Publish what the run is, before its first unit."""
    attempt.run.clean(attempt.records, attempt.name)
    attempt.run.write_plan(attempt.plan, attempt.name)
    attempt.header["attempts"].append({"attempt": attempt.name, "started": attempt.began})
    attempt.publish("running")


def _run(attempt: _Attempt, works: list[Work], units: int, *, again: bool = True) -> None:
    """Run the works; units that are missing afterwards, because a replica died on them, get one more wave."""
    errors: list[dict[str, Any]] = []
    totals = Totals(units_expected=units)
    attempt.measured.spans_read += len(works)
    attempt.measured.replicas = _replicas(attempt, units)
    try:
        for result in _results(attempt, works, units):
            if "error" in result:
                _take_error(result, errors)
                continue
            _count(totals, attempt.take(result))
            attempt.reporter.update(totals)
            _stop_on_rejects(attempt)
    except KeyboardInterrupt:
        raise _stopped(attempt, "interrupted") from None
    except (StorageError, EngineError):
        attempt.publish("stopped")
        raise
    finally:
        attempt.flush(now=True)
    stock = attempt.stock()
    if not stock.works and not errors:
        return
    if attempt.deadline is not None and time.time() > attempt.deadline:
        raise _stopped(attempt, "stopped in time, as asked")
    if errors:
        first = errors[0]
        raise _stopped(attempt, f"{len(errors)} units failed, the first ({first['unit']}) with: {first['error']}\n{first['traceback']}")
    if not again:
        raise _stopped(attempt, f"about {stock.units_left} units are missing, first {_first_missing(attempt)}: their workers died twice")
    attempt.reporter.say(f"about {stock.units_left} units are missing because a worker died; running them again")
    _run(attempt, list(stock.works), stock.units_left, again=False)


def _replicas(attempt: _Attempt, units: int) -> int:
    from embed_ops.pipeline import replica_count

    return replica_count(attempt.spec.resources, units)[1]


def _results(attempt: _Attempt, works: list[Work], units: int) -> Iterator[dict[str, Any]]:
    from embed_ops.pipeline import run_units

    return run_units(attempt.job, works, units)


def _take_error(result: dict[str, Any], errors: list[dict[str, Any]]) -> None:
    if result["kind"] == StorageError.__name__:
        raise StorageError(result["error"])
    errors.append(result)


def _first_missing(attempt: _Attempt) -> str:
    work = attempt.stock().works[0]
    return next(item for item in chain(work.span, attempt.records) if isinstance(item, str))


def _count(totals: Totals, record: Record) -> None:
    totals.started = totals.started or record.seconds["started"]
    totals.units += 1
    totals.rows += record.rows
    totals.tokens += record.tokens
    totals.rejects += record.rejects + record.file_rejects


def _stop_on_rejects(attempt: _Attempt) -> None:
    records = attempt.measured.records
    limit = attempt.spec.abort_reject_fraction
    if len(records) >= _UNITS_BEFORE_ABORT and (share := reject_fraction(records)) > limit:
        raise _stopped(attempt, f"{share:.0%} of the rows are rejects, more than abort_reject_fraction = {limit}; see rejects/ for why")


def _stopped(attempt: _Attempt, why: str) -> EmbedOpsError:
    attempt.flush(now=True)
    attempt.publish("stopped")
    done = len(attempt.stock().done)
    return Stopped(f"{why}. {done} units are done and kept; run the same command again to go on")


def _finish(attempt: _Attempt) -> Run:
    """Write the report and the final status."""
    attempt.measured.memory["driver"] = peak_memory()
    total = time.time() - attempt.began
    done = attempt.stock().done
    report = build(done, attempt.measured, total, asdict(attempt.resolved))
    if not attempt.measured.records and (earlier := attempt.run.read_json("report.json")):
        # Rates stay those of the latest attempt that embedded something.
        report = earlier | counts(done, attempt.measured)
        report["seconds"]["total"] = total
    attempt.run.write_json("report.json", report, attempt.name)
    if attempt.measured.records or attempt.header["status"] != "finished":
        figures = {name: report[name] for name in ("rows", "units", "units_skipped", "rows_per_second", "seconds")}
        attempt.header["attempts"][-1] |= {"finished": time.time(), **figures}
        attempt.publish("finished")
    attempt.run.remove_temporary(attempt.name)
    return Run(attempt.spec.sink.path)
