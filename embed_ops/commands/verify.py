"""`embed-ops verify RUN`: law 1 and the checksums."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import LogLevel, RunPath
from embed_ops.commands.running import verb

HELP = (
    "Prove that a run is complete and unchanged: every row once, in order, every checksum.\n\n"
    "Exit codes: 0 it is; 1 there are differences, which are listed; 2 there is no run, or none that can be "
    "read; 3 the storage fails."
)


@verb
def run(
    path: RunPath,
    source: Annotated[bool, typer.Option("--source", help="count the source again as well")] = False,
    log_level: LogLevel = "warning",
) -> int:
    """Verify a run."""
    from embed_ops.analysis.summary import show_differences
    from embed_ops.runs.verify.run import verify

    verification = verify(path, source=source)
    show_differences(path, verification)
    return 0 if verification.ok else 1
