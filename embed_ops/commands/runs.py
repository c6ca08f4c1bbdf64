"""`embed-ops runs FOLDER`: all runs below a folder, to compare experiments."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from embed_ops.commands.options import LogLevel, Progress
from embed_ops.commands.running import verb
from embed_ops.errors import RunError
from embed_ops.terminal import write_line

HELP = (
    "List all runs below a folder, stages below the runs that they were made from: status, model, rows and "
    "rejects, parity with the reference, speed, utilization, time, cost and date.\n\n"
    "Reads two small files of each run, many at once; of a run that is not finished its manifest as well. A "
    "run that can't be read is a line that says what is wrong. FOLDER may be on an object store.\n\n"
    "Exit codes: 0 done; 2 there is no such folder, or no run below it; 3 it can't be listed."
)


Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="a folder with runs in it, or below it")]
Html = Annotated[
    str | None, typer.Option(metavar="FILE", help="write a page with the table", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="print the figures as JSON, and nothing else")]
Price = Annotated[
    float | None, typer.Option(min=0.0, help="of an hour on the machines that ran them", show_default=False)
]


@verb
def run(
    where: Folder = ".",
    html: Html = None,
    as_json: AsJson = False,
    price: Price = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """List runs."""
    from embed_ops.analysis.overview import list_runs
    from embed_ops.analysis.overview_table import show_runs
    from embed_ops.engine.progress import reporter

    with reporter("none" if as_json else progress) as shown:
        lines = list_runs(where, price=price, reporter=shown)
    if not lines:
        raise RunError(f"{where}: no run here or below; `embed-ops embed` makes one at its sink.path")
    if html is not None:
        from embed_ops.analysis.sheet.runs import write_runs

        write_runs(html, where, lines)
    if as_json:
        sys.stdout.write(json.dumps([asdict(line) for line in lines], indent=2) + "\n")
        return 0
    show_runs(where, lines)
    if html is not None:
        write_line(f"page in {html}")
    return 0
