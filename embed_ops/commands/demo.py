"""`embed-ops demo`: real text, a real model, and what comes of it."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import Address, LogLevel, Progress, opener
from embed_ops.commands.running import verb
from embed_ops.engine.session import kept

HELP = (
    "Embed the docstrings of this Python with all-MiniLM-L6-v2, normalise, reduce and cluster the "
    "vectors, verify all of it, "
    "and search it in plain English."
)


@verb
def run(
    folder: Annotated[str, typer.Argument(help="where the corpus and the run go")] = "demo",
    rows: Annotated[int, typer.Option(help="docstrings to embed at most")] = 4000,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Run the demo."""
    from embed_ops.demo import demo
    from embed_ops.engine.progress import reporter

    with kept(opener(address)) as session:
        return demo(folder, rows, session=session, reporter=lambda: reporter(progress))
