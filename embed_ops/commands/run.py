"""`embed-ops run SPEC`: embed, then the stages."""

from __future__ import annotations

import time

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
from embed_ops.engine.session import kept

HELP = (
    "Embed a corpus and run the [[stage]] list of the spec over it, also where some rows were rejected "
    "(exit 1); "
    "resumes where it was stopped. See `embed-ops postprocess --help` for the "
    f"stages.\n\n{EXIT_CODES}\n\n{field_help('run')}"
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
    """Embed what is left, then fit and apply what is left."""
    from embed_ops.analysis.run_table import show_next, show_report
    from embed_ops.analysis.summary import show_stage

    spec = load_spec(words)
    from embed_ops.embedding.checks import check_stages
    from embed_ops.embedding.driver import embed
    from embed_ops.engine.progress import reporter
    from embed_ops.postprocessing.driver import postprocess

    steering, began = limits(stop_after, grace), time.monotonic()
    with kept(opener(address)) as session, reporter(progress) as shown:
        check_stages(spec)
        done = embed(spec, session=session, reporter=shown, **steering)
        if steering["stop_after_s"] is not None:
            steering["stop_after_s"] -= time.monotonic() - began
        stages = postprocess(spec, session=session, reporter=shown, **steering) if spec.stage else []
    show_report(done)
    for stage in stages:
        show_stage(stage)
    show_next(done)
    return done.exit_code
