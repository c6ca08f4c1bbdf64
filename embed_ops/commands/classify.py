"""`embed-ops classify RUN --model PROBE`: a label for every row, with its probability."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.command import (
    Address,
    Grace,
    LogLevel,
    Progress,
    RunPath,
    StopAfter,
    limits,
    opener,
    verb,
)

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
    column: Annotated[
        str | None, typer.Option(help="vector column, where there are several", show_default=False)
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="run directory; by default RUN/stages/classify", show_default=False)
    ] = None,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Classify."""
    from embed_ops.analysis.summary import show_stage
    from embed_ops.engine.progress import reporter
    from embed_ops.postprocessing.driver import postprocess
    from embed_ops.spec.spec import parse_stage

    stage = parse_stage(
        {"kind": "classify", "probe": model, **({} if column is None else {"column": column})}
    )
    with reporter(progress) as shown:
        done = postprocess(
            where,
            [stage],
            output=output,
            session=opener(address),
            reporter=shown,
            **limits(stop_after, grace),
        )
    show_stage(done[0])
    return 0
