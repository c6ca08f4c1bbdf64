"""The console script `embed-ops`: names the verbs, and imports the one that is asked for."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from embed_ops import __version__

VERBS = {
    "init": "Look at data and write a spec for them.",
    "demo": "See all of it, on a corpus that every Python has.",
    "examples": "Copy specs, data makers and notebooks to begin with.",
    "plan": "Say what a spec would read, and what it will take.",
    "embed": "Embed a corpus; resumes where it was stopped.",
    "postprocess": "Normalise, reduce, quantise, cluster vectors of a run.",
    "run": "Embed, then run the stages of the spec.",
    "verify": "Prove that a run is complete and unchanged.",
    "retry": "Embed the rejects of a run that can be by now.",
    "submit": "Run `embed` as a job on a Ray cluster.",
    "report": "Write one HTML page about a run.",
    "runs": "List all runs below a folder.",
    "neighbors": "Find rows nearest to queries.",
    "evaluate": "Judge the vectors of a run by labels or pairs.",
    "classify": "Label every row by a linear probe.",
    "export": "Write vectors for another program.",
    "vocabulary": "Write a model's word vectors as a run.",
    "fit-weights": "Count words, for weighted means of word vectors.",
    "fit-graph": "Train a GraphSAGE on a graph.",
}
"""In the order of the help: what makes a run, then what looks into one or fits something. Each
verb's own help says more."""

HELP = (
    "Turns a corpus too big for one script into embeddings: Parquet in, Parquet out, complete, "
    "resumable, proved.\n\n"
    "\b\nFirst steps:\n"
    "  embed-ops demo                         see all of it, in a minute\n"
    "  embed-ops init data/                   a spec for your data: embed.toml\n"
    "  embed-ops plan embed.toml --price 1.2  what it will take\n"
    "  embed-ops embed embed.toml             run again, it goes on after any stop\n"
    "  embed-ops verify embedded/             every row once, every checksum right\n"
    "  embed-ops report embedded/             one page for a browser\n\n"
    "Then: run and postprocess (normalise, reduce, cluster), neighbors (search), evaluate and classify, "
    "export. Every verb has --help."
)


class _Verbs(TyperGroup):
    """Verbs that are imported when they are asked for: all of them together take a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        verb = importlib.import_module(f"embed_ops.commands.{cmd_name.replace('-', '_')}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(name=cmd_name, help=verb.HELP)(verb.run)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


app = typer.Typer(
    cls=_Verbs, help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


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


def main() -> None:
    """Run the verb that the command line names, and end the process with its exit code."""
    _end(lambda: app(prog_name="embed-ops"))


def run_verb(name: str) -> None:
    """Run one verb with the words of the command line: what `python -m jobs.VERB` does."""
    _end(lambda: app([name, *sys.argv[1:]], prog_name="embed-ops"))


def _end(act: Callable[[], object]) -> None:
    """Do it, and end the process without the destructors of native libraries.

    A pool whose threads are still starting, as Arrow's after a short command, would abort the
    process there, and its exit code would be 134.
    """
    code: object = 0
    try:
        act()
    except SystemExit as ended:
        code = ended.code
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
