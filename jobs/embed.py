"""`embed-ops embed SPEC`: the main job."""

from __future__ import annotations

import sys

from embed_ops.summary import show_report
from jobs.command import (
    EXIT_CODES,
    Address,
    Grace,
    LogLevel,
    Progress,
    StopAfter,
    Words,
    field_help,
    limits,
    load_spec,
    opener,
    run_alone,
    verb,
)

HELP = (
    f"Embed a corpus: every row to a vector, or to a reject with a reason; resumes where it was stopped.\n\n{EXIT_CODES}\n\n{field_help()}"
)


@verb
def run(
    words: Words = None,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Embed what is left."""
    spec = load_spec(words)
    from embed_ops.embedding import embed
    from embed_ops.progress import reporter

    with reporter(progress) as shown:
        done = embed(spec, session=opener(address), reporter=shown, **limits(stop_after, grace))
    show_report(done)
    return done.exit_code


if __name__ == "__main__":
    run_alone(sys.modules[__name__])
