"""The page that `runs --html` writes: a table of all runs below a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from embed_ops.analysis.overview import BROKEN_OFF, DAMAGED, RunLine, depth_of
from embed_ops.analysis.overview_table import Column, columns_of, label_of
from embed_ops.analysis.sheet.render import link_to, write_sheet
from embed_ops.runs.header import FINISHED
from embed_ops.storage.location import locate

_LOOKS = {FINISHED: "good", DAMAGED: "bad", BROKEN_OFF: "bad"}


@dataclass(frozen=True)
class _Row:
    """A run as the page has it: what it is called there, and `page`, its `report.html`."""

    path: str
    depth: int
    status: str
    look: str
    wrong: str
    cells: list[tuple[Column, str]]
    page: str | None


def write_runs(path: str, folder: str, lines: Sequence[RunLine]) -> None:
    """Write the page.

    Args:
        path: of the page.
        folder: that was looked through.
        lines: the runs, in order.

    Raises:
        PackageError: Jinja2 is not installed.
        StorageError: it can't be written.
    """
    columns = columns_of(lines)
    by_path = {line.path: line for line in lines}
    rows = [
        _Row(
            label_of(line),
            depth_of(line, by_path),
            line.status,
            _LOOKS.get(line.status, "amber"),
            line.wrong,
            [(column, column.worded(line)) for column in columns],
            _page(path, folder, line),
        )
        for line in lines
    ]
    rejects = sum(line.rejects or 0 for line in lines)
    stages = sum(bool(depth_of(line, by_path)) for line in lines)
    told = f"{len(lines) - stages:,} runs, {stages:,} stages, {rejects:,} rejects"
    write_sheet(
        path,
        "runs.html",
        title=f"runs below {folder}",
        subtitle=f"{told}; as of {time.strftime('%Y-%m-%d %H:%M')}",
        columns=columns,
        rows=rows,
    )


def _page(path: str, folder: str, line: RunLine) -> str | None:
    """Lead to the page of a run, where both are on this disk."""
    here, there = locate(path), locate(folder)
    if not line.page or not (here.local and there.local):
        return None
    target = os.path.normpath(f"{there.path}/{line.path}/report.html")
    return link_to(os.path.relpath(target, os.path.dirname(here.path)))  # noqa: PTH120
