"""The heartbeat of an attempt.

A small file, written again and again, that keeps a second command off the same run directory.

It is advice, not a lock: units have fixed names and appear whole, so two commands that do run at
once waste work and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

import psutil

from embed_ops.errors import HeldError, StorageError
from embed_ops.storage.files import Location, create, publish, read_bytes, remove

BEAT_S = 20.0
DEAD_AFTER_S = 120.0
"""Clocks of two hosts may differ by a minute; a heart that beats is never taken for dead."""
NAME = "heartbeat.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who is at work on a run directory.

    Its attempt, and when its heart beat last, seconds since 1970.
    """

    attempt: str
    beat: float

    @property
    def dead(self) -> bool:
        """Whether its process is gone, or, where it can't be asked, has been silent for a while."""
        return attempt_is_dead(self.attempt) or time.time() - self.beat > DEAD_AFTER_S


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
        holder = self._holder()
        if holder is not None and not holder.dead:
            raise self._held_by(holder)
        return self

    def begin(self) -> None:
        """Write the first beat, and go on in a thread.

        Raises:
            HeldError: another attempt began a moment earlier.
        """
        if not create(self._place, self._content()):
            holder = self._holder()
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
            holder = self._holder()
            if holder is not None and holder.attempt == self._attempt:
                remove(self._place)
        except (OSError, StorageError) as failure:
            # It dies of old age; the error that ended the run matters more.
            _log.warning("%s: can't be deleted: %s", self._place.path, failure)

    def _content(self) -> bytes:
        return json.dumps({"attempt": self._attempt, "beat": time.time()}).encode()

    def _holder(self) -> Holder | None:
        """Read who holds the run; None where nobody does, or the file is not a heartbeat."""
        content = read_bytes(self._place)
        try:
            beat: dict[str, Any] = json.loads(content) if content else {}
            return Holder(str(beat["attempt"]), float(beat["beat"]))
        except (ValueError, KeyError, TypeError):
            return None

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
            f"{self._run.path}: another command is at work on this run: host {host}, pid {pid}, since "
            f"{since}, last heard of "
            f"{max(0.0, time.time() - holder.beat):.0f} s ago. Wait for it or stop it; one that died on "
            "another host is forgotten after "
            f"{DEAD_AFTER_S:.0f} s, and {NAME} may be deleted if you know better"
        )


def new_attempt() -> str:
    """Name this process's try at a run.

    Host, pid and time, so that a later one can tell whether it is dead.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns() // 1_000_000}"


def attempt_parts(attempt: str) -> tuple[str, int, float]:
    """Read host, pid and start (seconds since 1970) off an attempt's name.

    ("", 0, 0.0) where it is none.
    """
    host, pid, started = attempt.rsplit("-", 2) if attempt.count("-") >= 2 else ("", "", "")
    return (host, int(pid), int(started) / 1000) if pid.isdigit() and started.isdigit() else ("", 0, 0.0)


def attempt_is_dead(attempt: str) -> bool:
    """Tell whether the process of an attempt is gone.

    One on another host is taken to live for a day.
    """
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
