"""Isolation: finds the rows on which worker processes die or hang, and embeds everything else of their unit.

A unit whose workers died is embedded once more in a child process that says what it is about to do.
Where the child dies, or does not go on in time, the suspects are what it said last; a new child
tries halves of them until one row is left (bisection). That row becomes a reject. Batches stay as
planned: a suspect is replaced by a blank input of its length, so every other row keeps its bytes.
Plain processes, no Ray.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import signal
import time
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

import pyarrow as pa

from embed_ops.embedding.batching import token_batches
from embed_ops.embedding.forward import Embedded, embed_inputs
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import failure
from embed_ops.embedding.steps import Replica, parts_of, prepare_unit, units_of, write_unit
from embed_ops.errors import EngineError
from embed_ops.runs.record import ISOLATED
from embed_ops.runs.work import Work
from embed_ops.schema import CONTENT, MESSAGE, REASON, Reason
from embed_ops.sources.units import Unit, UnitEnd

MOST_DEATHS = 200
"""Children that one unit may cost: where so many die, it is not a row that is at fault."""
_NARROWED = ("prepare", "row", "batch", "trial")
"""Stages of which it can be told which row is at fault."""
_SPARE_DEATHS = 3
_STEP_PATIENCE_S = 300.0
"""Least patience with steps that are no row's fault: reading, loading the model, writing."""
_TRIAL_PATIENCE_S = 30.0
"""Least patience with a trial, once it is known how long a batch takes."""
_ORPHAN_S = 60
"""Seconds beyond its parent's patience after which a child ends itself: its parent is gone."""
_PRELOADED = [
    "embed_ops.embedding.isolation",
    "torch",
    "transformers.models.auto.modeling_auto",
    "pyarrow.parquet",
]
"""What the server that children are forked from imports: each child then starts in a moment.
Nothing of it starts a thread."""
_BLAMED = {
    Reason.CRASHED: "the worker process dies when it tokenizes or decodes this row",
    Reason.HUNG: "tokenizing or decoding this row does not end",
}


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

    def patience(self, stage: str, hang_seconds: int) -> float:
        """Give the seconds after which a child that is at a stage and says nothing is taken for hung."""
        if stage not in _NARROWED:
            return max(_STEP_PATIENCE_S, hang_seconds)
        if stage == "trial" and self.longest:
            return min(float(hang_seconds), max(_TRIAL_PATIENCE_S, 10 * self.longest))
        return float(hang_seconds)


@dataclass(frozen=True)
class Death:
    """How a child ended: what it had said last, and how it died."""

    stage: str
    suspects: list[int]
    reason: Reason
    how: str


def isolate(job: Job, text: str) -> list[dict[str, Any]]:
    """Embed the units that a work lacks, one after the other, each in child processes.

    Returns:
        the record of each unit, or the failure that ended it.
    """
    work = Work.load(text)
    results: list[dict[str, Any]] = []
    while not job.late():
        result = embed_unit(job, work)
        if result is None:
            break
        results.append(result)
        if "error" in result or work.retry is not None:
            break
        end = UnitEnd(result["next_source"], result["next_position"])
        work = replace(work, done={**work.done, result["unit"]: end})
    return results


def embed_unit(job: Job, work: Work) -> dict[str, Any] | None:
    """Embed the first unit that a work lacks; None if it lacks none."""
    findings = Findings()
    blamed: set[tuple[int, ...]] = set()
    hopeless = MOST_DEATHS
    for _ in range(MOST_DEATHS):
        ending = _run_child(job, work, findings)
        if not isinstance(ending, Death):
            return ending
        if ending.stage not in _NARROWED or (ending.stage == "prepare" and findings.careful):
            return failure(
                EngineError(f"a worker process {ending.how} at this step: {ending.stage}"),
                work.span.first_unit,
            )
        if ending.stage in ("batch", "trial") and findings.inputs.keys() >= set(ending.suspects):
            return failure(
                EngineError(f"a worker process {ending.how} though its rows were left out"),
                work.span.first_unit,
            )
        if findings.fruitless == 0 and not findings.longest:
            # A single bad row lets one half or the other through before so many deaths.
            hopeless = len(ending.suspects).bit_length() + _SPARE_DEATHS
        findings.fruitless += 1
        if findings.fruitless > hopeless:
            return failure(
                EngineError(f"every row that was tried ends its worker process, which {ending.how}"),
                work.span.first_unit,
            )
        learn(findings, ending, blamed)
    return failure(
        EngineError(f"{MOST_DEATHS} worker processes died on one unit: it is hardly its rows"),
        work.span.first_unit,
    )


