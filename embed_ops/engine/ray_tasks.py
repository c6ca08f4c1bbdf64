"""The engine that is Ray: plain tasks, as many at once as there are cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import ray
import ray.exceptions

from embed_ops.engine.base import ONE_CORE, Capacity, Claim, Engine
from embed_ops.engine.control import Gauges
from embed_ops.engine.errors import WorkerDied, engine_error
from embed_ops.engine.guard import call_guarded
from embed_ops.engine.memory import private_memory
from embed_ops.engine.ray_alive import require_alive
from embed_ops.engine.stopping import LOOK_UP_S, StopRequest
from embed_ops.errors import EmbedOpsError, EngineError, Stopped
from embed_ops.numerics.products import computing_on

Value = TypeVar("Value")

_RETRIES = 3
"""Times that a task runs again whose process or node died."""
_AHEAD = 2
"""Tasks submitted for each core: the next one waits where the last one ends."""
_PATIENCE_S = 3600.0
"""The longest that no task may end: a stretch takes seconds or minutes."""
_STORE_BYTES = 1 << 30
"""Of the object store, where Ray does not tell."""


def ray_options(claim: Claim) -> dict[str, float]:
    """Give a claim as the options of Ray's tasks and actors."""
    options = {"num_cpus": claim.cores}
    return options | {"num_gpus": claim.devices} if claim.devices else options


def _alone(function: Callable[..., Value], *arguments: Any) -> Value:
    """Call on one core.

    A product over several threads would have other bits, and take the cores of other tasks.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return function(*arguments)


def _measured(device: str | None, function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Call alone, with products on a device, and tell the most bytes that this worker has held."""
    with computing_on(device):
        return _alone(function, *arguments), private_memory()


def _only(function: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    """Call alone, for a value of one member, which Ray would take for a list."""
    (member,) = _alone(function, *arguments)
    return member


@dataclass
class RayEngine(Engine):
    """The Ray that this process has joined.

    Attributes:
        elastic: whether nodes may join later.
        stop: asks to stop.
        deadline: seconds since the epoch after which no call is begun.
        memory: most bytes that a worker of `each` has held.
        claim: of calls that name none.
        why: it was chosen, in words.
    """

    name: ClassVar[Literal["ray"]] = "ray"
    elastic: bool
    stop: StopRequest = field(default_factory=StopRequest)
    deadline: float | None = None
    memory: int = 0
    claim: Claim = ONE_CORE
    why: str = ""

    def until(self, stop: StopRequest, deadline: float | None = None) -> RayEngine:
        """Give the same Ray for one command."""
        return replace(self, stop=stop, deadline=deadline, memory=0)

    def claiming(self, claim: Claim) -> RayEngine:
        """Give the same Ray with another claim."""
        return replace(self, claim=claim)

    def gauges(self, run: str) -> Gauges:
        """Let Ray's exporter show them."""
        from embed_ops.engine.metrics import Metrics

        return Metrics(run)

    def capacity(self) -> Capacity:
        """Ask Ray for the resources of all nodes."""
        cluster = ray.cluster_resources()
        of_nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return Capacity(
            cores=max(1, int(cluster.get("CPU", 1))),
            devices=cluster.get("GPU", 0.0),
            memory=int(cluster.get("memory", 0)),
            store=int(cluster.get("object_store_memory", _STORE_BYTES)),
            cores_of_a_node=max(1, int(min((cores for cores in of_nodes if cores), default=1))),
            elastic=self.elastic,
        )

    def each(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        *,
        claim: Claim | None = None,
        look_up: Callable[[], None] | None = None,
        failed: Callable[[int, EmbedOpsError], Any] | None = None,
    ) -> Generator[tuple[int, Any], None, None]:
        """Keep so many tasks submitted that no core waits for the next one."""
        claim = claim or self.claim
        device = "cuda" if claim.devices else None
        options: dict[str, Any] = ray_options(claim)
        if self.capacity().devices <= 1:
            # By default Ray ends a worker with a GPU after each call: the next loads torch again.
            # With several GPUs that is right: a process stays on the first that it was given.
            options["max_calls"] = 0
        task = ray.remote(**options, max_retries=_RETRIES)(_measured)
        most = _AHEAD * self.capacity().cores
        waiting: dict[Any, int] = {}
        left = enumerate(calls)
        following, moved = next(left, None), time.monotonic()
        try:
            while True:
                while following is not None and len(waiting) < most and not self._ending():
                    waiting[task.remote(device, function, *following[1])] = following[0]
                    following = next(left, None)
                if not waiting or self.stop.expired:
                    break
                require_alive()
                ended, _ = ray.wait(list(waiting), timeout=LOOK_UP_S)
                for ref in ended:
                    moved, number = time.monotonic(), waiting.pop(ref)
                    yield number, self._value(ref, number, failed)
                if look_up is not None:
                    look_up()
                elif time.monotonic() - moved > _PATIENCE_S:
                    raise EngineError(
                        f"no task of {len(waiting)} has ended for {_PATIENCE_S:.0f} s; see `ray status`, "
                        "and run again"
                    )
            if following is not None or waiting:
                raise Stopped("stopped as asked; what is done is kept, run the same command again to go on")
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)

    def once(self, function: Callable[..., Value], *arguments: Any, claim: Claim, patience: float) -> Value:
        """Run a task with the claim, and once more where its process dies."""
        task = ray.remote(**ray_options(claim), max_retries=1)(call_guarded)
        try:
            value: Value = ray.get(task.remote(patience, function, *arguments))
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise WorkerDied(f"a worker process died: {' '.join(str(error).split())[:300]}") from error
        except ray.exceptions.RayError as error:
            raise engine_error(error) from error
        return value

    def share(self, value: Any) -> Any:
        """Put a value into the object store: once for each node."""
        return ray.put(value)

    def begin(
        self, function: Callable[..., Sequence[Any]], arguments: tuple[Any, ...], parts: int
    ) -> list[Any]:
        """Submit a task with so many return values; gives their references."""
        options: dict[str, Any] = ray_options(ONE_CORE) | {"num_returns": parts}
        task = ray.remote(**options, max_retries=_RETRIES)(_alone if parts > 1 else _only)
        members = task.remote(function, *arguments)
        return list(members) if parts > 1 else [members]

    def _ending(self) -> bool:
        return self.stop.asked or (self.deadline is not None and time.time() > self.deadline)

    def _value(self, ref: Any, number: int, failed: Callable[[int, EmbedOpsError], Any] | None) -> Any:
        try:
            value, memory = ray.get(ref)
        except ray.exceptions.RayError as error:
            if failed is None:
                raise engine_error(error) from error
            return failed(number, engine_error(error))
        self.memory = max(self.memory, memory)
        return value
