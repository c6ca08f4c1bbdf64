"""The page's sentences: is the run complete, is it healthy, how did it go.

Pure; a warning is worded where a figure asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed_ops.analysis.summary import left_out_line
from embed_ops.runs.record import Record

_MOST_ANISOTROPIC = 0.5
_BINS = 60


def count(number: int, thing: str) -> str:
    """Word how many there are."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


@dataclass(frozen=True)
class Line:
    """A sentence, and whether it is a warning."""

    text: str
    warning: bool = False


def completeness(
    status: str, records: Sequence[Record], report: Mapping[str, Any], planned: int | None = None
) -> list[Line]:
    """Word what is there and what is not.

    `planned` are the rows of the source of a run that is not finished, None where not known.
    """
    rows, rejects = sum(record.rows for record in records), sum(record.rejects for record in records)
    files = sum(record.file_rejects for record in records)
    filtered = sum(record.filtered for record in records)
    truncated = sum(record.truncated for record in records)
    units = count(len(records), "unit")
    if status == "finished":
        lines = [Line(f"complete: {rows:,} of {rows + rejects:,} rows have vectors, in {units}")]
    else:
        of = "rows" if planned is None else f"of {planned:,} rows"
        unknown = "; how many are left only reading tells" if planned is None else ""
        lines = [
            Line(f"not complete, {status}: {rows:,} {of} have vectors, in {units}{unknown}", warning=True)
        ]
    if rejects:
        share = rejects / (rows + rejects)
        lines.append(Line(f"{rejects:,} rows are rejects ({share:.2%})", share > 0.01))
    if files:
        lines.append(Line(f"{count(files, 'file')} could not be read to the end", True))
    for item in report.get("left_out") or []:
        lines.append(Line(f"left out: {left_out_line(item)}"))
    if filtered:
        lines.append(Line(f"{filtered:,} rows were left out by where"))
    if truncated:
        cut = f"{truncated:,} rows were longer than the model takes, and cut"
        lines.append(Line(f"{cut} ({truncated / max(1, rows):.1%})", truncated > 0.1 * rows))
    if report.get("unknown"):
        lines.append(Line(f"{report['unknown']:,} words have no vector and were left out"))
    for parity in report.get("parity") or []:
        cosines = f"cosine {parity['mean']:.6f} mean, {parity['min']:.6f} least"
        lines.append(Line(f"{parity['output']} is that of {parity['reference']}: {cosines}"))
    return lines


def soundness(figures: Mapping[str, Any]) -> list[Line]:
    """Word how the vectors are."""
    rows, dim = figures["rows"], figures["dim"]
    if figures["effective"] > 0:
        enough = f"{count(figures['for_90'], 'principal component')} for 90 % of the variance"
        lines = [
            Line(
                f"{count(dim, 'dimension')}; {enough}; as many as {figures['effective']:.0f} of equal "
                "variance"
            )
        ]
    else:
        lines = [Line(f"{count(dim, 'dimension')}; the sampled rows do not differ", rows > 1)]
    if figures.get("broken"):
        broken = count(figures["broken"], "sampled vector")
        lines.append(
            Line(
                f"{broken} have numbers that are not finite, and are left out here: see `embed-ops verify`",
                True,
            )
        )
    if figures["dead"]:
        over = (
            f"all {figures['spread_rows']:,} rows"
            if figures["whole"]
            else f"{figures['spread_rows']:,} sampled rows"
        )
        lines.append(Line(f"{figures['dead']:,} of {dim:,} dimensions never change in {over}", True))
    narrow = figures["mean_cosine"] > _MOST_ANISOTROPIC
    if rows > 1:
        cone = "; the vectors crowd into a cone: a center or whiten stage may help" if narrow else ""
        mean = f"the mean of unit vectors is {figures['mean_length']:.3f} long"
        lines.append(
            Line(f"two random rows have a cosine of {figures['mean_cosine']:.3f}, {mean}{cone}", narrow)
        )
    if figures["zeros"]:
        over = f"{figures['spread_rows']:,}" if figures["whole"] else f"{figures['spread_rows']:,} sampled"
        lines.append(Line(f"{figures['zeros']:,} of {over} vectors are zeros", True))
    share = figures["duplicates"] / max(1, rows)
    lines.append(Line(f"{share:.1%} of the sampled rows have the vector of another", share > 0.2))
    return lines


def stage_course(report: Mapping[str, Any]) -> list[Line]:
    """Word how the run of a stage went."""
    if not report:
        return [Line("the stage has not come to its end: it has no figures yet", True)]
    seconds = report["seconds"]
    fitted = "" if seconds["fit"] is None else f"{seconds['fit']:,.1f} s to fit, "
    lines = [Line(f"{seconds['total']:,.1f} s in all, {fitted}{seconds['steady']:,.1f} s to apply")]
    if report.get("rows_per_second"):
        lines.append(Line(f"{report['rows_per_second']:,.0f} rows/s applied"))
    return lines


def course(report: Mapping[str, Any], price: float | None) -> list[Line]:
    """Word how the run went, and what it cost."""
    if not report or not report.get("rows_per_second"):
        return [Line("this attempt embedded nothing: it has no rates")]
    seconds = report["seconds"]
    rates = f"{report['rows_per_second']:,.0f} rows/s, {report['tokens_per_second']:,.0f} tokens/s"
    startup, steady = seconds["startup"] or 0, seconds["steady"]
    spent = f"{startup:,.0f} s to start, {steady:,.0f} s from the first unit to the last"
    lines = [
        Line(f"{rates} on {report.get('replicas', 1)} replicas"),
        Line(f"{seconds['total']:,.0f} s in all, {spent}"),
    ]
    if report.get("utilization"):
        padding = f"{report['padding_waste']:.1%} of the positions were padding"
        lines.append(Line(f"{report['utilization']:.1%} of the device's matrix-product rate; {padding}"))
    waiting = (report.get("idle") or {}).get("input") or 0.0
    if waiting > 0.1:
        lines.append(
            Line(f"replicas waited {waiting:.0%} of their time for input: more reader cores would help", True)
        )
    if price is not None:
        cost = price * seconds["total"] / 3600
        lines.append(
            Line(
                f"{cost:,.4f} at {price:g} an hour, {cost / max(1, report['rows']) * 1e6:,.2f} for a "
                "million rows"
            )
        )
    return lines


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
