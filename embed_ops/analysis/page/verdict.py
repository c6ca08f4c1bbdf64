"""The page's judgement: is the run complete, is it healthy, and what is to be done.

Pure; each finding has a level, and one that is not good says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from embed_ops.analysis.run_table import left_out_line
from embed_ops.analysis.tables import counted
from embed_ops.runs.header import FINISHED, RUNNING
from embed_ops.runs.record import Record

Level = Literal["good", "amber", "red"]
_ORDER: tuple[Level, ...] = ("good", "amber", "red")
_MOST_ANISOTROPIC = 0.5
_MOST_CUT = 0.01
_MOST_COPIES = 0.01
_HEADLINES = {
    "good": "Complete, and nothing stands out",
    "amber": "Complete, and worth a look",
    "red": "Not fit for use as it is",
}


@dataclass(frozen=True)
class Finding:
    """A sentence, how grave it is, and what to do about it."""

    text: str
    level: Level = "good"
    remedy: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the page says first.

    Attributes:
        level: the gravest of all findings.
        headline: it in words.
        facts: the three behind it: rows, comparison with the reference, vectors.
        findings: those that are not good, gravest first.
    """

    level: Level
    headline: str
    facts: tuple[Finding, ...]
    findings: tuple[Finding, ...]


def judge(
    status: str, rows: Sequence[Finding], compared: Finding | None, vectors: Sequence[Finding]
) -> Verdict:
    """Bring findings under one verdict.

    Args:
        status: of the run.
        rows: whether all rows are there; the first says how many.
        compared: with the reference; None where a run has nothing to compare, as that of a stage.
        vectors: how they are; the first says most.
    """
    every = [*rows, *([] if compared is None else [compared]), *vectors]
    worst = _worst(every)
    facts = [Finding(rows[0].text, _worst(rows))] if rows else []
    facts += [] if compared is None else [compared]
    facts += [Finding(vectors[0].text, _worst(vectors))] if vectors else []
    amiss = sorted(
        (item for item in every if item.level != "good"), key=lambda item: -_ORDER.index(item.level)
    )
    headline = _HEADLINES[worst]
    if status != FINISHED:
        headline = "Still running" if status == RUNNING else "Not finished"
    return Verdict(worst, headline, tuple(facts), tuple(amiss))


def _worst(findings: Sequence[Finding]) -> Level:
    return max((item.level for item in findings), key=_ORDER.index, default="good")


def completeness(
    status: str,
    records: Sequence[Record],
    report: Mapping[str, Any],
    planned: int | None = None,
    most_rejects: float = 0.01,
) -> list[Finding]:
    """Word what is there and what is not.

    Args:
        status: of the run.
        records: of its units.
        report: of it.
        planned: rows of the source of a run that is not finished, None where not known.
        most_rejects: share of rejects beyond which a run has failed.
    """
    rows, rejects = sum(record.rows for record in records), sum(record.rejects for record in records)
    truncated = sum(record.truncated for record in records)
    many_cut = truncated > _MOST_CUT * rows
    lines = [_first(status, rows, rejects, len(records), planned)]
    if many_cut and lines[0].level == "good":
        lines[0] = Finding(f"{lines[0].text}; {truncated:,} were cut")
    if rejects:
        share = rejects / (rows + rejects)
        grave = share > most_rejects
        beyond = f", more than max_reject_fraction allows ({most_rejects:.2%})" if grave else ""
        remedy = "see their reasons below; `embed-ops retry` reads them again once the cause is mended"
        told = f"{counted(rejects, 'row')} ({share:.2%}) became rejects{beyond}"
        lines.append(Finding(told, "red" if grave else "amber", remedy))
    if files := sum(record.file_rejects for record in records):
        remedy = "replace these files, then run the same command again"
        lines.append(Finding(f"{counted(files, 'file')} could not be read to the end", "red", remedy))
    for item in report.get("left_out") or []:
        lines.append(Finding(f"left out by the listing: {left_out_line(item)}"))
    if filtered := sum(record.filtered for record in records):
        lines.append(Finding(f"{counted(filtered, 'row')} were left out by where"))
    if truncated:
        share = truncated / max(1, rows)
        told = f"{counted(truncated, 'row')} ({share:.1%}) were longer than the model takes, and cut"
        remedy = "if their ends matter, set encoder.window, or a model that takes more tokens"
        lines.append(Finding(told, "amber" if many_cut else "good", remedy))
    if report.get("unknown"):
        told = f"{counted(report['unknown'], 'word')} have no vector in the table, and were left out"
        lines.append(Finding(told))
    return lines


