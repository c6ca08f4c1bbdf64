"""How a run went: its figures in words, rows over time, and where the time of each replica went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed_ops.analysis.page.verdict import Finding
from embed_ops.analysis.run_table import PARTS_OF_TIME, graph_rows
from embed_ops.analysis.tables import counted
from embed_ops.runs.record import Record

_BINS = 60
_MOST_REPLICAS = 16
_TOLD = 0.005
"""Shares below this are not named."""
_WAITING = 0.1
_LEAST_UTILIZATION = 0.001
TIMES = PARTS_OF_TIME | {"uneven": "began late or done early"}
"""What the time of replicas is divided into: the report's names, and words."""
_REMEDIES = {
    "input": "more reader cores would help, and files that can be read from several places at once",
    "output": "see the storage that the run writes to",
    "host": "the device waits for its host: more CPU threads for each replica would help",
}
_CAUSES = {"input": "for input", "output": "for room behind", "host": "for the host"}


@dataclass(frozen=True)
class Share:
    """A part of a bar: its key and name, and its share of the whole, 0 to 1."""

    key: str
    name: str
    share: float


@dataclass(frozen=True)
class Bar:
    """Where the time of one replica went, or of all: shares that add up to 1, and a note."""

    name: str
    note: str
    shares: tuple[Share, ...]


def stage_course(report: Mapping[str, Any]) -> list[Finding]:
    """Word how the run of a stage went."""
    if not report:
        return [Finding("the stage has not come to its end: it has no figures yet", "amber")]
    seconds = report["seconds"]
    fitted = "" if seconds["fit"] is None else f"{seconds['fit']:,.1f} s to fit, "
    lines = [Finding(f"{seconds['total']:,.1f} s in all, {fitted}{seconds['steady']:,.1f} s to apply")]
    if report.get("rows_per_second"):
        lines.append(Finding(f"{report['rows_per_second']:,.0f} rows/s applied"))
    return lines


def course(report: Mapping[str, Any]) -> list[Finding]:
    """Word how the latest command that embedded something went."""
    if not report or not report.get("rows_per_second"):
        return [Finding("the latest command embedded nothing: there are no rates")]
    # A graph goes layer by layer: how fast its rows were written says nothing.
    lines = _layers(report) if "graph" in report else _speed(report)
    return [*lines, *_trouble(report)]


def _layers(report: Mapping[str, Any]) -> list[Finding]:
    """Word what was done on a graph."""
    lines = [Finding(f"{name}: {told}") for name, told in graph_rows(report["graph"])]
    return [*lines, Finding(f"{report['seconds']['total']:,.0f} s in all")]


def _speed(report: Mapping[str, Any]) -> list[Finding]:
    """Word how fast rows were embedded."""
    seconds, tokens = report["seconds"], report.get("tokens_per_second")
    unit = "positions" if report.get("modality") in ("image", "tensor") else "tokens"
    of_tokens = f", {tokens:,.0f} {unit}/s" if tokens else ""
    on = counted(report.get("replicas") or 1, "replica")
    startup, steady = seconds.get("startup") or 0, seconds["steady"]
    spent = f"{startup:,.0f} s to start, {steady:,.0f} s from the first unit to the last"
    lines = [
        Finding(f"{report['rows_per_second']:,.0f} rows/s{of_tokens} on {on}"),
        Finding(f"{seconds['total']:,.0f} s in all: {spent}"),
    ]
    # A table of word vectors has no products to speak of.
    if (report.get("utilization") or 0.0) >= _LEAST_UTILIZATION:
        padding = f"; {report['padding_waste']:.1%} of the positions were padding"
        told = f"{report['utilization']:.1%} of the device's matrix-product rate"
        lines.append(Finding(told + (padding if report.get("padding_waste") else "")))
    return lines


def _trouble(report: Mapping[str, Any]) -> list[Finding]:
    """Word what held replicas up, and what went wrong with them."""
    lines = []
    for cause, words in _CAUSES.items():
        share = (report.get("idle") or {}).get(cause) or 0.0
        if share > _WAITING:
            told = f"replicas waited {share:.0%} of their time {words}"
            lines.append(Finding(told, "amber", _REMEDIES[cause]))
    if report.get("replica_deaths"):
        times, units = counted(report["replica_deaths"], "time"), counted(report["isolated"], "unit")
        told = f"replicas died {times}; {units} were embedded in isolation"
        lines.append(Finding(told, "amber", "see the log of that command for what ended them"))
    if report.get("halved"):
        told = f"{counted(report['halved'], 'unit')} had batches that memory could not hold"
        lines.append(Finding(told, "amber", "set a smaller resources.token_budget in a new run"))
    return lines


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """Divide the time of all replicas, and of each, into what it was spent on."""
    drawn = []
    if report.get("time"):
        drawn.append(Bar("all replicas", "", _shares(report["time"])))
    each = report.get("by_replica") or []
    if len(each) > 1:
        # Those that did least are what one looks for.
        each = sorted(each, key=lambda one: one["time"]["forward"])[:_MOST_REPLICAS]
        for one in each:
            note = f"{counted(one['units'], 'unit')}, {counted(one['rows'], 'row')}"
            drawn.append(Bar(one["replica"], note, _shares(one["time"])))
    return drawn


def _shares(parts: Mapping[str, float]) -> tuple[Share, ...]:
    return tuple(
        Share(name, words, parts[name]) for name, words in TIMES.items() if parts.get(name, 0.0) > _TOLD
    )


def memory(report: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """List the greatest memory of a process of each kind: name, bytes, share of the greatest."""
    held = {kind: size for kind, size in (report.get("peak_memory") or {}).items() if size}
    most = max(held.values(), default=1)
    return [(kind, size, size / most) for kind, size in sorted(held.items(), key=lambda item: -item[1])]


def throughput(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Give rows per second over the time of the latest attempt.

    Seconds since its first unit, and rates.
    """
    timed = [record for record in records if record.seconds.get("finished")]
    if not timed:
        return [], []
    latest = max(timed, key=lambda record: record.seconds["finished"]).attempt
    mine = [record for record in timed if record.attempt == latest]
    began = min(record.seconds["started"] for record in mine)
    ended = max(record.seconds["finished"] for record in mine)
    width = max(1e-3, (ended - began) / min(_BINS, len(mine)))
    rates = [0.0] * min(_BINS, len(mine))
    for record in mine:
        # A unit's rows are spread over the time that it took.
        first = record.seconds["started"] - began
        last = max(record.seconds["finished"] - began, first + 1e-9)
        for number in range(len(rates)):
            overlap = min(last, (number + 1) * width) - max(first, number * width)
            if overlap > 0:
                rates[number] += record.rows * overlap / (last - first) / width
    return [number * width for number in range(len(rates))], rates
