"""What a command shows at its end: tables for a person, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embed_ops.analysis.tables import console, show_pairs
from embed_ops.sources.listing import LeftOut
from embed_ops.sources.plan import Plan, estimated_units, unit_limits
from embed_ops.spec.spec import Spec
from embed_ops.terminal import PlainTable

if TYPE_CHECKING:
    from embed_ops.runs.run import Run
    from embed_ops.runs.verify.verification import Verification

_LISTED_FILES = 20
LISTED_FIGURES = 6
"""Of a list so many are shown."""


def _number(value: float | None, unit: str = "", digits: int = 0) -> str:
    return "not measured" if value is None else f"{value:,.{digits}f}{unit}"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the figures of a report, a (name, value) each."""
    seconds = report["seconds"]
    rows = [
        (
            "rows",
            f"{report['rows']:,}, {report['rejected']:,} rejected, {report['truncated']:,} truncated, "
            f"{report['filtered']:,} filtered",
        ),
        (
            "units",
            f"{report['units']:,}, of which {report['units_skipped']:,} were done before; "
            f"{report['spans_read']:,} spans read",
        ),
    ]
    if report.get("unknown"):
        rows.append(("words without a vector", f"{report['unknown']:,}, left out of the means"))
    rows += [("files left out", left_out_line(item)) for item in report.get("left_out", ())]
    if report["file_rejects"]:
        rows.append(("files not read to their end", f"{report['file_rejects']:,}"))
    rows.append(
        (
            "seconds",
            f"{seconds['total']:.1f} in all, {_number(seconds['startup'], '', 1)} to start, "
            f"{seconds['steady']:.1f} steady",
        )
    )
    if "graph" in report:
        rows += graph_rows(report["graph"])
    elif report["rows_per_second"] is not None:
        rows += _speed_rows(report)
    for item in report["parity"]:
        rows.append(
            (
                f"parity of {item['output']}",
                f"cosine {item['mean']:.6f} mean, {item['min']:.6f} min over {item['rows']} rows to "
                f"{item['reference']}",
            )
        )
    return rows


def left_out_line(item: Mapping[str, Any]) -> str:
    """Word what a listing left out for one reason."""
    more = ", ..." if item["files"] > len(item["names"]) else ""
    return f"{item['why']}: {item['files']:,} ({', '.join(item['names'])}{more})"


def _speed_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Word how fast rows were embedded, and what stood against it."""
    seconds, idle, chosen = report["seconds"], report["idle"], report["resolved"]
    of_images = report.get("modality") == "image"
    rows_named, tokens_named = ("images", "positions") if of_images else ("rows", "tokens")
    gemm, useful = (
        None if report[name] is None else report[name] / 1e9
        for name in ("gemm_flops_per_second", "flops_per_second")
    )
    rows = [
        (
            "speed",
            f"{report['rows_per_second']:,.0f} {rows_named}/s, {report['tokens_per_second']:,.0f} "
            f"{tokens_named}/s",
        ),
        (
            "utilization",
            f"{_share(report['utilization'])}: {_number(useful)} of {_number(gemm)} GFLOP/s, "
            f"{report['replicas']} replicas",
        ),
        ("padding waste", _share(report["padding_waste"])),
        (
            "replicas idle",
            f"{_share(idle['input'])} waiting for input, {_share(idle['output'])} for output"
            # Beside a CPU there is no host, and a report of before says nothing of it.
            + (f", {_share(idle['host'])} for the host" if idle.get("host") else ""),
        ),
        (
            "readers",
            f"{seconds['read']:.1f} s reading, {seconds['prepare']:.1f} s "
            f"{'decoding' if of_images else 'tokenizing'}",
        ),
    ]
    if report.get("time"):
        rows.append(("where time went", where_time_went(report)))
    if report.get("halved"):
        told = f"{report['halved']} units had batches that did not fit and were halved; lower token_budget"
        rows.append(("out of memory", told))
    if report.get("replica_deaths"):
        told = f"{report['replica_deaths']:,} times; {report['isolated']:,} units were embedded in isolation"
        rows.append(("replicas that died", told))
    compiled = "compiled" if chosen["compile"] else "not compiled"
    batches = f"{chosen['token_budget']} tokens a batch, {chosen['threads_per_replica']} threads"
    return [*rows, ("computed in", f"{chosen['dtype']}, {compiled}, {batches}"), *_device_rows(report)]


def _device_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name the GPUs that did the work, and the memory that a replica took."""
    names = [name for name in report.get("devices", ()) if name != "cpu"]
    held = report["peak_memory"].get("gpu", 0) / 2**30
    return [("computed on", f"{', '.join(names)}; a replica held {held:.1f} GiB")] if names else []


