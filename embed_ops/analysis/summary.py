"""What a plan, a stage and `verify` show: tables for a person, on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embed_ops.analysis.run_table import left_out_line
from embed_ops.analysis.tables import console, counted, show_pairs
from embed_ops.sources.listing import LeftOut
from embed_ops.sources.plan import Plan, estimated_units, unit_limits
from embed_ops.spec.spec import Spec
from embed_ops.terminal import PlainTable

if TYPE_CHECKING:
    from embed_ops.runs.run import Run
    from embed_ops.runs.verify.verification import Verification

_LISTED_FILES = 20
_WORDS_OF_PLAN = (
    "A span is what is read in one go; a unit, the rows that are computed and written as one file, or, "
    "after a stop, done again. Shared: a unit of several small files."
)
LISTED_FIGURES = 6
"""Of a list so many are shown."""


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
            name, str(of.spans), listed, "not known" if of.rows is None else f"{of.rows:,}", f"{of.bytes:,}"
        )
    if len(by_file) > _LISTED_FILES:
        table.add_row(f"... and {len(by_file) - _LISTED_FILES} more files")
    known = plan.rows
    table.add_section()
    table.add_row(
        f"{counted(len(plan.files), 'file')} in all",
        str(len(plan.spans)),
        f"~{units}",
        "not known" if known is None else f"{known:,}",
        f"{plan.bytes:,}",
    )
    console().print(table)
    console().print(_WORDS_OF_PLAN)
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
