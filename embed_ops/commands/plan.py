"""`embed-ops plan SPEC`: the unit table and what the run will take, before anything is spent."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import (
    EXIT_CODES,
    Address,
    LogLevel,
    Progress,
    Words,
    field_help,
    load_spec,
    opener,
)
from embed_ops.commands.running import verb
from embed_ops.schema import GRAPH

HELP = (
    "List what a spec would read, files, spans, units, rows, bytes; then say what the run will take. "
    "Writes no run.\n\n"
    "A sample of rows from many places goes through the real model, on the cluster that would do the "
    "work, and tells rows, tokens and "
    "their lengths, rejects, time, cost, bytes of the vectors, memory; with a warning where files, row "
    "groups, units, long texts or the "
    "device stand in the way. `embed-ops report` shows afterwards how good that was. With --list no "
    "model is loaded, and nothing "
    "is sampled; graphs are only listed, since a sample of nodes would tell nothing of their time.\n\n"
    f"{EXIT_CODES}\n\n{field_help()}"
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

    spec = load_spec(words)
    from embed_ops.embedding.sink import require_apart, require_free_names, require_names
    from embed_ops.sources.corpus import Corpus
    from embed_ops.sources.plan import unit_limits
    from embed_ops.storage.location import locate

    corpus = Corpus.open(spec.source)
    sink = locate(spec.sink.path)
    require_apart(spec, sink, [corpus])
    require_free_names(spec, corpus)
    plan = corpus.plan()
    require_names(sink, plan, unit_limits(spec))
    show_plan(plan, spec, corpus.left_out)
    if not only and spec.source.kind != GRAPH:
        from embed_ops.analysis.findings import show_prediction
        from embed_ops.analysis.predict import predict as predicted
        from embed_ops.engine.progress import reporter

        with reporter(progress) as shown:
            prediction = predicted(spec, price=price, most=sample, session=opener(address), reporter=shown)
        show_prediction(prediction, price)
    return 0
