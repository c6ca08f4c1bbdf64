"""`embed-ops embed SPEC`: the main job."""

from __future__ import annotations

from embed_ops.commands.field_table import field_help
from embed_ops.commands.options import (
    EXIT_CODES,
    Address,
    Grace,
    LogLevel,
    Progress,
    StopAfter,
    Words,
    limits,
    load_spec,
    opener,
)
from embed_ops.commands.running import verb

HELP = (
    "Embed a corpus: every row to a vector, or to a reject with a reason; resumes where it was stopped."
    f"\n\n{EXIT_CODES}\n\n{field_help('embed')}"
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
    from embed_ops.analysis.run_table import show_next, show_report

    spec = load_spec(words)
    from embed_ops.embedding.driver import embed
    from embed_ops.engine.progress import reporter

    with reporter(progress) as shown:
        done = embed(spec, session=opener(address), reporter=shown, **limits(stop_after, grace))
    show_report(done)
    show_next(done)
    return done.exit_code
