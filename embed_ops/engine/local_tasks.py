"""The engine that is this machine: worker processes of this command, and nothing else to start.

Calls and their values go through pipes. What `begin` makes goes through files of a folder that
ends with the session, as arrays.
"""

from __future__ import annotations

import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from embed_ops.engine.base import ONE_CORE, Capacity, Claim, Engine
from embed_ops.engine.control import Gauges, NoGauges
from embed_ops.engine.errors import WorkerDied
from embed_ops.engine.local_calls import Calls
from embed_ops.engine.machine import cores, free_memory, gpus
from embed_ops.engine.processes import Died, Place, Said, Workers
from embed_ops.engine.stopping import StopRequest
from embed_ops.engine.worker_process import Call, Ended, Raised, Stored
from embed_ops.errors import EmbedOpsError, EngineError, Stopped, StorageError

Value = TypeVar("Value")

_RETRIES = 3
"""Times that a call of `each` is made again whose worker died."""
_PATIENCE_S = 3600.0
"""The longest that no call may end: a stretch takes seconds or minutes."""
_STORE_SHARE = 0.25
"""Of the memory: arrays on their way between calls are read through the page cache."""


@dataclass(eq=False)
class Promised:
    """An array that a call of `begin` will have written."""

    path: Path


@dataclass
class LocalEngine(Engine):
    """Worker processes of this command.

    Attributes:
        workers: its processes.
        folder: for what calls hand to others.
        stop: asks to stop.
        deadline: seconds since the epoch after which no call is begun.
        memory: most bytes that a worker of `each` has held.
        claim: of calls that name none.
        why: it was chosen, in words.
    """

    name: ClassVar[Literal["local"]] = "local"
    workers: Workers
    folder: Path
    stop: StopRequest = field(default_factory=StopRequest)
    deadline: float | None = None
    memory: int = 0
    claim: Claim = ONE_CORE
    why: str = ""
    _promises: list[tuple[Any, ...]] = field(default_factory=list)

    def until(self, stop: StopRequest, deadline: float | None = None) -> LocalEngine:
        """Give the same workers for one command."""
        return replace(self, stop=stop, deadline=deadline, memory=0)

    def claiming(self, claim: Claim) -> LocalEngine:
        """Give the same workers with another claim."""
        return replace(self, claim=claim)

    def capacity(self) -> Capacity:
        """Look at this machine."""
        memory = free_memory()
        return Capacity(cores(), float(len(gpus())), memory, int(_STORE_SHARE * memory), cores(), False)

    def gauges(self, run: str) -> Gauges:
        """Show nobody: there is no exporter."""
        return NoGauges()

    def each(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        *,
        claim: Claim | None = None,
        look_up: Callable[[], None] | None = None,
        failed: Callable[[int, EmbedOpsError], Any] | None = None,
    ) -> Generator[tuple[int, Any], None, None]:
        """Keep a worker busy for each core, or each share of a GPU."""
        claim = claim or self.claim
        self._keep_promises()
        device = "cuda" if claim.devices else None
        made = (Call(function, _sent(arguments), device) for arguments in calls)
        begun = Calls(self.workers, _places(claim), made, _RETRIES)
        with closing(self._answers(begun, look_up)) as answers:
            for number, said in answers:
                match said:
                    case Ended(value, memory):
                        self.memory = max(self.memory, memory)
                        yield number, value
                    case Raised() | Died():
                        error = _error(said)
                        if failed is None:
                            raise error
                        yield number, failed(number, error)

    def stream(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        *,
        claim: Claim,
        most: int,
        look_up: Callable[[], None],
    ) -> Generator[tuple[int, Said | Died], None, None]:
        """Call a generator function for each tuple of arguments; yield whatever workers say.

        At most so many at once. A call whose worker dies is not made again.
        """
        made = (Call(function, _sent(arguments), alone=False) for arguments in calls)
        yield from self._answers(Calls(self.workers, _places(claim, most), made, 0), look_up)

    def once(self, function: Callable[..., Value], *arguments: Any, claim: Claim, patience: float) -> Value:
        """Call in the first worker, and once more where it dies."""
        call = Call(function, _sent(arguments), patience=patience, alone=False)
        here = replace(self, stop=StopRequest(), deadline=None)
        with closing(here._answers(Calls(self.workers, _places(claim, 1), [call], 1), None)) as answers:
            for _, said in answers:
                if isinstance(said, Ended):
                    value: Value = said.value
                    return value
                if isinstance(said, Raised | Died):
                    raise _error(said)
        raise EngineError("a worker ended without an answer")

    def share(self, value: Any) -> Any:
        """Send a value to each worker once."""
        return self.workers.share(value)

    def begin(
        self, function: Callable[..., Sequence[Any]], arguments: tuple[Any, ...], parts: int
    ) -> list[Any]:
        """Note a call of arrays; it is made before the next calls of `each`."""
        paths = [Path(tempfile.mkstemp(suffix=".npy", dir=self.folder)[1]) for _ in range(parts)]
        self._promises.append((paths, function, *arguments))
        promises = [Promised(path) for path in paths]
        for promise in promises:
            weakref.finalize(promise, partial(promise.path.unlink, missing_ok=True))
        return promises

    def _keep_promises(self) -> None:
        """Make the calls that `begin` has noted."""
        promised = list(self._promises)
        self._promises.clear()
        if promised:
            deque(self.each(_write_arrays, promised, claim=ONE_CORE), maxlen=0)

    def _answers(
        self, calls: Calls, look_up: Callable[[], None] | None
    ) -> Generator[tuple[int, Said | Died], None, None]:
        """Make calls, and yield what workers say: (number, what).

        Raises:
            Stopped: a stop was asked for, or it is late, and calls are left.
        """
        moved = time.monotonic()
        with closing(calls):
            while True:
                if not self._ending():
                    calls.begin()
                elif self.stop.asked:
                    calls.ask_to_stop()
                if not calls.busy or self.stop.expired:
                    break
                for answer in calls.hear():
                    moved = time.monotonic()
                    yield answer
                if look_up is not None:
                    look_up()
                elif time.monotonic() - moved > _PATIENCE_S:
                    raise EngineError(f"no call of {len(calls.busy)} has ended for {_PATIENCE_S:.0f} s")
            if calls.left:
                raise Stopped("stopped as asked; what is done is kept, run the same command again to go on")

    def _ending(self) -> bool:
        return self.stop.asked or (self.deadline is not None and time.time() > self.deadline)


