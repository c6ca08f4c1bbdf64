"""Isolation: finds the rows on which worker processes die or hang, and embeds all others.

A unit whose workers died is embedded once more in a child process (`isolated_child.py`) that says
what it is about to do. Where the child dies, or does not go on in time, the suspects are what it
said last; a new child tries halves of them until one row is left (`suspects.py`). That row becomes
a reject. Batches stay as planned: a suspect is replaced by a blank input of its length, so every
other row keeps its bytes. Plain processes, no Ray.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from multiprocessing.context import ForkServerContext

from embed_ops.embedding.isolated_child import Doing, Passed, run_child
from embed_ops.embedding.job import Job
from embed_ops.embedding.suspects import Death, Findings, Step, learn
from embed_ops.embedding.unit import Failure, Outcome, Written
from embed_ops.encoders.runtimes import preloaded
from embed_ops.engine.processes import in_words
from embed_ops.errors import EngineError
from embed_ops.runs.work import Work
from embed_ops.schema import Reason
from embed_ops.sources.units import UnitEnd
from embed_ops.spec.encoder import EncoderSpec

MOST_DEATHS = 200
"""Children that one unit may cost: where so many die, it is not a row that is at fault."""
_SPARE_DEATHS = 3
_PRELOADED = ("embed_ops.embedding.isolated_child", "pyarrow.parquet")
"""What the server that children are forked from imports, beside what the family's runtime is: each
child then starts in a moment. Nothing of it starts a thread."""


def isolate(job: Job, work: Work) -> list[Outcome]:
    """Embed the units that a work lacks, one after the other, each in child processes.

    Returns:
        what became of each unit; a failure ends the work.
    """
    outcomes: list[Outcome] = []
    while not job.late():
        outcome = _embed_unit(job, work)
        if outcome is None:
            break
        outcomes.append(outcome)
        if not isinstance(outcome, Written) or work.retry is not None:
            break
        end = UnitEnd(outcome.record.next_source, outcome.record.next_position)
        work = replace(work, done={**work.done, outcome.unit: end})
    return outcomes


def _embed_unit(job: Job, work: Work) -> Outcome | None:
    """Embed the first unit that a work lacks; None if it lacks none."""
    findings = Findings()
    halved: set[tuple[int, ...]] = set()
    most_fruitless = MOST_DEATHS
    for _ in range(MOST_DEATHS):
        ending = _watch_child(job, work, findings)
        if not isinstance(ending, Death):
            return ending
        if findings.fruitless == 0 and not findings.longest:
            # A single bad row lets one half or the other through before so many deaths.
            most_fruitless = len(ending.suspects).bit_length() + _SPARE_DEATHS
        if why := _hopeless(findings, ending, most_fruitless):
            return Failure.of(EngineError(why), work.span.first_unit)
        findings.fruitless += 1
        learn(findings, ending, halved)
    why = f"{MOST_DEATHS} worker processes died on one unit: it is hardly its rows"
    return Failure.of(EngineError(why), work.span.first_unit)


def _hopeless(findings: Findings, death: Death, most_fruitless: int) -> str | None:
    """Say why no further child would show which rows are at fault; None if one may."""
    if not death.step.narrows or (death.step is Step.PREPARE and findings.careful):
        return f"a worker process {death.how} at this step: {death.step}"
    if death.step.embeds and findings.inputs.keys() >= set(death.suspects):
        return f"a worker process {death.how} though its rows were left out"
    if findings.fruitless >= most_fruitless:
        return f"every row that was tried ends its worker process, which {death.how}"
    return None


def _context(spec: EncoderSpec) -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, *preloaded(spec)])
    return context


def _watch_child(job: Job, work: Work, findings: Findings) -> Outcome | Death | None:
    """Run one child to its end.

    Returns:
        what became of the unit, None if none is missing, or how the child died.
    """
    context = _context(job.spec.encoder)
    ours, theirs = context.Pipe(duplex=False)
    hang_seconds = job.spec.resources.hang_seconds
    child = context.Process(target=run_child, args=(job, work, findings, theirs), daemon=True)
    child.start()
    theirs.close()
    doing, since = Doing(Step.START), time.monotonic()
    try:
        while ours.poll(findings.patience(doing.step, hang_seconds)):
            said: Doing | Passed | Outcome | None = ours.recv()
            if doing.step.embeds:
                findings.came_through(time.monotonic() - since)
            since = time.monotonic()
            if isinstance(said, Passed):
                findings.trials.popleft()
            elif isinstance(said, Doing):
                doing = said
            else:
                return said
        child.kill()
        how = f"said nothing for {time.monotonic() - since:.0f} s"
        return Death(doing.step, doing.suspects, Reason.HUNG, how)
    except EOFError:
        child.join()
        return Death(doing.step, doing.suspects, Reason.CRASHED, in_words(child.exitcode))
    finally:
        child.join(timeout=10)
        child.kill()
        ours.close()
