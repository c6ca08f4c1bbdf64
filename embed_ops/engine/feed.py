"""A feed: what an iterator gives, taken from a thread of its own.

So that the taker can look up between two items.

The engine's iterator sleeps until a unit is done. The driver has other duties meanwhile: signals,
deadlines, a watch over workers.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_MOST_WAITING = 1000
"""Items that wait for the taker: beyond, the iterator is not asked for more."""
_PATIENCE_S = 10.0


class _Closed(BaseException):
    """Ends the thread of a feed that nobody takes from any more."""


class Feed(Generic[Item]):
    """Runs an iterable in a thread for the time of a `with`.

    Whatever it raises is raised to the taker.
    """

    def __init__(self, iterate: Callable[[], Iterable[Item]]) -> None:
        self._iterate = iterate
        self._items: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="embed-ops feed", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the thread, in the middle of the iteration if need be.

        The iterable's own `finally` runs there.
        """
        while self._thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_Closed)
            )
            while not self._items.empty():
                self._items.get_nowait()
            self._thread.join(_PATIENCE_S)
            if self._thread.is_alive():
                # It is in native code and can't be reached; it ends with the process.
                return

    def take(self, seconds: float) -> Item | None:
        """Wait so long for an item; None where none came.

        Raises:
            StopIteration: there are no more.
        """
        try:
            kind, content = self._items.get(timeout=seconds)
        except queue.Empty:
            return None
        if kind == "end":
            raise StopIteration
        if isinstance(content, BaseException):
            raise content
        return content

    def _run(self) -> None:
        try:
            for item in self._iterate():
                self._items.put(("item", item))
            self._items.put(("end", None))
        except _Closed:
            pass
        except BaseException as error:
            self._items.put(("error", error))
