"""The lines of `runs` as words: one table for the terminal, the page and JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embed_ops.analysis.overview import DAMAGED, RunLine, depth_of
from embed_ops.analysis.tables import console
from embed_ops.runs.catalog import STAGES
from embed_ops.runs.header import FINISHED
from embed_ops.terminal import PlainTable

_WIDE = 120
"""Columns of a terminal that shows all figures."""


@dataclass(frozen=True)
class Column:
    """A column: its heading, how a line is worded in it, and whether it is always shown."""

    heading: str
    worded: Callable[[RunLine], str]
    number: bool = True
    always: bool = False


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _parity(line: RunLine) -> str:
    if line.parity is not None:
        return f"{line.parity:.6f} ({line.compared:,} rows)"
    return "not compared" if line.parent is None and line.status == FINISHED and line.dtype else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _date(line: RunLine) -> str:
    if line.started is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(line.finished or line.started))


COLUMNS = (
    Column("status", lambda line: line.status, number=False, always=True),
    Column("kind", lambda line: line.kind, number=False),
    Column("model", lambda line: line.model, number=False, always=True),
    Column("rows", lambda line: _count(line.rows), always=True),
    Column("rejects", lambda line: _count(line.rejects), always=True),
    Column("dtype", lambda line: line.dtype or "", number=False),
    Column("parity", _parity),
    Column("rows/s", lambda line: _count(line.rows_per_second), always=True),
    Column("utilization", lambda line: _share(line.utilization)),
    Column("time", lambda line: _duration(line.seconds)),
    Column("cost", lambda line: "" if line.cost is None else f"{line.cost:,.4g}"),
    Column("date", _date),
)
"""What is told of a run beside its path."""


def columns_of(lines: Sequence[RunLine], *, narrow: bool = False) -> list[Column]:
    """Choose the columns in which any line has something; on a narrow terminal the main ones."""
    return [
        column
        for column in COLUMNS
        if (column.always or not narrow) and any(column.worded(line) for line in lines)
    ]


def label_of(line: RunLine) -> str:
    """Name a run by its path; a stage, which stands below its run, by its folder."""
    return line.path if line.parent is None else line.path.rpartition(f"{STAGES}/")[2]


def show_runs(folder: str, lines: Sequence[RunLine]) -> None:
    """Show a table of runs, and below it what is wrong with damaged ones."""
    shown = console()
    narrow = shown.width < _WIDE
    columns = columns_of(lines, narrow=narrow)
    by_path = {line.path: line for line in lines}
    table = PlainTable(title=f"runs below {folder}")
    table.add_column("run", overflow="fold")
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
        )
    for line in lines:
        name = f"{'  ' * depth_of(line, by_path)}{label_of(line)}"
        table.add_row(name, *(column.worded(line) for column in columns))
    shown.print(table)
    for line in lines:
        if line.status == DAMAGED:
            shown.print(f"{line.path}: {line.wrong}")
    if narrow:
        shown.print("a wider terminal, --html FILE and --json show parity, utilization, time and dates too")
