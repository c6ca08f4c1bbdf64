"""How a verb runs: what it raises becomes one sentence and an exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from embed_ops.errors import EmbedOpsError
from embed_ops.terminal import PlainConsole, PlainFormatter, plain

Parameters = ParamSpec("Parameters")


def verb(function: Callable[Parameters, int]) -> Callable[Parameters, None]:
    """Turn a function that returns an exit code into a command.

    Errors are shown as one sentence.
    """

    @functools.wraps(function)
    def command(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        shown = logging.StreamHandler()
        shown.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=str(kwargs.get("log_level", "warning")).upper(), handlers=[shown])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            code = function(*args, **kwargs)
        except EmbedOpsError as error:
            _complain(str(error))
            code = error.exit_code
        except Exception:
            # A fault of the program: its traceback is what a report needs, and no exit code of a
            # job that is done.
            sys.stderr.write(plain(traceback.format_exc()))
            _complain("failed for a reason that it does not know; please report the lines above")
            code = 3
        except KeyboardInterrupt:
            _complain("interrupted; run the same command again to go on")
            code = 3
        raise typer.Exit(code)

    return command


def _complain(text: str) -> None:
    PlainConsole(stderr=True, soft_wrap=True).print(f"embed-ops: {text}")
