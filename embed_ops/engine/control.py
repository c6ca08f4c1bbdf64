"""How a command steers a wave of units, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from embed_ops.engine.progress import Totals
from embed_ops.engine.stopping import StopRequest
from embed_ops.engine.watch import Pool, Watch
from embed_ops.runs.record import Record


class Gauges(Protocol):
    """Shows others how a job goes, while it does."""

    def unit(self, record: Record, replica: str, gemm: float, totals: Totals) -> None:
        """Take in a unit that is done, by a replica with such a matrix-product rate in FLOP/s."""
        ...

    def pool(self, pool: Pool) -> None:
        """Take in how the replicas are."""
        ...


class NoGauges:
    """Shows nobody."""

    def unit(self, record: Record, replica: str, gemm: float, totals: Totals) -> None:
        """Do nothing."""

    def pool(self, pool: Pool) -> None:
        """Do nothing."""


@dataclass
class Control:
    """How the driver steers a job: may ask it to stop, sees whether it lives, and tells others."""

    stop: StopRequest
    watch: Watch
    gauges: Gauges
    deaths: int = 0
    """Times that a replica died, in all waves."""
    under_way: Callable[[int], None] = lambda inputs: None
    """Told how many inputs were embedded of units that are not written yet."""
