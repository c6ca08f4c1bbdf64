"""`embed-ops retry RUN`: only the rejects, merged back in order."""

from __future__ import annotations

from embed_ops.commands.options import (
    EXIT_CODES,
    Address,
    Grace,
    LogLevel,
    Progress,
    RunPath,
    StopAfter,
    limits,
    opener,
)
from embed_ops.commands.running import verb

HELP = (
    "Read the rejects of a run again, embed those that can be, and merge them back in source order."
    f"\n\n{EXIT_CODES}"
)


@verb
def run(
    path: RunPath,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Retry the rejects."""
    from embed_ops.analysis.run_table import show_report
    from embed_ops.embedding.driver import retry
    from embed_ops.engine.progress import reporter

    with reporter(progress) as shown:
        done = retry(path, session=opener(address), reporter=shown, **limits(stop_after, grace))
    show_report(done)
    return done.exit_code
