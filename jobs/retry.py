"""`embed-ops retry RUN`: only the rejects, merged back in order."""

from __future__ import annotations

import sys

from embed_ops.summary import show_report
from jobs.command import EXIT_CODES, Address, Grace, LogLevel, Progress, RunPath, StopAfter, limits, opener, run_alone, verb

HELP = f"Read the rejects of a run again, embed those that can be, and merge them back in source order.\n\n{EXIT_CODES}"


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
    from embed_ops.embedding import retry
    from embed_ops.progress import reporter

    with reporter(progress) as shown:
        done = retry(path, session=opener(address), reporter=shown, **limits(stop_after, grace))
    show_report(done)
    return done.exit_code


if __name__ == "__main__":
    run_alone(sys.modules[__name__])
