"""The Ray session of a command: starts a local Ray or joins a cluster, and stops only what it started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

LOCAL = "local"
_IDLE_WORKERS = 16
"""Idle worker processes that a Ray of its own keeps. By default it keeps as many as there are cores, actors counted, so that
on a small machine full of replicas every reading or writing task would start a process anew: two seconds of a core."""


@contextmanager
def session(address: str | None = None) -> Iterator[bool]:
    """Open a session for the time of a `with`.

    A Ray that this process has joined already is used as it is. Otherwise `address`, then `RAY_ADDRESS` (set inside a
    Ray job), then a Ray of its own on this machine. Gives whether it is such a one, to which no node will be added.
    """
    if ray.is_initialized():
        yield False
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's C++ side warns on every actor pool of Ray Data (ray issue 53727): noise that no user can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    place = address or os.environ.get("RAY_ADDRESS") or LOCAL
    ray.init(
        address=place,
        include_dashboard=False if place == LOCAL else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _system_config={"num_workers_soft_limit": (os.cpu_count() or 1) + _IDLE_WORKERS} if place == LOCAL else None,
    )
    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield place == LOCAL
    finally:
        ray.shutdown()
