"""The options that verbs share: how they are declared, and what is made of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from embed_ops.engine.progress import Style
from embed_ops.engine.session import OpenSession, require_cluster, session
from embed_ops.errors import SpecError
from embed_ops.spec.spec import Spec

Parameters = ParamSpec("Parameters")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SPEC section.key=value",
        help="a TOML file, as `embed-ops init` writes it, and fields that are set over it",
        show_default=False,
    ),
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="a run directory: the sink.path of an embed run")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join; by default RAY_ADDRESS, else this machine, without Ray for small work",
        show_default=False,
    ),
]
Progress = Annotated[
    Style, typer.Option(help="how to show progress; auto: live on a terminal, plain lines elsewhere")
]
Level = Literal["debug", "info", "warning", "error"]
LogLevel = Annotated[Level, typer.Option(help="least level of log messages", case_sensitive=False)]
StopAfter = Annotated[
    str | None,
    typer.Option(
        help="begin no further unit after this time (90s, 30m, 2h); resume later", show_default=False
    ),
]
Grace = Annotated[
    str,
    typer.Option(
        help="after SIGTERM, time for the units in flight (10s, 2m); then stop all the same",
        show_default=True,
    ),
]
Column = Annotated[
    str | None, typer.Option(help="vector column, where there are several", show_default=False)
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

EXIT_CODES = (
    "Exit codes: 0 done; 1 done, but there are more rejects than max_reject_fraction, a file could not be "
    "read to its end, or verify found a difference; 2 the spec or the input is unusable; 3 stopped, and the "
    "same command goes on."
)


def seconds(option: str, text: str) -> float:
    """Read a duration, as 90s, 30m or 2h.

    Raises:
        SpecError: it is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise SpecError(f"{option} {text!r}: write for example 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def limits(stop_after: str | None, grace: str) -> dict[str, Any]:
    """Give what `embed` and `retry` take for `--stop-after` and `--grace`."""
    from embed_ops.engine.stopping import StopRequest

    after = None if stop_after is None else seconds("--stop-after", stop_after)
    return {"stop_after_s": after, "stop": StopRequest(seconds("--grace", grace))}


def file_and_words(words: list[str] | None) -> tuple[str | None, list[str]]:
    """Tell a spec's file, which comes first if given, from the fields that are set after it.

    Raises:
        SpecError: there are neither.
    """
    given = list(words or ())
    if not given:
        here = sorted(path.name for path in Path().glob("*.toml") if path.name != "pyproject.toml")
        found = f"here is {here[0]}" if here else "`embed-ops init DATA` writes one: embed.toml"
        raise SpecError(f"no spec is given: name a TOML file, or fields as source.path=data/; {found}")
    return (given.pop(0) if given and "=" not in given[0] else None), given


def load_spec(words: list[str] | None) -> Spec:
    """Read the spec from the words of a command line."""
    return Spec.load(*file_and_words(words))


def opener(address: str | None) -> OpenSession:
    """Give what opens the engine, once it is needed.

    Raises:
        AddressError, ClusterError: `--address` names no cluster that answers, also where so
            little work is to do that none is needed.
    """
    if address is not None:
        require_cluster(address)
    return functools.partial(session, address=address)