def _first(status: str, rows: int, rejects: int, units: int, planned: int | None) -> Finding:
    within = counted(units, "unit")
    if status == FINISHED:
        told = f"{rows:,} of {counted(rows + rejects, 'row')} have a vector, in {within}"
        if rows:
            return Finding(told)
        return Finding(told, "red", "see source.path and source.where: they choose no row")
    of = "rows" if planned is None else f"of {planned:,} rows"
    unknown = "; how many are left only reading tells" if planned is None else ""
    told = f"{status}: {rows:,} {of} have a vector so far, in {within}{unknown}"
    if status == RUNNING:
        return Finding(told, "amber", "write the page again once the run is finished")
    return Finding(told, "red", "run the same command again: it goes on where it stopped")


def comparison(report: Mapping[str, Any]) -> Finding:
    """Word how near the vectors are to those of the reference implementation."""
    parities = report.get("parity") or []
    if "graph" in report:
        return Finding("not compared: a graph is embedded as a whole, and comparison is of single rows")
    if not parities:
        remedy = "set parity.rows in the spec, to have some rows computed by the reference as well"
        return Finding("not compared with the reference", "amber", remedy)
    worst = min(parities, key=lambda item: item["min"])
    outputs = "" if len(parities) == 1 else f", {len(parities)} outputs"
    told = f"compared: {counted(worst['rows'], 'row')}{outputs}, cosine {worst['min']:.6f} at least"
    return Finding(f"{told}, to {worst['reference']}")


def soundness(figures: Mapping[str, Any]) -> list[Finding]:
    """Word how the vectors are."""
    rows, dim = figures["rows"], figures["dim"]
    lines = [_width(figures)]
    if figures.get("broken"):
        broken = counted(figures["broken"], "sampled vector")
        remedy = "they are left out here; `embed-ops verify` finds all of them"
        lines.append(Finding(f"{broken} have numbers that are not finite", "red", remedy))
    if figures["dead"]:
        over = f"all {figures['spread_rows']:,} rows"
        if not figures["whole"]:
            over = f"{figures['spread_rows']:,} sampled rows"
        told = f"{figures['dead']:,} of {dim:,} dimensions never change in {over}"
        remedy = "they cost space and say nothing: a pca stage leaves them out"
        lines.append(Finding(told, "amber", remedy))
    narrow = figures["mean_cosine"] > _MOST_ANISOTROPIC
    if rows > 1:
        mean = f"the mean of unit vectors is {figures['mean_length']:.3f} long"
        told = f"two random rows have a cosine of {figures['mean_cosine']:.3f}, {mean}"
        remedy = "the vectors crowd into a cone: a center or whiten stage spreads them"
        lines.append(Finding(told, "amber" if narrow else "good", remedy if narrow else ""))
    if figures["zeros"]:
        over = f"{figures['spread_rows']:,}" if figures["whole"] else f"{figures['spread_rows']:,} sampled"
        told = f"{figures['zeros']:,} of {over} vectors are zeros"
        remedy = "they have no nearest rows: see what their inputs are, often empty or unknown words"
        lines.append(Finding(told, "amber", remedy))
    share = figures["duplicates"] / max(1, rows)
    many = share > _MOST_COPIES
    remedy = "a dedup stage marks copies, and near copies" if many else ""
    told = f"{share:.1%} of the sampled rows have the vector of another"
    lines.append(Finding(told, "amber" if many else "good", remedy))
    return lines


def _width(figures: Mapping[str, Any]) -> Finding:
    dims, rows = counted(figures["dim"], "dimension"), figures["rows"]
    if figures["effective"] > 0:
        enough = f"{counted(figures['for_90'], 'principal component')} for 90 % of the variance"
        dead = "none dead" if not figures["dead"] else f"{figures['dead']:,} dead"
        return Finding(f"{dims}, {dead}; {enough}")
    remedy = "every row has the same vector: see what is embedded" if rows > 1 else ""
    return Finding(f"{dims}; the sampled rows do not differ", "red" if rows > 1 else "good", remedy)
