"""The console script `embed-ops`: collects the verbs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from embed_ops import __version__
from embed_ops.commands import (
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

HELP = (
    "Turns a corpus too big for one script into embeddings: Parquet in, Parquet out, complete, "
    "resumable, proved.\n\n"
    "\b\nFirst steps:\n"
    "  embed-ops demo                          see all of it, in a minute\n"
    "  embed-ops init data/                    a spec for your data: embed.toml\n"
    "  embed-ops plan embed.toml --price 1.2   what it will take\n"
    "  embed-ops embed embed.toml              the same command again goes on after any stop\n"
    "  embed-ops verify embedded/              every row once, every checksum right\n"
    "  embed-ops report embedded/              one page for a browser\n\n"
    "Then: run and postprocess (normalise, reduce, cluster), neighbors (search), evaluate and classify, "
    "export. Every verb has --help."
)
app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"embed-ops {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    """Take the options that stand before a verb."""


for verb in VERBS:
    app.command(name=verb.__name__.rpartition(".")[2].replace("_", "-"), help=verb.HELP)(verb.run)


def main() -> None:
    """Run the verb that the command line names."""
    app(prog_name="embed-ops")


def run_verb(name: str) -> None:
    """Run one verb with the words of the command line: what `python -m jobs.VERB` does."""
    app([name, *sys.argv[1:]], prog_name="embed-ops")
