"""Signs of life and the request to stop, through Ray's key-value store.

No process of its own, a millisecond a call.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.experimental import internal_kv

from embed_ops.engine.watch import Pool

_NAMESPACE = "embed_ops"
_EVERY_S = 5.0
_MOST_CAUSE = 600
_DEAD, _ALIVE = "DEAD", "ALIVE"


def ask_to_stop(attempt: str) -> None:
    """Tell the workers of an attempt to begin no further unit."""
    internal_kv._internal_kv_put(f"{attempt}/stop", b"1", True, namespace=_NAMESPACE)


def asked_to_stop(attempt: str) -> bool:
    """Tell a worker whether its job was asked to stop."""
    return bool(internal_kv._internal_kv_exists(f"{attempt}/stop", namespace=_NAMESPACE))


def pulses(attempt: str) -> dict[str, str]:
    """Read the latest sign of life of every worker of an attempt."""
    keys = internal_kv._internal_kv_list(f"{attempt}/pulse/", namespace=_NAMESPACE)
    values = {key.decode(): internal_kv._internal_kv_get(key, namespace=_NAMESPACE) for key in keys}
    return {key: value.decode() for key, value in values.items() if value is not None}


def forget(attempt: str) -> None:
    """Delete what an attempt left in the store."""
    internal_kv._internal_kv_del(f"{attempt}/", del_by_prefix=True, namespace=_NAMESPACE)


@dataclass
class Pulse:
    """Gives signs of life of one worker, every few seconds at most."""

    attempt: str
    worker: str
    _count: int = 0
    _last: float = 0.0

    def beat(self, doing: str, inputs: int = 0) -> None:
        """Say what is being done; of how many inputs, only workers of one machine tell."""
        now = time.monotonic()
        if now - self._last >= _EVERY_S:
            self._last, self._count = now, self._count + 1
            content = json.dumps({"doing": doing, "beat": self._count}).encode()
            internal_kv._internal_kv_put(
                f"{self.attempt}/pulse/{self.worker}", content, True, namespace=_NAMESPACE
            )


class FirstCause(logging.Handler):
    """Keeps the first error that the engine logs.

    It drops a failed task, and says why only there.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record's exception, or its message."""
        error = record.exc_info[1] if record.exc_info else None
        # A handler that keeps records would keep the engine alive through the traceback, and with
        # it actors and their cores.
        record.exc_info = None
        if not self.text:
            text = record.getMessage() if error is None else f"{type(error).__name__}: {error}"
            self.text = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(text.split()))[:_MOST_CAUSE]


def actors_of_this_job() -> dict[str, dict[str, Any]]:
    """List Ray's actors of this driver by id."""
    job = ray.get_runtime_context().get_job_id()
    # The public state API asks the dashboard, which a Ray of our own does not run; this asks the
    # store behind it.
    return {key: actor for key, actor in state.actors().items() if actor["JobID"] == job}


def pool_of(earlier: set[str], cause: str) -> Pool:
    """Look at the replicas that were started since: those not in `earlier`."""
    mine = [
        actor
        for key, actor in actors_of_this_job().items()
        if key not in earlier and "Replica" in actor["ActorClassName"]
    ]
    alive = sum(actor["State"] == _ALIVE for actor in mine)
    dead = sum(actor["State"] == _DEAD for actor in mine)
    return Pool(alive, len(mine) - alive - dead, sum(actor["NumRestarts"] for actor in mine), cause)
