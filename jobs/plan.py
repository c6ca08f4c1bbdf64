"""`embed-ops plan SPEC`: the unit table, before anything is spent."""

from __future__ import annotations

import sys

from embed_ops.summary import show_plan
from jobs.command import EXIT_CODES, LogLevel, Words, field_help, load_spec, run_alone, verb

HELP = f"List what a spec would read: files, spans, units, rows, bytes. Writes nothing.\n\n{EXIT_CODES}\n\n{field_help()}"


@verb
def run(words: Words = None, log_level: LogLevel = "warning") -> int:
    """Show the plan."""
    spec = load_spec(words)
    from embed_ops.sources.corpus import Corpus

    corpus = Corpus.open(spec.source)
    show_plan(corpus.plan(), spec)
    return 0


if __name__ == "__main__":
    run_alone(sys.modules[__name__])
