"""The console script `embed-ops`: collects the verbs."""

from __future__ import annotations

import typer

from jobs import (
    classify,
    demo,
    embed,
    evaluate,
    export,
    fit_graph,
    fit_weights,
    init,
    neighbors,
    plan,
    postprocess,
    report,
    retry,
    run,
    submit,
    verify,
    vocabulary,
)

VERBS = (
    *(init, demo, plan, embed, postprocess, run, verify, retry, submit),
    *(report, neighbors, evaluate, classify, export, vocabulary, fit_weights, fit_graph),
)
"""In the order of the help: what makes a run, then what looks into one or fits something."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for verb in VERBS:
    app.command(name=verb.__name__.rpartition(".")[2].replace("_", "-"), help=verb.HELP)(verb.run)


def main() -> None:
    """Run the verb that the command line names."""
    app()


if __name__ == "__main__":
    main()
