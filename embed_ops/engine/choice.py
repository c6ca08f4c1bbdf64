"""Which engine a command runs on: decided from what is planned, before anything is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from embed_ops.errors import AddressError
from embed_ops.terminal import size

Name = Literal["local", "ray"]
Wanted = Literal["auto", "local", "ray"]
ENGINES: dict[Name, str] = {"local": "worker processes of this command, without Ray", "ray": "Ray"}
"""What a person is told of them."""
FEW_ROWS, FEW_BYTES = 100_000, 256 << 20
"""Work up to which worker processes of this command do as much as Ray on one machine, and begin
sooner (`bench/start.py`)."""


@dataclass(frozen=True)
class Planned:
    """What a command is to do, so far as it is known before any row is read.

    Attributes:
        rows: to embed or to read, None where only reading tells.
        bytes: of the files they stand in.
        engine: what the spec says: "local", "ray", or "auto".
        doing: told what is started, where that takes its time.
    """

    rows: int | None = None
    bytes: int = 0
    engine: Wanted = "auto"
    doing: Callable[[str], None] = field(default=lambda what: None, compare=False, repr=False)


@dataclass(frozen=True)
class Choice:
    """An engine, and why in words."""

    engine: Name
    why: str


def choose(planned: Planned, address: str | None) -> Choice:
    """Choose the engine of a command.

    Args:
        planned: what it is to do.
        address: of a Ray cluster, as `--address` names it.

    Raises:
        AddressError: the spec wants the local engine, and the command line a cluster.
    """
    if planned.engine == "local" and address is not None:
        raise AddressError(
            f'--address {address} names a Ray cluster, and resources.engine is "local": leave one of them out'
        )
    if planned.engine != "auto":
        return Choice(planned.engine, f'resources.engine is "{planned.engine}"')
    named = {"--address": address, "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "").strip() or None}
    for named_by, place in named.items():
        if place is not None:
            return Choice("ray", f"{named_by} is {place}")
    if _joined():
        return Choice("ray", "this process has joined it")
    rows = "" if planned.rows is None else f"{planned.rows:,} rows, "
    work = f"{rows}{size(planned.bytes)}"
    if (planned.rows or 0) <= FEW_ROWS and planned.bytes <= FEW_BYTES:
        return Choice("local", f"{work}: up to {FEW_ROWS:,} rows and {FEW_BYTES >> 20} MiB need none")
    return Choice("ray", f"{work}: more than {FEW_ROWS:,} rows or {FEW_BYTES >> 20} MiB")


def _joined() -> bool:
    """Tell whether this process has a Ray already; where nothing has imported it, it has none."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())
