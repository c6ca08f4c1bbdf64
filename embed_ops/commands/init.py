"""`embed-ops init PATH`: a commented spec for the data that is there."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import LogLevel
from embed_ops.commands.running import verb
from embed_ops.terminal import write_line

HELP = (
    "Look at a folder, a file or a glob, here or on an object store, and write a spec for it: kind of "
    "files, the column with the longest texts or with images, columns worth keeping, a model that suits, "
    "each with a comment. It can be embedded as it stands; edit it first where it should say more.\n\n"
    "Runs that lie among the data are left out. Of images in folders, the folder is kept as label. Of a "
    "model's folder the family is told.\n\n"
    "\b\nExamples:\n"
    "  embed-ops init data.parquet\n"
    "  embed-ops init photos/ --model models/clip --output photos.toml\n\n"
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
        str | None,
        typer.Option(
            metavar="DIR",
            help="the run directory that the spec names; by default embedded, or another new one",
            show_default=False,
        ),
    ] = None,
    log_level: LogLevel = "warning",
) -> int:
    """Write a spec."""
    from embed_ops.analysis.starter import write_starter
    from embed_ops.analysis.tables import counted

    written = write_starter(path, output, model=model, sink=sink)
    survey = written.survey
    what = (
        f"column {survey.column}"
        if survey.column is not None
        else f"every {'image' if survey.modality == 'image' else 'line'}"
    )
    files = f"{counted(survey.files, 'file')} of kind {survey.kind}"
    kept = f"; kept: {', '.join(survey.keep)}" if survey.keep else ""
    write_line(f"{output}: {files}, {what}{kept}; vectors go to {written.sink}")
    if survey.runs:
        write_line(f"left out, since runs lie there: {', '.join(survey.runs)}")
    write_line(f"next: embed-ops plan {output}, then embed-ops embed {output}")
    return 0
