"""`embed-ops fit-graph SPEC --output DIR`: GraphSAGE weights where none exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embed_ops.commands.field_table import table
from embed_ops.commands.options import LogLevel, Progress, Words, file_and_words
from embed_ops.commands.running import verb
from embed_ops.spec.fields import fields
from embed_ops.spec.fit import FitSpec

_ROWS = fields(FitSpec, "fit.")
_LISTED = table("Fields of [fit], beside [source] [default]:", _ROWS, max(len(row.address) for row in _ROWS))
HELP = (
    "Train an unsupervised GraphSAGE on the graph of a spec, on this machine, and save a model folder "
    "for encoder.model.\n\n"
    "Held-out edges tell what was gained: the area under the ROC curve with raw features, with random "
    "weights, and with the trained ones. "
    "Exit codes: 0 the trained weights find held-out edges better than random ones; 1 they do not (the "
    "folder is written all the same); "
    f"2 the spec or the input is unusable.\n\n{_LISTED}"
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

    source, fit = parse_fit(*file_and_words(words), FitSpec)
    with reporter(progress) as shown:
        told = fit_graph(source, fit, output, shown)
    show_fit(str(output), told)
    return 0 if told["better"] else 1
