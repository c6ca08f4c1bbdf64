"""`embed-ops examples [FOLDER]`: specs to begin with, their data, and the tutorial's notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embed_ops.commands.options import LogLevel
from embed_ops.commands.running import verb
from embed_ops.terminal import write_line

HELP = (
    "Copy the examples to a folder: specs for texts, images and graphs, a script that makes data for "
    "them, and the notebooks of the tutorial. What is there already stays, and a file that is there "
    "with other contents is refused before anything is copied.\n\n"
    "Exit codes: 0 done; 2 a file is there already; 3 the folder can't be written."
)


@verb
def run(
    folder: Annotated[str, typer.Argument(help="where they go")] = "examples",
    log_level: LogLevel = "warning",
) -> int:
    """Copy."""
    from embed_ops.analysis.examples import copy_examples

    count = copy_examples(Path(folder).expanduser())
    write_line(f"{count} files are in {folder}; next: cd {folder} && python make_data.py")
    return 0
