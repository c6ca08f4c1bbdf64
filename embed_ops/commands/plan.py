"""`embed-ops plan SPEC`: the unit table and what the run will take, before anything is spent."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from embed_ops.commands.field_table import field_help
from embed_ops.commands.options import (
    EXIT_CODES,
    Address,
    LogLevel,
    Progress,
    Words,
    load_spec,
    opener,
)
from embed_ops.commands.running import verb
from embed_ops.schema import GRAPH
from embed_ops.terminal import write_line

_FEW_SAMPLES = 4
"""A corpus of no more samples is embedded about as fast as one: most of the time is starting."""
HELP = (
    "List what a spec would read, files, spans, units, rows, bytes; then say what the run will take. "
    "Writes no run. What `embed` would refuse before it starts, `plan` refuses too.\n\n"
    "A sample of rows from many places goes through the real model, on the cluster that would do the "
    "work, and tells rows, tokens and their lengths, rejects, time, cost, bytes of the vectors, memory; "
    "with a warning where files, row groups, units, long texts or the device stand in the way. "
    "`embed-ops report` shows afterwards how good that was. Where there are hardly more rows than in a "
    "sample, it says so and embeds none. With --list no model is looked at; graphs are only listed, "
    "since a sample of nodes would tell nothing of their time.\n\n"
    f"{EXIT_CODES}\n\n{field_help('plan')}"
)


@verb
def run(
    words: Words = None,
    only: Annotated[bool, typer.Option("--list", help="only list: loads no model")] = False,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="of an hour on these machines", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=16, help="rows of the sample")] = 1_024,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Show the plan."""
    from embed_ops.analysis.summary import show_plan

    spec, session = load_spec(words), opener(address)
    from embed_ops.embedding.checks import check, require_space, require_stages
    from embed_ops.engine.progress import reporter
    from embed_ops.runs.ledger import take_stock
    from embed_ops.sources.plan import unit_limits

    with reporter(progress) as shown:
        checked = check(spec, shown, model=not only)
        if not only and checked.header is None:
            require_space(spec, checked.run, take_stock(checked.plan, {}, unit_limits(spec)))
        if not only:
            require_stages(spec, checked.plan)
    show_plan(checked.plan, spec, checked.corpus.left_out)
    if only or spec.source.kind == GRAPH:
        return 0
    from embed_ops.analysis.findings import show_prediction
    from embed_ops.analysis.predict import about_rows
    from embed_ops.analysis.predict import predict as predicted

    rows = about_rows(checked.corpus, checked.plan, spec.seed)
    if rows <= _FEW_SAMPLES * sample:
        about = "" if checked.plan.rows is not None else "about "
        write_line(
            f"{about}{rows:,} rows: to embed a sample first would take about as long as all of them. Just "
            f"run it: embed-ops embed {shlex.join(words or ())}"
        )
        return 0
    with reporter(progress) as shown:
        prediction = predicted(spec, price=price, most=sample, session=session, reporter=shown)
    show_prediction(prediction, price)
    return 0