def _places(claim: Claim, most: int | None = None) -> list[Place]:
    """Say where workers of a claim are: one for each core, or each share of a GPU."""
    there = gpus()
    if claim.devices > len(there):
        raise EngineError(f"a worker needs {claim.devices:g} GPU, this machine has {len(there)}")
    if claim.devices:
        sharing = range(max(1, int(1 / claim.devices)))
        places: list[Place] = [(number, gpu) for number in sharing for gpu in there]
    else:
        places = [(number, None) for number in range(max(1, int(cores() / max(1.0, claim.cores))))]
    return places if most is None else places[: max(1, most)]


def _sent(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give arguments as they go to a worker."""
    return tuple(Stored(str(item.path)) if isinstance(item, Promised) else item for item in arguments)


def _write_arrays(paths: Sequence[Path], function: Callable[..., Sequence[Any]], *arguments: Any) -> None:
    """Call a function, and write the arrays that it gives.

    Raises:
        StorageError: there is no room for them.
    """
    for path, array in zip(paths, function(*arguments), strict=True):
        try:
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        except OSError as error:
            raise StorageError(
                f"{path.parent}: {error.strerror or error}: arrays on their way between workers lie there; "
                "free space, or let TMPDIR name another folder, and run the same command again"
            ) from error


def _error(said: Raised | Died) -> EmbedOpsError:
    """Give what a call ended with as an error of ours."""
    if isinstance(said, Died):
        return WorkerDied(f"a worker process {said.how}. Run the same command again to go on")
    if isinstance(said.error, EmbedOpsError):
        return said.error
    return EngineError(f"a worker failed; run the same command again to go on\n{said.error}")


@contextmanager
def local_session() -> Iterator[LocalEngine]:
    """Have worker processes for the time of a `with`; they are started as calls want them."""
    workers = Workers()
    with tempfile.TemporaryDirectory(prefix="embed-ops-") as folder:
        try:
            yield LocalEngine(workers, Path(folder))
        finally:
            workers.end_all()
