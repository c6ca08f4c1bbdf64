"""`embed-ops classify RUN --model PROBE`: a label for every row, with its probability."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import (
    Address,
    Column,
    Grace,
    LogLevel,
    Progress,
    RunPath,
    StopAfter,
    limits,
    opener,
)
from embed_ops.commands.postprocess import AnySpace, run_stage
from embed_ops.commands.running import verb

HELP = (
    "Give every row of a finished run the label that a linear probe finds: a run directory with the "
    "columns predicted, probability and "
    "probabilities (of all classes, in the order of the report), joined to RUN by position. It is the "
    "stage kind=classify: verified, and "
    "gone on with, like any other. The probe is what `embed-ops evaluate` has saved, of this run or of "
    "another with the same model.\n\n"
    "Exit codes: 0 done; 2 the run or the probe is unusable; 3 stopped, and the same command goes on."
)


@verb
def run(
    where: RunPath,
    model: Annotated[str, typer.Option(metavar="PROBE", help="folder that evaluate has written")],
    column: Column = None,
    output: Annotated[
        str | None, typer.Option(help="run directory; by default RUN/stages/classify", show_default=False)
    ] = None,
    any_space: AnySpace = False,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Classify."""
    stage = {"kind": "classify", "probe": model, "column": column}
    run_stage(where, stage, output, opener(address), progress, limits(stop_after, grace), any_space=any_space)
    return 0
