"""The heartbeat of an attempt.

A small file, written again and again, that keeps a second command off the same run directory.

It is advice, not a lock: units have fixed names and appear whole, so two commands that do run at
once waste work and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import psutil

from embed_ops.errors import HeldError, StorageError
from embed_ops.storage.files import Location, create, file_info, publish, read_bytes, remove

BEAT_S = 20.0
DEAD_AFTER_S = 120.0
"""Clocks of two hosts may differ by a minute; a heart that beats is never taken for dead."""
_CLOCKS_APART_S = 60.0
NAME = "heartbeat.json"

_SPACE = re.compile(r"\.[0-9a-f]{8}$")
_DIGITS = 16
"""Of a process id and of a time: longer ones are no attempt's."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who is at work on a run directory.

    Attributes:
        attempt: its name.
        beat: when its heart beat last, by its own clock, seconds since 1970.
        written: when the file was written, by the storage's clock; 0 where that is not told.
    """

    attempt: str
    beat: float
    written: float = 0.0

    @property
    def dead(self) -> bool:
        """Whether its process is gone, or, where it can't be asked, has been silent for a while.

        A beat from the future is of a clock that tells nothing: the storage's own then counts.
        """
        now = time.time()
        told = math.isfinite(self.beat) and self.beat <= now + _CLOCKS_APART_S
        beat = self.beat if told else self.written
        return attempt_is_dead(self.attempt) or not -_CLOCKS_APART_S <= now - beat <= DEAD_AFTER_S


class Heartbeat:
    """Says that an attempt is at work, for the time of a `with`; `begin` writes the first beat."""

    def __init__(self, run: Location, attempt: str) -> None:
        self._run = run
        self._place = run.child(NAME)
        self._attempt = attempt
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Refuse to start beside a living attempt.

        Raises:
            HeldError: says who it is.
        """
        holder = holder_of(self._run)
        if holder is not None and not holder.dead:
            raise self._held_by(holder)
        return self

    def begin(self) -> None:
        """Write the first beat, and go on in a thread.

        Raises:
            HeldError: another attempt began a moment earlier.
        """
        if not create(self._place, self._content()):
            holder = holder_of(self._run)
            if holder is not None and not holder.dead:
                raise self._held_by(holder)
            self._beat()
        self._thread = threading.Thread(target=self._go_on, name="embed-ops heartbeat", daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        """Stop, and take the file away if it is still this attempt's."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        try:
            holder = holder_of(self._run)
            if holder is not None and holder.attempt == self._attempt:
                remove(self._place)
        except (OSError, StorageError) as failure:
            # It dies of old age; the error that ended the run matters more.
            _log.warning("%s: can't be deleted: %s", self._place.path, failure)

    def _content(self) -> bytes:
        return json.dumps({"attempt": self._attempt, "beat": time.time()}).encode()

    def _beat(self) -> None:
        publish(self._run, NAME, self._content(), self._attempt)

    def _go_on(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._beat()
            except (OSError, StorageError) as failure:
                # Storage that fails for good will stop the job where it writes what matters.
                _log.warning("%s: can't be written: %s", self._place.path, failure)

    def _held_by(self, holder: Holder) -> HeldError:
        host, pid, began = attempt_parts(holder.attempt)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
        return HeldError(
            f"{self._run.path}: another command is at work on this run: host {_SPACE.sub('', host)}, "
            f"pid {pid}, since {since}, last heard of "
            f"{max(0.0, time.time() - holder.beat):.0f} s ago. Wait for it or stop it; one that died on "
            "another host is forgotten after "
            f"{DEAD_AFTER_S:.0f} s, and {NAME} may be deleted if you know better"
        )


def holder_of(run: Location) -> Holder | None:
    """Read who holds a run; None where nobody does, or the file is not a heartbeat."""
    place = run.child(NAME)
    content = read_bytes(place)
    try:
        beat: dict[str, Any] = json.loads(content) if content else {}
        told = file_info(place).mtime_ns
        return Holder(str(beat["attempt"]), float(beat["beat"]), (told or 0) / 1e9)
    except (ValueError, KeyError, TypeError):
        return None


def new_attempt() -> str:
    """Name this process's try at a run.

    Host, pid and time, so that a later one can tell whether it is dead.
    """
    return f"{_host()}-{os.getpid()}-{time.time_ns() // 1_000_000}"


@cache
def _host() -> str:
    """Name the machine, and what tells its processes from those of others.

    Containers of one name have process ids of their own: boot and PID namespace tell them apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}.{hashlib.sha256(f'{boot} {space}'.encode()).hexdigest()[:8]}"


def attempt_parts(attempt: str) -> tuple[str, int, float]:
    """Read host, pid and start (seconds since 1970) off an attempt's name.

    ("", 0, 0.0) where it is none.
    """
    host, pid, started = attempt.rsplit("-", 2) if attempt.count("-") >= 2 else ("", "", "")
    numbers = pid.isdecimal() and started.isdecimal() and len(pid) < _DIGITS and len(started) < _DIGITS
    return (host, int(pid), int(started) / 1000) if numbers else ("", 0, 0.0)


def attempt_is_dead(attempt: str) -> bool:
    """Tell whether the process of an attempt is gone.

    One on another host is taken to live for a day.
    """
    host, pid, started = attempt_parts(attempt)
    if not pid:
        return False
    # Earlier versions named the host alone.
    if host in (_host(), socket.gethostname()):
        try:
            process = psutil.Process(pid)
            return bool(process.status() == psutil.STATUS_ZOMBIE or process.create_time() > started + 1)
        except (psutil.NoSuchProcess, OverflowError):
            return True
    return time.time() - started > 86_400
