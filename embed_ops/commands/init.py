"""`embed-ops init PATH`: a commented spec for the data that is there."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import LogLevel
from embed_ops.commands.running import verb
from embed_ops.terminal import write_line

HELP = (
    "Look at a folder, a file or a glob, here or on an object store, and write a spec for it: kind of "
    "files, the column with the longest "
    "texts or with images, columns worth keeping, a model that suits, each with a comment. Edit it, then "
    "plan, embed, report.\n\n"
    "Exit codes: 0 done; 2 nothing that can be embedded is there, or the file to write is."
)


@verb
def run(
    path: Annotated[str, typer.Argument(metavar="PATH", help="the data")],
    output: Annotated[str, typer.Option(metavar="FILE", help="the spec to write")] = "embed.toml",
    model: Annotated[
        str | None,
        typer.Option(help="hub name, folder or prefix; by default a small one", show_default=False),
    ] = None,
    sink: Annotated[
        str, typer.Option(metavar="DIR", help="the run directory that the spec names")
    ] = "embedded",
    log_level: LogLevel = "warning",
) -> int:
    """Write a spec."""
    from embed_ops.analysis.starter import write_starter

    survey = write_starter(path, output, model=model, sink=sink)
    what = (
        f"column {survey.column}"
        if survey.column is not None
        else f"every {'image' if survey.modality == 'image' else 'line'}"
    )
    write_line(
        f"{output}: {survey.files:,} files of kind {survey.kind}, {what}; next: embed-ops plan {output} "
        "--price 1"
    )
    return 0
