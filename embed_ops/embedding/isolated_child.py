"""A child process of isolation: embeds one unit, and says each step before it takes it."""

from __future__ import annotations

import faulthandler
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

import pyarrow as pa

from embed_ops.embedding.batching import token_batches
from embed_ops.embedding.forward import Embedded, embed_inputs
from embed_ops.embedding.job import Job
from embed_ops.embedding.parts import parts_of
from embed_ops.embedding.replica import Replica, Turn
from embed_ops.embedding.steps import prepare_unit, units_of, write_unit
from embed_ops.embedding.suspects import STEP_PATIENCE_S, Findings, Step
from embed_ops.embedding.unit import Failure, Outcome, PreparedUnit, Written
from embed_ops.runs.record import ISOLATED
from embed_ops.runs.work import Work
from embed_ops.schema import CONTENT, MESSAGE, REASON, Reason
from embed_ops.sources.units import Unit

_ORPHAN_S = 60
"""Seconds beyond its parent's patience after which a child ends itself: its parent is gone."""
_BLAMED = {
    Reason.CRASHED: "the worker process dies when it tokenizes or decodes this row",
    Reason.HUNG: "tokenizing or decoding this row does not end",
}


@dataclass(frozen=True)
class Doing:
    """What a child is about to do, and to which rows of the unit, or inputs."""

    step: Step
    suspects: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Passed:
    """A trial that killed nobody."""


@dataclass(frozen=True)
class _Teller:
    """Tells the parent, and ends the process where the parent can't."""

    connection: Connection
    hang_seconds: int

    def say(self, said: Doing | Passed | Outcome | None) -> None:
        patience = max(STEP_PATIENCE_S, self.hang_seconds)
        faulthandler.dump_traceback_later(patience + _ORPHAN_S, exit=True)
        self.connection.send(said)


def run_child(job: Job, work: Work, findings: Findings, connection: Connection) -> None:
    """Embed the first unit that a work lacks; the last that is said is what became of it.

    That is None where no unit is missing.
    """
    teller = _Teller(connection, job.spec.resources.hang_seconds)
    try:
        outcome = _take_steps(job, work, findings, teller)
    except (Exception, SystemExit) as error:
        outcome = Failure.of(error, work.span.first_unit)
    teller.say(outcome)


def _take_steps(job: Job, work: Work, findings: Findings, teller: _Teller) -> Outcome | None:
    teller.say(Doing(Step.READ))
    unit = next(units_of(job, work), None)
    if unit is None:
        return None
    prepared = _prepare(job, work, unit, findings, teller)
    teller.say(Doing(Step.LOAD))
    embedded = _CarefulReplica(job, findings, teller).embed(prepared)
    if isinstance(embedded, Failure):
        return embedded
    teller.say(Doing(Step.WRITE))
    outcome = write_unit(embedded, job)
    if not isinstance(outcome, Written):
        return outcome
    return replace(outcome, record=replace(outcome.record, flags=(*outcome.record.flags, ISOLATED)))


def _prepare(job: Job, work: Work, unit: Unit, findings: Findings, teller: _Teller) -> PreparedUnit:
    encoder = parts_of(job).encoder
    table = _refuse(unit.table, findings.rows)
    if findings.careful:
        contents = table.column(CONTENT).combine_chunks()
        for place in range(len(table)):
            if place not in findings.rows and table.column(REASON)[place].as_py() is None:
                teller.say(Doing(Step.ROW, [place]))
                encoder.prepare(contents[place : place + 1])
    teller.say(Doing(Step.PREPARE))
    return prepare_unit(replace(unit, table=table), encoder, work.replaces)


def _refuse(table: pa.Table, rows: dict[int, Reason]) -> pa.Table:
    """Make rejects of rows that can't be prepared."""
    reasons, messages = table.column(REASON).to_pylist(), table.column(MESSAGE).to_pylist()
    for place, reason in rows.items():
        reasons[place], messages[place] = str(reason), _BLAMED[reason]
    for name, values in ((REASON, reasons), (MESSAGE, messages)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


class _CarefulReplica(Replica):
    """A replica that says which inputs it is about to embed.

    It leaves out those that are known to kill it.
    """

    def __init__(self, job: Job, findings: Findings, teller: _Teller) -> None:
        super().__init__(job)
        self._findings = findings
        self._teller = teller

    def compute(self, inputs: pa.Table, turn: Turn) -> Embedded:
        """Try what is suspected, then put all inputs through the model."""
        encoder, budget, deadly = self.encoder, self.job.resolved.token_budget, self._findings.inputs
        rule = self.job.resolved.rule
        batches = token_batches(encoder.lengths(inputs), budget, rule)
        for group in self._findings.trials:
            self._teller.say(Doing(Step.TRIAL, group))
            batch = next(batch for batch in batches if group[0] in batch)
            blank = encoder.blank(inputs, set(batch.tolist()) - set(group))
            encoder.launch(blank.take(pa.array(batch)))()
            self._teller.say(Passed())
        embedded = embed_inputs(
            encoder,
            encoder.blank(inputs, deadly),
            budget,
            before=lambda batch: self._teller.say(Doing(Step.BATCH, batch.tolist())),
            rule=rule,
            turn=lambda: self.take(turn),
            clock=self.clock,
            # A death must be the fault of the batch that was named last.
            overlap=False,
        )
        return embedded.forget(deadly)
