"""What the page of a run is made of: its report, its records, and a sample of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from embed_ops.analysis.page.sample import Sample, folders_of, read_sample
from embed_ops.errors import EmbedOpsError, RunError
from embed_ops.postprocessing.asked import STAGES
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.parquet import read_table
from embed_ops.runs.record import REJECTS, Record
from embed_ops.runs.run import Run
from embed_ops.schema import MESSAGE, REASON, ROW, SOURCE
from embed_ops.storage.location import Location
from embed_ops.terminal import plain_line

_MOST_REJECTS = 5


@dataclass(frozen=True)
class Gathered:
    """Everything that is shown.

    Attributes:
        run: the run; `header`: of its embedding; `report`: of its embedding, {} where there is none
            yet.
        records: of the run's units; `planned`: rows of the source of a run that is not finished,
            None where not known.
        reasons: rejects by reason; `rejects`: some of them, {reason: messages}.
        sample: of its rows, None where there are none; `why_no_sample`: a sentence.
        stages: kind and report of each stage below the run.
    """

    run: Run
    header: RunHeader
    report: dict[str, Any]
    records: list[Record]
    reasons: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, list[str]] = field(default_factory=dict)
    sample: Sample | None = None
    why_no_sample: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    planned: int | None = None


def gather_page(path: str, most: int, seed: int, column: str | None) -> Gathered:
    """Read what is shown of a run.

    Raises:
        RunError: there is no run.
        StageError: there is no such vector column.
    """
    run = Run(path)
    records = list(run.records().values())
    report: dict[str, Any] = {}
    with contextlib.suppress(EmbedOpsError):
        report = run.report
    reasons, messages = _rejects(run, records)
    sample, why = None, ""
    if run.status == FINISHED and any(record.rows > 0 for record in records):
        sample, why = read_sample(RunDir.at(path).root, most, seed, column)
    else:
        why = (
            "the run has no rows"
            if run.status == FINISHED
            else f"the run is {run.status}: finish it to see its vectors"
        )
    return Gathered(
        run,
        run.header,
        report,
        records,
        reasons,
        messages,
        sample,
        why,
        _stages(RunDir.at(path).root),
        _planned(run),
    )


def _rejects(run: Run, records: Sequence[Record]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Count rejects by reason, and word the first few of each."""
    reasons: dict[str, int] = {}
    messages: dict[str, list[str]] = {}
    if run.is_stage or not any(record.rejects > 0 or record.file_rejects > 0 for record in records):
        return reasons, messages
    root = RunDir.at(run.path).root
    for file in sorted(record.reject_file for record in records if record.reject_file):
        table, _ = read_table(root, f"{REJECTS}/{file}", [REASON, MESSAGE, SOURCE, ROW])
        for counted in pc.value_counts(table.column(REASON)).to_pylist():
            reason, listed = counted["values"], messages.setdefault(counted["values"], [])
            reasons[reason] = reasons.get(reason, 0) + counted["counts"]
            of_reason = table.filter(pc.equal(table.column(REASON), reason))
            some = of_reason.slice(0, _MOST_REJECTS - len(listed)).to_pylist()
            listed += [plain_line(f"{row[SOURCE]}, row {row[ROW]}: {row[MESSAGE]}") for row in some]
    return reasons, messages


def _planned(run: Run) -> int | None:
    """Count the rows that a run which is not finished is to have; where it is, its records tell."""
    place = RunDir.at(run.path)
    if run.status != FINISHED:
        with contextlib.suppress(RunError):
            return place.read_plan().rows
    return None


def _stages(root: Location) -> list[dict[str, Any]]:
    """Read the reports of the stages below a run."""
    reports = []
    for name in folders_of(root.child(STAGES)):
        report = RunDir(root.child(f"{STAGES}/{name}")).read_json("report.json")
        if report is not None:
            reports.append({"name": name, **report})
    return reports
