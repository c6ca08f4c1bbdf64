"""What a run shows at the end of its command: a small table in plain words, and what to do next.

Whoever wants every figure finds it in `report.json`, and drawn on the page of `embed-ops report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from embed_ops.analysis.tables import console, counted, show_pairs
from embed_ops.engine.progress import duration
from embed_ops.schema import REASON

if TYPE_CHECKING:
    from embed_ops.runs.run import Run

PARTS_OF_TIME = {
    "useful": "useful products",
    "padding": "padding",
    "forward": "rest of the forward pass",
    "input": "waiting for input",
    "output": "waiting for output",
    "uneven": "replicas that began late or were done early",
}
"""What the replicas' time went into, by the names of the report."""
_REMEDIES = {
    "padding": "larger resources.unit_rows gives batches of more equal length",
    "forward": "larger resources.token_budget or encoder.compile=true may help, if anything does",
    "input": "more CPUs for readers, or fewer replicas, would help",
    "output": "more CPUs for writers, or faster storage, would help",
    "uneven": "smaller resources.unit_rows would spread the work more evenly",
}
_SMALL = 0.1
_LONG = 60.0
"""Seconds of embedding from which on it is worth while to say what would make it faster."""
_MOST_REJECT_FILES = 64
"""Files that are read to count rejects by reason."""


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the figures of a report that everybody wants, a (name, value) each."""
    rows = [("rows", _rows(report))]
    skipped, units = report["units_skipped"], report["units"]
    if skipped:
        share = "all of it" if skipped >= units else f"{skipped:,} of {units:,} files in data/"
        rows.append(("done before", f"{share}, by an earlier command"))
    if report.get("unknown"):
        rows.append(("words without a vector", f"{report['unknown']:,}, left out of the means"))
    rows += [("files left out", left_out_line(item)) for item in report.get("left_out", ())]
    if report["file_rejects"]:
        rows.append(("files not read to their end", f"{report['file_rejects']:,}"))
    rows.append(("time", _time(report)))
    if "graph" in report:
        rows += graph_rows(report["graph"])
    elif report["rows_per_second"] is not None and skipped < units:
        rows += _speed_rows(report)
    several = len(report["parity"]) > 1
    for item in report["parity"]:
        rows.append(
            (
                f"compared: {item['output']}" if several else "compared",
                f"{counted(item['rows'], 'row')} with {item['reference']}: cosine {item['min']:.6f} or more, "
                f"{item['mean']:.6f} on average",
            )
        )
    return rows


def _rows(report: dict[str, Any]) -> str:
    """Count what became of the rows; what is usually nothing is named where it is something."""
    told = f"{report['rows']:,} embedded, {report['rejected']:,} rejected"
    if report["truncated"]:
        told += f", {report['truncated']:,} cut to the length that the model takes"
    return told + (f", {report['filtered']:,} filtered" if report["filtered"] else "")


def _time(report: dict[str, Any]) -> str:
    """Say how long it took; of a graph only in all, since its layers come before its first unit."""
    seconds = report["seconds"]
    told = _seconds(seconds["total"])
    nothing_done = seconds["startup"] is None or report["units_skipped"] >= report["units"]
    if "graph" in report or nothing_done:
        return told
    return f"{told}: {_seconds(seconds['startup'])} to start, {_seconds(seconds['steady'])} to embed"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else duration(value)


def left_out_line(item: Mapping[str, Any]) -> str:
    """Word what a listing left out for one reason."""
    more = ", ..." if item["files"] > len(item["names"]) else ""
    return f"{item['why']}: {item['files']:,} ({', '.join(item['names'])}{more})"


def _speed_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Word how fast rows were embedded, what went wrong; of long runs also what held them up."""
    if report.get("modality") == "image":
        yield "speed", f"{report['rows_per_second']:,.0f} images/s"
    elif report.get("modality") == "tensor":
        yield "speed", f"{report['rows_per_second']:,.0f} rows/s"
    else:
        yield (
            "speed",
            f"{report['rows_per_second']:,.0f} rows/s, {report['tokens_per_second']:,.0f} tokens/s",
        )
    copies = counted(report["replicas"], "copy", "copies")
    yield "computed in", f"{report['resolved']['dtype']}, by {copies} of the model{_devices(report)}"
    if report["seconds"]["steady"] >= _LONG:
        yield from _course_rows(report)
    if report.get("halved"):
        units = counted(report["halved"], "unit")
        yield "out of memory", f"{units} had batches that did not fit and were halved; lower token_budget"
    if report.get("replica_deaths"):
        times = counted(report["replica_deaths"], "time")
        yield "replicas that died", f"{times}; {counted(report['isolated'], 'unit')} embedded in isolation"


