"""The driver's journal: records of finished units, appended to the manifest every few seconds."""

from __future__ import annotations

import time

from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import Record
from embed_ops.runs.statistics import Statistics, load, merged

_EVERY_S = 10.0
_MOST_RECORDS = 1000


class Journal:
    """Records that came in and are not in the manifest yet: of ten seconds, or a thousand.

    A driver that dies loses no more than these, and they are read back from the footers.
    """

    def __init__(self, run: RunDir, attempt: str) -> None:
        self._run = run
        self._attempt = attempt
        self._unwritten: list[Record] = []
        self._statistics: Statistics = {}
        self._written = 0.0

    def add(self, record: Record, statistics: str | None = None) -> None:
        """Take in a record and the statistics of its vectors, as `statistics.dump` writes them.

        What is held back is written when it is due.
        """
        self._unwritten.append(record)
        if statistics is not None:
            self._statistics = merged([self._statistics, load(statistics)])
        if time.monotonic() - self._written > _EVERY_S or len(self._unwritten) >= _MOST_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held back as the next part of the manifest."""
        self._run.manifest.append(self._unwritten, self._attempt, self._statistics)
        self._statistics = {}
        self._unwritten.clear()
        self._written = time.monotonic()
