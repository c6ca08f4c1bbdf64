"""The watch: tells a job that works from one that hangs or fails with every unit.

Pure: what it sees is handed to it.

Workers give signs of life while they are at a unit, since a unit of a large model may take hours. A
worker that hangs ends itself (`guard.py`); the watch is for what nobody in a worker
can see: pools whose actors are never placed, replicas that die on whatever they are given, an
engine that has stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEAST_DEATHS = 10
"""Deaths without any unit coming through that may still be the fault of a few rows."""
DEATHS_PER_REPLICA = 3
SLACK_S = 300.0
"""Seconds beyond `resources.hang_seconds` without any sign of life: a hung worker must have ended
itself, and been replaced."""


@dataclass(frozen=True)
class Pool:
    """What the engine knows of the replicas.

    Attributes:
        alive: replicas at work.
        waiting: replicas that are not placed yet, or start anew.
        deaths: times that a replica has died.
        cause: why the first one did, "" where it is not known.
    """

    alive: int = 0
    waiting: int = 0
    deaths: int = 0
    cause: str = ""


@dataclass
class Watch:
    """Watches one wave of units.

    Attributes:
        hang_seconds: of the spec.
        replicas: most that run at once.
        since: when something last moved, seconds of the caller's clock.
        through: units that came through.
        pool: as it was seen last.
    """

    hang_seconds: float
    replicas: int
    since: float
    through: int = 0
    pool: Pool = field(default_factory=Pool)
    _pulses: Mapping[str, str] = field(default_factory=dict)

    def came_through(self, now: float) -> None:
        """Note a unit that is done, or that failed in a way that was reported."""
        self.through += 1
        self.since = now

    def judge(self, pulses: Mapping[str, str], pool: Pool, now: float) -> str | None:
        """Say why the job should end, None if it should not.

        Args:
            pulses: latest sign of life of each worker; only whether they change counts, not what
                time it is elsewhere.
            pool: the replicas.
            now: seconds of the caller's clock.
        """
        if pulses != self._pulses or pool != self.pool:
            self.since = now
        self._pulses, self.pool = dict(pulses), pool
        if self.through == 0 and pool.deaths >= max(LEAST_DEATHS, DEATHS_PER_REPLICA * self.replicas):
            return (
                f"replicas died {pool.deaths} times and no unit came through; the first: "
                f"{pool.cause or 'no cause is known'}"
            )
        idle = now - self.since
        if idle > self.hang_seconds + SLACK_S:
            where = f"{pool.alive} replicas are alive, {pool.waiting} wait for a place or start anew"
            hint = (
                ""
                if pool.alive
                else ": the cluster has no room for a replica; see resources.* in the spec and `ray status`"
            )
            return f"nothing has moved for {idle:.0f} s; {where}{hint}"
        return None
