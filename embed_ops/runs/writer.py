"""One command on a run directory: how it begins, publishes what it has done, and ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from embed_ops.runs.digests import DIGESTS_JSON, PLAN, REPORT, write_digests
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RUNNING, STOPPED, AttemptEntry, RunHeader
from embed_ops.runs.heartbeat import Heartbeat
from embed_ops.runs.journal import Journal
from embed_ops.sources.plan import Plan
from embed_ops.storage.files import remove


def known_header(run: RunDir) -> RunHeader | None:
    """Read the header of a run that a command is to go on with, None where there is nothing yet.

    Raises:
        RunError: the place is a file, holds units without `run.json` or a plan, or has a folder
            that is a link out of it.
    """
    run.require_folder()
    run.require_own_folders()
    header = run.read_header()
    if header is None or not run.has(PLAN):
        # Without a plan nothing was written yet, or too much is lost: whoever finds units says so.
        run.require_empty()
        return None
    return header


@dataclass
class RunWriter:
    """What every command that writes a run directory has; a driver adds its own.

    Attributes:
        run: the directory.
        name: of the attempt, as `new_attempt` makes it.
        began: seconds since 1970.
        header: what `run.json` will say when it is published next.
        heartbeat: to be entered by `with`; it beats from `begin` on.
        journal: of the records of this command.
        written: sha256 of files that workers have written and no record has, by path.
    """

    run: RunDir
    name: str
    began: float
    header: RunHeader
    heartbeat: Heartbeat = field(init=False)
    journal: Journal = field(init=False)
    written: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Make the heartbeat, which does not beat yet, and the journal."""
        self.heartbeat = Heartbeat(self.run.root, self.name)
        self.journal = Journal(self.run, self.name)

    @property
    def fresh(self) -> bool:
        """Whether no earlier command has worked on the run."""
        return not self.header.attempts

    def begin(
        self, plan: Plan, before_plan: Callable[[], None] = lambda: None, status: str = RUNNING
    ) -> None:
        """Publish what the run is before anything is computed, and clear up behind dead attempts.

        A new run gets its plan first, so that a `run.json` always has one beside it. One that is
        gone on with says first that it is not finished.

        Args:
            plan: of the run.
            before_plan: what is to be done before a new plan takes the place of an older one.
            status: a finished run of which nothing is left to do stays finished.

        Raises:
            HeldError: another command began a moment earlier.
        """
        self.heartbeat.begin()
        fresh = self.fresh
        entry = AttemptEntry(self.name, self.began)
        self.header = replace(self.header, attempts=(*self.header.attempts, entry))
        if not fresh:
            self.publish(status, ended=False)
            before_plan()
        self.run.write_plan(plan, self.name)
        if fresh:
            self.publish(status, ended=False)
        remove(self.run.root.child(DIGESTS_JSON))
        self.run.clean(self.name)

    def publish(self, status: str, *, ended: bool = True) -> None:
        """Write `run.json`.

        Args:
            status: what it is to say.
            ended: whether the command has ended: before that nobody knows checksums of its files.
        """
        finished = time.time() if status == FINISHED else None
        digests = self.header.digests if status == FINISHED and ended else None
        self.header = replace(self.header, status=status, finished=finished, digests=digests)
        self.run.write_header(self.header, self.name)

    def stop(self) -> None:
        """Keep what is done, and publish that the run has stopped."""
        self.journal.flush()
        self.publish(STOPPED)

    def finish(self, report: Mapping[str, Any], figures: Mapping[str, Any] | None = None) -> None:
        """Write the report, and publish that the run is finished.

        Args:
            report: the content of `report.json`.
            figures: what the entry of this attempt keeps of it.
        """
        self.journal.flush()
        self.run.write_json(REPORT, report, self.name)
        digests = write_digests(self.run.root, self.name, self.written)
        *earlier, entry = self.header.attempts
        entry = replace(entry, finished=time.time(), figures=figures or {})
        self.header = replace(self.header, attempts=(*earlier, entry), digests=digests)
        self.publish(FINISHED)
        self.run.remove_temporary(self.name)