def learn(findings: Findings, death: Death, blamed: set[tuple[int, ...]]) -> None:
    """Narrow the suspects down; `blamed` keeps the groups that have been halved already."""
    if death.stage == "prepare":
        findings.careful = True
    elif death.stage == "row":
        findings.rows[death.suspects[0]] = death.reason
    else:
        suspects = [place for place in death.suspects if place not in findings.inputs]
        if death.stage == "trial":
            findings.trials.popleft()
        # Suspects that kill together but not apart are refused together, the second time.
        if len(suspects) == 1 or (death.stage == "batch" and tuple(suspects) in blamed):
            findings.inputs |= dict.fromkeys(suspects, death.reason)
            return
        blamed.add(tuple(suspects))
        middle = len(suspects) // 2
        findings.trials.extendleft([suspects[middle:], suspects[:middle]])


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run_child(job: Job, work: Work, findings: Findings) -> dict[str, Any] | Death | None:
    """Run one child to its end: the record, None if no unit is missing, or how it died."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    hang_seconds = job.spec.resources.hang_seconds
    child = context.Process(target=_child, args=(job, work, findings, theirs), daemon=True)
    child.start()
    theirs.close()
    stage: str = "start"
    suspects: list[int] = []
    since = time.monotonic()
    try:
        while ours.poll(findings.patience(stage, hang_seconds)):
            said, content = ours.recv()
            if stage in ("batch", "trial"):
                findings.longest = max(findings.longest, time.monotonic() - since)
                findings.fruitless = 0
            since = time.monotonic()
            if said == "done":
                result: dict[str, Any] | None = content
                return result
            if said == "passed":
                findings.trials.popleft()
            else:
                stage, suspects = said, content
        child.kill()
        return Death(stage, suspects, Reason.HUNG, f"said nothing for {time.monotonic() - since:.0f} s")
    except EOFError:
        child.join()
        return Death(stage, suspects, Reason.CRASHED, _how(child.exitcode))
    finally:
        child.join(timeout=10)
        child.kill()
        ours.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@dataclass(frozen=True)
class _Teller:
    """Tells the parent what is about to be done, and ends the process where the parent can't."""

    connection: Connection
    hang_seconds: int

    def say(self, stage: str, content: Any = ()) -> None:
        faulthandler.dump_traceback_later(max(_STEP_PATIENCE_S, self.hang_seconds) + _ORPHAN_S, exit=True)
        self.connection.send((stage, content))


def _child(job: Job, work: Work, findings: Findings, connection: Connection) -> None:
    """Embed one unit, saying each step before it is taken."""
    teller = _Teller(connection, job.spec.resources.hang_seconds)
    try:
        result = _steps(job, work, findings, teller)
    except (Exception, SystemExit) as error:
        result = failure(error, work.span.first_unit)
    teller.say("done", result)


def _steps(job: Job, work: Work, findings: Findings, teller: _Teller) -> dict[str, Any] | None:
    teller.say("reading the source", [])
    unit = next(units_of(job, work), None)
    if unit is None:
        return None
    prepared = _prepare(job, work, unit, findings, teller)
    teller.say("loading the model", [])
    embedded = _CarefulReplica(job, findings, teller)(prepared)
    teller.say("writing", [])
    record: dict[str, Any] = json.loads(write_unit(embedded, job).column("record")[0].as_py())
    return (
        record
        if "error" in record or "unchanged" in record
        else record | {"flags": [*record["flags"], ISOLATED]}
    )


def _prepare(job: Job, work: Work, unit: Unit, findings: Findings, teller: _Teller) -> pa.Table:
    encoder = parts_of(job).encoder
    table = _refuse(unit.table, findings.rows)
    if findings.careful:
        texts = table.column(CONTENT).combine_chunks()
        for place in range(len(table)):
            if place not in findings.rows and table.column(REASON)[place].as_py() is None:
                teller.say("row", [place])
                encoder.prepare(texts[place : place + 1])
    teller.say("prepare", [])
    return prepare_unit(replace(unit, table=table), encoder, work)


def _refuse(table: pa.Table, rows: dict[int, Reason]) -> pa.Table:
    """Make rejects of rows that can't be prepared."""
    reasons, messages = table.column(REASON).to_pylist(), table.column(MESSAGE).to_pylist()
    for place, reason in rows.items():
        reasons[place], messages[place] = str(reason), _BLAMED[reason]
    for name, values in ((REASON, reasons), (MESSAGE, messages)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


class _CarefulReplica(Replica):
    """A replica that says which inputs it is about to embed, and leaves out those that are known to kill it."""

    def __init__(self, job: Job, findings: Findings, teller: _Teller) -> None:
        super().__init__(job)
        self._findings = findings
        self._teller = teller

    def compute(self, inputs: pa.Table) -> Embedded:
        """Try what is suspected, then put all inputs through the model."""
        encoder, budget, known = self.encoder, self.job.resolved.token_budget, self._findings.inputs
        batches = token_batches(encoder.lengths(inputs), budget)
        for group in self._findings.trials:
            self._teller.say("trial", group)
            batch = next(found for found in batches if group[0] in found)
            encoder.launch(encoder.blank(inputs, set(batch.tolist()) - set(group)).take(pa.array(batch)))()
            self._teller.say("passed", [])
        found = embed_inputs(
            encoder,
            encoder.blank(inputs, known),
            budget,
            before=lambda batch: self._teller.say("batch", batch.tolist()),
            # A death must be the fault of the batch that was named last.
            overlap=False,
        )
        return found.forget(known)
