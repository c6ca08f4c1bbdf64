"""How a verb runs: what it raises becomes one sentence and an exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec

import typer

from embed_ops.engine.streams import lasting_streams
from embed_ops.errors import EmbedOpsError
from embed_ops.terminal import PlainConsole, PlainFormatter, plain, plain_line

Parameters = ParamSpec("Parameters")


class _ToStandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is now: a live line moves away for it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Standard error."""
        return sys.stderr


class _Levelled(PlainFormatter):
    """Says how bad a message is, and of another package whose it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message."""
        ours = record.name.partition(".")[0] == "embed_ops"
        who = "" if ours and record.levelno > logging.INFO else f" {plain_line(record.name)}"
        return f"{record.levelname.lower()}{who}: {super().formatMessage(record)}"


def verb(function: Callable[Parameters, int]) -> Callable[Parameters, None]:
    """Turn a function that returns an exit code into a command.

    Errors are shown as one sentence.
    """

    @functools.wraps(function)
    def command(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        shown = _ToStandardError()
        shown.setFormatter(_Levelled("%(message)s"))
        logging.basicConfig(level=str(kwargs.get("log_level", "warning")).upper(), handlers=[shown])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with lasting_streams():
            code = _run(function, *args, **kwargs)
        raise typer.Exit(code)

    return command


def _run(function: Callable[Parameters, int], *args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
    """Call a verb, and turn what it raises into a sentence and an exit code."""
    try:
        return function(*args, **kwargs)
    except EmbedOpsError as error:
        _complain(str(error))
        return error.exit_code
    except Exception:
        # A fault of the program: its traceback is what a report needs, and no exit code of a job
        # that is done.
        sys.stderr.write(plain(traceback.format_exc()))
        _complain("failed for a reason that it does not know; please report the lines above")
        return 3
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on")
        return 3


def _complain(text: str) -> None:
    PlainConsole(stderr=True, soft_wrap=True).print(f"embed-ops: {text}")
