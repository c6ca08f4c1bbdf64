"""Tells a reference that is bad from a network or a store that is out.

Before a file is given up, something that was had before is asked for again: where that comes, the
fault is the file's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from embed_ops.errors import StorageError
from embed_ops.schema import Reason
from embed_ops.storage.web import Inadmissible, WebFault

_MOST_KNOWN = 1024
Fault = tuple[str, str]
"""Reason and message of a file that can't be had."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Lost:
    """A file that could not be had after all tries.

    Attributes:
        name: as messages have it.
        cause: what came of the last try.
        host: what it was asked of.
        alone: whether the fault is its own where nothing else is known.
    """

    name: str
    cause: str
    host: str
    alone: bool


class Known:
    """What was last had of each host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._good: dict[str, Callable[[], object]] = {}

    def note(self, host: str, again: Callable[[], object]) -> None:
        """Remember what came, as a question that can be asked again."""
        with self._lock:
            self._good.pop(host, None)
            self._good[host] = again
            if len(self._good) > _MOST_KNOWN:
                del self._good[next(iter(self._good))]

    def has(self, host: str) -> bool:
        """Tell whether a host has answered."""
        with self._lock:
            return host in self._good

    def works(self, host: str) -> bool | None:
        """Ask this host again, or else the one that answered last; None where none ever did."""
        with self._lock:
            again = self._good.get(host) or next(reversed(self._good.values()), None)
        if again is None:
            return None
        try:
            again()
        except (StorageError, WebFault, Inadmissible, OSError):
            return False
        return True


KNOWN = Known()
"""Of this process."""


def judged(items: Sequence[_Item | Fault | Lost]) -> list[_Item | Fault]:
    """Make rejects of files that are lost alone: their reasons and messages.

    Raises:
        StorageError: more than they is lost.
    """
    works: dict[str, bool | None] = {}
    verdicts: list[_Item | Fault] = []
    for item in items:
        if not isinstance(item, Lost):
            verdicts.append(item)
            continue
        if item.host not in works:
            works[item.host] = KNOWN.works(item.host)
        others = works[item.host]
        if not (item.alone if others is None else others):
            raise StorageError(
                f"{item.name}: can't be read: {item.cause}; no other file comes either: mend the network or "
                "the storage, and run the same command again"
            )
        verdicts.append((Reason.UNREACHABLE, f"{item.name}: {item.cause}"))
    return verdicts