def graph_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the figures of a graph."""
    spread = figures["edges_of_partitions"]
    nodes = (
        f"{figures['nodes']:,} nodes, {figures['edges']:,} edges; the largest node has "
        f"{figures['in_edges_of_largest_node']:,} in-edges"
    )
    edges = (
        f"{spread['min']:,} to {spread['max']:,} edges, {figures['halo_rows']:,} rows received in each layer"
    )
    rows = [("graph", nodes), ("partitions", f"{figures['partitions']:,} with {edges}")]
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
        speed = f"{layer['edges']:,} edges in {layer['seconds']:.1f} s, {rate:,.0f} edges/s"
        exchanged, predicted = layer["bytes_exchanged"] / 1e6, layer["bytes_predicted"] / 1e6
        bytes_told = f"{exchanged:,.1f} MB exchanged, {predicted:,.1f} MB predicted"
        rows.append((f"layer {layer['layer']}", f"{speed}, {bytes_told}"))
    return rows


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
    """Show the figures of a run."""
    show_pairs(f"embed-ops: {run.path}", report_rows(run.report))


def stage_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the figures of a stage's report, a (name, value) each."""
    seconds = report["seconds"]
    fitted = (
        "not fitted here"
        if seconds["fit"] is None
        else f"{seconds['fit']:.1f} to fit in {report['rounds']} rounds"
    )
    rows = [
        (
            "rows",
            f"{report['rows']:,} in {report['units']:,} units, of which {report['units_skipped']:,} were "
            "done before",
        ),
        ("seconds", f"{seconds['total']:.1f} in all, {fitted}, {seconds['steady']:.1f} to apply"),
    ]
    if report["rows_per_second"] is not None:
        rows.append(("speed", f"{report['rows_per_second']:,.0f} rows/s applied"))
    for part in ("model", "quality"):
        rows += [
            (name.replace("_", " "), _figure(value))
            for name, value in report.get(part, {}).items()
            if not isinstance(value, dict)
        ]
    return rows


def _figure(value: Any) -> str:
    """Word one figure; of a long list its beginning."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_figure(item) for item in value[:LISTED_FIGURES])
        return f"{shown}, ... ({len(value)})" if len(value) > LISTED_FIGURES else shown
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_stage(run: Run) -> None:
    """Show the figures of a stage's run."""
    report = run.report
    show_pairs(f"{report['kind']}: {run.path}", stage_rows(report))


@dataclass
class _FileSum:
    spans: int = 0
    units: int = 0
    rows: int | None = 0
    bytes: int = 0


def show_plan(plan: Plan, spec: Spec, left_out: Sequence[LeftOut]) -> None:
    """Show the files of a plan with their spans and units, and what the listing left out."""
    table = PlainTable(title=f"plan: {', '.join(spec.source.paths)}")
    for name in ("file", "spans", "units", "rows", "bytes"):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    units = 0
    by_file: dict[str, _FileSum] = {}
    for span in plan.spans:
        mine = estimated_units(span, unit_limits(spec))
        units += mine
        for piece in span.pieces:
            of_file = by_file.setdefault(piece.source, _FileSum())
            of_file.spans += 1
            of_file.units += mine if len(span.pieces) == 1 else 0
            if of_file.rows is not None:
                of_file.rows = None if piece.rows is None else of_file.rows + piece.rows
            of_file.bytes += piece.bytes
    for name, of in list(by_file.items())[:_LISTED_FILES]:
        listed = f"~{of.units}" if of.units else "shared"
        table.add_row(
            name, str(of.spans), listed, "on reading" if of.rows is None else f"{of.rows:,}", f"{of.bytes:,}"
        )
    if len(by_file) > _LISTED_FILES:
        table.add_row(f"... and {len(by_file) - _LISTED_FILES} more files")
    known = plan.rows
    table.add_section()
    table.add_row(
        f"{len(plan.files)} files in all",
        str(len(plan.spans)),
        f"~{units}",
        "on reading" if known is None else f"{known:,}",
        f"{plan.bytes:,}",
    )
    console().print(table)
    for item in left_out:
        console().print(f"left out: {left_out_line(asdict(item))}", markup=False, highlight=False)


def show_differences(path: str, result: Verification) -> None:
    """Show what `verify` found."""
    if result.ok:
        console().print(
            f"verified: {path}: {result.units:,} units, {result.rows:,} rows + {result.rejects:,} "
            f"rejects + {result.filtered:,} filtered "
            f"= {result.records:,} records, every row once and in order, every checksum right"
            + (", source recounted" if result.source else "")
        )
        return
    table = PlainTable(title=f"{len(result.differences)} differences in {path}")
    table.add_column("file", overflow="fold")
    table.add_column("found", overflow="fold")
    for difference in result.differences:
        table.add_row(difference.file, difference.what)
    console().print(table)
