"""What a driver asks of an engine, whichever engine runs: calls, shared values, room.

An engine knows no job. A session opens it (`session.py`): the worker processes of this command
(`local_tasks.py`), or Ray (`ray_tasks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from embed_ops.engine.control import Gauges
from embed_ops.engine.stopping import StopRequest
from embed_ops.errors import EmbedOpsError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Claim:
    """What a worker takes while it runs.

    Attributes:
        cores: CPU cores; a share of one is allowed.
        devices: GPUs; a share of one is allowed.
    """

    cores: float = 1.0
    devices: float = 0.0


ONE_CORE = Claim()


@dataclass(frozen=True)
class Capacity:
    """What an engine has now.

    Attributes:
        cores: CPU cores of all nodes.
        devices: GPUs of all nodes.
        memory: bytes for workers.
        store: bytes for values that are shared or handed from task to task.
        cores_of_a_node: cores of the smallest node that has any.
        elastic: whether nodes may join later.
    """

    cores: int
    devices: float
    memory: int
    store: int
    cores_of_a_node: int
    elastic: bool


class Engine(Protocol):
    """Runs functions in workers.

    Attributes:
        name: what a spec calls it.
        memory: most bytes that a worker of `each` has held.
        claim: of calls that name none.
        why: it was chosen, in words.
    """

    name: ClassVar[Literal["local", "ray"]]
    memory: int
    claim: Claim
    why: str

    def until(self, stop: StopRequest, deadline: float | None = None) -> Engine:
        """Give this engine for one command, which begins no call once it is asked to stop.

        Args:
            stop: asks; calls in flight get its grace.
            deadline: seconds since the epoch after which no call is begun either.
        """
        ...

    def claiming(self, claim: Claim) -> Engine:
        """Give this engine, with another claim of calls that name none.

        With a device in it, products of those calls run there (`numerics/products.py`).
        """
        ...

    def gauges(self, run: str) -> Gauges:
        """Give what shows others how the command goes that writes a run."""
        ...

    def capacity(self) -> Capacity:
        """Tell what there is now; more later where the engine is elastic."""
        ...

    def each(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        *,
        claim: Claim | None = None,
        look_up: Callable[[], None] | None = None,
        failed: Callable[[int, EmbedOpsError], Any] | None = None,
    ) -> Generator[tuple[int, Any], None, None]:
        """Call a function for each tuple of arguments; yield (number, value) as calls end.

        Args:
            function: runs in a worker, where products use one thread.
            calls: arguments. One that `share` or `begin` gave arrives as the value itself, if it
                stands for itself in the tuple and not inside of another argument.
            claim: of each call.
            look_up: called twice a second, may raise; by default an hour without an end raises.
            failed: makes the value of a call that ended in an error; by default it is raised.

        Closing it cancels the calls in flight.

        Raises:
            Stopped: the command was asked to stop; calls in flight were finished and yielded.
            EngineError: nothing ends any more, or workers die again and again.
        """
        ...

    def all(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function for each tuple of arguments, and give the values in their order."""
        values = dict(self.each(function, calls))
        return [values[number] for number in range(len(calls))]

    def once(self, function: Callable[..., Value], *arguments: Any, claim: Claim, patience: float) -> Value:
        """Call a function where a worker with such a claim would run.

        `patience`: seconds after which the worker ends itself.

        Raises:
            WorkerDied: its process died twice.
        """
        ...

    def share(self, value: Any) -> Any:
        """Put a value where many calls read it; pass what this gives as an argument of theirs."""
        ...

    def begin(
        self, function: Callable[..., Sequence[Any]], arguments: tuple[Any, ...], parts: int
    ) -> list[Any]:
        """Begin a call whose value has `parts` members, and do not wait for it.

        Gives what stands for each member; pass it on as an argument of other calls.
        """
        ...
