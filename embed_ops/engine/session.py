"""How a command gets its engine.

Opened when the first step needs it, and kept for the steps that follow.

Light: an engine is imported when a session is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from embed_ops.engine.base import Engine
from embed_ops.engine.choice import Planned, choose

OpenSession = Callable[[Planned], AbstractContextManager[Engine]]
"""Opens a session for what is planned, and gives the engine that it runs on."""


@contextmanager
def session(planned: Planned, address: str | None = None) -> Iterator[Engine]:
    """Open a session: on worker processes of this command, or on Ray (`choice.py`).

    `address`: of a Ray cluster; None: where `RAY_ADDRESS` says, or this machine.

    Raises:
        AddressError: the address has no form that Ray knows, or goes with no local engine.
        ClusterError: nothing answers there within seconds, or it refuses.
    """
    chosen = choose(planned, address)
    if chosen.engine == "local":
        from embed_ops.engine.local_tasks import local_session

        opened: AbstractContextManager[Engine] = local_session()
    else:
        planned.doing("starting Ray" if address is None else f"joining the Ray cluster at {address}")
        from embed_ops.engine.ray_session import ray_session

        opened = ray_session(address)
    with opened as engine:
        engine.why = chosen.why
        yield engine


def require_cluster(address: str) -> None:
    """Refuse an address, as `--address` names it, where no cluster answers within seconds.

    Raises:
        AddressError, ClusterError: as `session`.
    """
    from embed_ops.engine.ray_session import require_cluster as require

    require(address)


def default_session(planned: Planned) -> AbstractContextManager[Engine]:
    """Open what suits the work, or the Ray that `RAY_ADDRESS` names."""
    return session(planned)


@contextmanager
def kept(open_session: OpenSession) -> Iterator[OpenSession]:
    """Keep a session open for the steps that follow the first one that needs it.

    Gives what each step opens.
    """
    opened: list[Engine] = []
    with ExitStack() as stack:

        @contextmanager
        def once(planned: Planned) -> Iterator[Engine]:
            if not opened:
                opened.append(stack.enter_context(open_session(planned)))
            yield opened[0]

        yield once
