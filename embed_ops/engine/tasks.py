"""Plain Ray tasks: so many at once as there are cores, until all are done or the command is asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from embed_ops.engine.errors import engine_error
from embed_ops.engine.progress import Reporter
from embed_ops.engine.stopping import StopRequest
from embed_ops.errors import EngineError, Stopped

_LOOK_UP_S = 0.5
TASK_RETRIES = 3
_AHEAD = 2
"""Tasks submitted for each core: the next one waits where the last one ends."""
_PATIENCE_S = 3600.0
"""The longest that no task may end: a stretch takes seconds or minutes."""


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call on one core: a product over several threads would have other bits, and take the cores of other tasks."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return function(*arguments)


def _only(function: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    """Call alone, for a result of one member, which Ray would take for a list."""
    (found,) = alone(function, *arguments)
    return found


@dataclass
class Tasks:
    """Runs tasks on the cluster until they are done, or the command is asked to stop."""

    stop: StopRequest
    reporter: Reporter
    deadline: float | None = None
    memory: int = 0
    """Greatest resident bytes of a worker."""
    kernels: set[str] = field(default_factory=set)
    """Kernels of matrix products of the workers that told theirs."""

    @property
    def cores(self) -> int:
        """How many the cluster has now."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    @property
    def store_bytes(self) -> float:
        """What the object stores of all nodes hold."""
        size: float = ray.cluster_resources().get("object_store_memory", 1 << 30)
        return size

    def each(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call a function for each tuple of arguments, and yield (number of the call, result) as they finish.

        Raises:
            Stopped: the command was asked to stop; calls in flight were finished and yielded.
            EngineError: nothing ends any more, or workers die again and again.
        """
        task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(alone)
        most = _AHEAD * self.cores
        waiting: dict[Any, int] = {}
        left = enumerate(calls)
        more, moved = True, time.monotonic()
        try:
            while True:
                while more and len(waiting) < most and not self._ending():
                    following = next(left, None)
                    more = following is not None
                    if following is not None:
                        waiting[task.remote(function, *following[1])] = following[0]
                if not waiting or self.stop.expired:
                    break
                done, _ = ray.wait(list(waiting), timeout=_LOOK_UP_S)
                for ref in done:
                    moved = time.monotonic()
                    yield waiting.pop(ref), self._result(ref)
                if time.monotonic() - moved > _PATIENCE_S:
                    raise EngineError(
                        f"no task of {len(waiting)} has ended for {_PATIENCE_S:.0f} s; see `ray status`, "
                        "and run again"
                    )
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)
        if more and self._ending():
            raise Stopped("stopped as asked; what is done is kept, run the same command again to go on")

    def begin(
        self, function: Callable[..., Sequence[Any]], arguments: tuple[Any, ...], parts: int
    ) -> list[Any]:
        """Start a call whose result has `parts` members.

        Gives a reference to each, to be passed on as an argument.
        """
        task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES, num_returns=parts)(
            alone if parts > 1 else _only
        )
        found = task.remote(function, *arguments)
        return list(found) if parts > 1 else [found]

    def share(self, value: Any) -> Any:
        """Put a value where tasks find it once for each node; to be passed on as an argument."""
        return ray.put(value)

    def all(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function for each tuple of arguments; results in their order."""
        found = dict(self.each(function, calls))
        return [found[number] for number in range(len(calls))]

    def _ending(self) -> bool:
        return self.stop.asked or (self.deadline is not None and time.time() > self.deadline)

    def _result(self, ref: Any) -> Any:
        try:
            result = ray.get(ref)
        except ray.exceptions.RayError as error:
            raise engine_error(error) from error
        if isinstance(result, dict) and "memory" in result:
            self.memory = max(self.memory, result["memory"])
            self.kernels |= {result["kernel"]} if "kernel" in result else set()
        return result
