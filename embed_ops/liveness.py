"""The name of an attempt, which tells whether its process lives."""

from __future__ import annotations

import os
import socket
import time

import psutil


def new_attempt() -> str:
    """Name this process's try at a run: host, pid and time, so that a later one can tell whether it is dead."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns() // 1_000_000}"


def attempt_parts(attempt: str) -> tuple[str, int, float]:
    """Read host, pid and start (seconds since 1970) off an attempt's name; ("", 0, 0.0) where it is none."""
    host, pid, started = attempt.rsplit("-", 2) if attempt.count("-") >= 2 else ("", "", "")
    return (host, int(pid), int(started) / 1000) if pid.isdigit() and started.isdigit() else ("", 0, 0.0)


def attempt_is_dead(attempt: str) -> bool:
    """Tell whether the process of an attempt is gone; one on another host is taken to live for a day."""
    host, pid, started = attempt_parts(attempt)
    if not pid:
        return False
    if host == socket.gethostname():
        try:
            process = psutil.Process(pid)
            return bool(process.status() == psutil.STATUS_ZOMBIE or process.create_time() > started + 1)
        except psutil.NoSuchProcess:
            return True
    return time.time() - started > 86_400
