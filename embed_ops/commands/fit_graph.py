"""`embed-ops fit-graph SPEC --output DIR`: GraphSAGE weights where none exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embed_ops.commands.command import LogLevel, Progress, Words, verb
from embed_ops.spec.fit import FitSpec
from embed_ops.spec.spec import fields

_LISTED = "\n".join(f"  fit.{name:<16}  {meaning} [{default}]" for name, default, meaning in fields(FitSpec))
HELP = (
    "Train an unsupervised GraphSAGE on the graph of a spec, on this machine, and save a model folder "
    "for encoder.model.\n\n"
    "Held-out edges tell what was gained: the area under the ROC curve with raw features, with random "
    "weights, and with the trained ones. "
    "Exit codes: 0 the trained weights find held-out edges better than random ones; 1 they do not (the "
    "folder is written all the same); "
    f"2 the spec or the input is unusable.\n\n\b\nFields of [fit], beside [source] [default]:\n{_LISTED}"
)


@verb
def run(
    words: Words = None,
    output: Annotated[Path, typer.Option(help="the model folder to write")] = Path("sage"),
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Fit."""
    from embed_ops.analysis.findings import show_fit
    from embed_ops.engine.progress import reporter
    from embed_ops.spec.spec import parse_fit
    from embed_ops.training.graph import fit_graph

    given = list(words or ())
    path = given.pop(0) if given and "=" not in given[0] else None
    source, fit = parse_fit(path, given, FitSpec)
    with reporter(progress) as shown:
        told = fit_graph(source, fit, output, shown)
    show_fit(str(output), told)
    return 0 if told["better"] else 1
