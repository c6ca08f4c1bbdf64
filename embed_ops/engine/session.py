"""How a command gets its engine.

Opened when the first step needs it, and kept for the steps that follow.

Light: Ray is imported when a session is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from embed_ops.engine.base import Engine

OpenSession = Callable[[], AbstractContextManager[Engine]]
"""Opens a session, and gives the engine that it runs on."""


def session(address: str | None = None) -> AbstractContextManager[Engine]:
    """Open a session at an address; None: where `RAY_ADDRESS` says, or a Ray of this machine's own.

    Raises:
        AddressError: the address has no form that Ray knows.
        ClusterError: nothing answers there within seconds, or it refuses.
    """
    from embed_ops.engine.ray_session import ray_session

    return ray_session(address)


def default_session() -> AbstractContextManager[Engine]:
    """Open a Ray of this machine's own, or the one that `RAY_ADDRESS` names."""
    return session()


@contextmanager
def kept(open_session: OpenSession) -> Iterator[OpenSession]:
    """Keep a session open for the steps that follow the first one that needs it.

    Gives what each step opens.
    """
    opened: list[Engine] = []
    with ExitStack() as stack:

        @contextmanager
        def once() -> Iterator[Engine]:
            if not opened:
                opened.append(stack.enter_context(open_session()))
            yield opened[0]

        yield once