def _devices(report: dict[str, Any]) -> str:
    """Name the GPUs that did the work, and the memory that a replica took."""
    names = [name for name in report.get("devices", ()) if name != "cpu"]
    held = report["peak_memory"].get("gpu", 0) / 2**30
    return f", on {', '.join(names)}; each held {held:.1f} GiB" if names else ""


def _course_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say how well the hardware was used."""
    if report["utilization"] is not None:
        useful, gemm = (report[name] / 1e9 for name in ("flops_per_second", "gemm_flops_per_second"))
        yield (
            "utilization",
            f"{report['utilization']:.1%} of what a bare matrix product reaches here ({useful:,.0f} of "
            f"{gemm:,.0f} GFLOP/s)",
        )
    if report.get("time"):
        yield "where time went", where_time_went(report)


def graph_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the figures of a graph."""
    spread = figures["edges_of_partitions"]
    nodes = (
        f"{counted(figures['nodes'], 'node')}, {counted(figures['edges'], 'edge')}; at most "
        f"{figures['in_edges_of_largest_node']:,} lead to one node"
    )
    rows = [("graph", nodes)]
    if figures["partitions"] > 1:
        edges = f"{spread['min']:,} to {spread['max']:,} edges each"
        received = f"{figures['halo_rows']:,} rows received in each layer"
        rows.append(("partitions", f"{figures['partitions']:,}, {edges}, {received}"))
    if left := figures["edges_missing"] + figures["edges_of_rejects"]:
        rows.append(
            (
                "edges left out",
                f"{left:,}: {figures['edges_missing']:,} without a node, {figures['edges_of_rejects']:,} "
                "of rejected nodes",
            )
        )
    for layer in figures["layers"]:
        rate = layer["edges"] / max(1e-9, layer["seconds"])
        speed = f"{counted(layer['edges'], 'edge')} in {layer['seconds']:.1f} s, {rate:,.0f} edges/s"
        exchanged, predicted = layer["bytes_exchanged"] / 1e6, layer["bytes_predicted"] / 1e6
        if figures["partitions"] > 1:
            speed += f", {exchanged:,.1f} MB exchanged, {predicted:,.1f} MB predicted"
        rows.append((f"layer {layer['layer']}", speed))
    return rows


def where_time_went(report: dict[str, Any]) -> str:
    """Say in one line what the replicas' time went into, and what would help most."""
    shares: dict[str, float] = report["time"]
    line = ", ".join(f"{share:.0%} {PARTS_OF_TIME[name]}" for name, share in shares.items() if share >= 0.005)
    seconds = report["seconds"]
    if seconds["startup"] and seconds["startup"] > seconds["steady"]:
        return f"{line}; starting took longer than embedding: more rows in one run would help"
    worst = max(_REMEDIES, key=lambda name: shares[name])
    return f"{line}; {_REMEDIES[worst]}" if shares[worst] >= _SMALL else line


def show_report(run: Run) -> None:
    """Show the figures of a run; of one with rejects why, and whether they are too many."""
    rows = report_rows(run.report)
    if reasons := reject_reasons(run):
        told = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
        rows.insert(1, ("rejected", f"{told}; see {run.path.rstrip('/')}/rejects"))
    show_pairs(f"embed-ops: {run.path}", rows)
    if run.exit_code:
        console().print(f"exit code 1: {_too_many(run)}")


def reject_reasons(run: Run) -> Counter[str]:
    """Count the rejects of a run by reason; none where they lie in too many files for a summary."""
    reasons: Counter[str] = Counter()
    if not run.report["rejected"]:
        return reasons
    rejects = run.rejects()
    if len(getattr(rejects, "files", ())) > _MOST_REJECT_FILES:
        return reasons
    for batch in rejects.to_batches(columns=[REASON]):
        for one in batch.column(0).value_counts().to_pylist():
            reasons[one["values"]] += one["counts"]
    return reasons


def _too_many(run: Run) -> str:
    """Say why a run that is done has exit code 1."""
    report = run.report
    if report["file_rejects"]:
        files = counted(report["file_rejects"], "file")
        return f"{files} could not be read to the end; mend them, and run the same command again"
    rejected, limit = report["rejected"], run.spec.max_reject_fraction
    return (
        f"{rejected:,} of {rejected + report['rows']:,} rows were rejected, more than max_reject_fraction = "
        f"{limit:g} allows. Every other row is embedded"
    )


def show_next(run: Run) -> None:
    """Say where the vectors are, and which commands go on from there."""
    path = run.path.rstrip("/")
    shown = console()
    shown.print(f"vectors: {path}/data, as Parquet")
    shown.print(f"next: embed-ops verify {path}, then embed-ops report {path}")
