"""Calls on their way through worker processes: which are made, which wait, what was said."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

from embed_ops.engine.processes import Died, Place, Said, Workers
from embed_ops.engine.stopping import LOOK_UP_S
from embed_ops.engine.worker_process import Beat, Call, Item


@dataclass(frozen=True)
class _Numbered:
    """A call, what its answers are named by, and how many workers have died of it."""

    number: int
    call: Call
    deaths: int = 0


class Calls:
    """Calls on their way through the workers of some places.

    Args:
        workers: of the session.
        places: where calls are made, one at a time in each.
        calls: in order.
        retries: times that a call is made again whose worker died.
    """

    def __init__(
        self, workers: Workers, places: Sequence[Place], calls: Iterable[Call], retries: int
    ) -> None:
        self._workers, self._retries = workers, retries
        self._free = deque(places)
        self._calls = (_Numbered(number, call) for number, call in enumerate(calls))
        self._next: deque[_Numbered] = deque()
        self.busy: dict[Any, tuple[Place, _Numbered]] = {}

    @property
    def left(self) -> bool:
        """Whether some call has not ended."""
        return bool(self.busy) or self._waiting

    @property
    def _waiting(self) -> bool:
        if not self._next and (following := next(self._calls, None)) is not None:
            self._next.append(following)
        return bool(self._next)

    def begin(self) -> None:
        """Give every worker that is free a call."""
        while self._free and self._waiting:
            place, numbered = self._workers.idle(self._free.popleft()), self._next.popleft()
            worker = self._workers.at(place)
            worker.begin(numbered.call)
            self.busy[worker.connection] = place, numbered

    def ask_to_stop(self) -> None:
        """Ask the calls that run to begin nothing further."""
        for place, _ in self.busy.values():
            self._workers.at(place).ask_to_stop()

    def hear(self) -> Iterator[tuple[int, Said | Died]]:
        """Wait a little, and yield what was said meanwhile."""
        for connection in wait(list(self.busy), LOOK_UP_S):
            place, numbered = self.busy[connection]
            said = self._workers.at(place).hear()
            if not isinstance(said, Beat | Item):
                del self.busy[connection]
                # The same worker goes on: it has what it has loaded.
                self._free.appendleft(place)
            if isinstance(said, Died):
                self._workers.end(place)
                if numbered.deaths < self._retries:
                    self._next.appendleft(replace(numbered, deaths=numbered.deaths + 1))
                    continue
            yield numbered.number, said

    def close(self) -> None:
        """End the workers whose calls nobody waits for any more."""
        for place, _ in self.busy.values():
            self._workers.end(place)
