"""How files come to a node.

One process fetches them while the others wait, and what fails for a while is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from embed_ops.errors import EmbedOpsError, ModelError, StorageError
from embed_ops.storage.private import private_folder, write_private

Fetched = TypeVar("Fetched")

TRIES = 8
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 330.0
"""More than a server can ask for: the windows of the hub's rate limits are five minutes long."""

_HERE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})
"""What is wrong with this machine's disk, and stays so."""
_LASTING = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    *(
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        NotImplementedError,
    ),
)
_SHARED: dict[str, type[EmbedOpsError]] = {kind.__name__: kind for kind in (ModelError, StorageError)}

_log = logging.getLogger(__name__)


def reason(error: BaseException) -> str:
    """Give the first line that an error says of itself."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def here(error: BaseException) -> bool:
    """Tell whether an error is of this machine's disk: full, read-only, not ours."""
    return isinstance(error, OSError) and error.errno in _HERE


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may succeed later.

    Networks and servers recover, full disks and faults of a program do not.
    """
    return not here(error) and not isinstance(error, _LASTING)


def keep_trying(
    what: str,
    act: Callable[[], Fetched],
    passing: Callable[[BaseException], bool] = may_pass,
    asked: Callable[[BaseException], float | None] = lambda error: None,
    advice: str = "",
) -> Fetched:
    """Call a function again while it fails with an error that may pass, `TRIES` times in all.

    The last error is raised.

    Args:
        what: what is fetched, for the log.
        act: the call.
        passing: tells whether an error may pass.
        asked: the seconds that a server asks to wait. Some more are waited, so that nodes do not
            come back all at once.
        advice: said once, with the first failure.
    """
    spread = wait_random_exponential(max=LONGEST_WAIT_S)

    def wait(state: RetryCallState) -> float:
        told = asked(_error(state)) or 0.0
        return min(told, LONGEST_RETRY_AFTER_S) + spread(state)

    def say(state: RetryCallState) -> None:
        hint = f". {advice}" if advice and state.attempt_number == 1 else ""
        wait_s = max(1, round(state.upcoming_sleep))
        _log.warning("%s: %s; trying again in %d s%s", what, reason(_error(state)), wait_s, hint)

    again = Retrying(
        stop=stop_after_attempt(TRIES),
        retry=retry_if_exception(passing),
        wait=wait,
        before_sleep=say,
        reraise=True,
    )
    return again(act)


def _error(state: RetryCallState) -> BaseException:
    failure = state.outcome.exception() if state.outcome else None
    return failure or RuntimeError("no error")


def once_per_node(key: str, find: Callable[[], Fetched | None], fetch: Callable[[], Fetched]) -> Fetched:
    """Fetch in one process of this node and user, while others that ask for the same wait.

    Args:
        key: names what is fetched.
        find: gives what is here already, None where it is missing or not whole; makes no request.
        fetch: fetches it.

    Raises:
        ModelError, StorageError: of `fetch`. Who waited meanwhile gets the same error, and does not
            try in its turn: that would take the patience of all of them together to learn that a
            server is down.
    """
    if (ready := find()) is not None:
        return ready
    began = time.time()
    # On the node's own disk, where `flock` works, which a shared home may not offer.
    place = private_folder() / hashlib.sha256(key.encode()).hexdigest()[:32]
    failed = place.with_suffix(".failed")
    # The kernel gives the lock of a process that has died to the next one.
    with FileLock(place.with_suffix(".lock"), mode=0o600):
        if (ready := find()) is not None:
            return ready
        _raise_if_failed(failed, since=began)
        try:
            return fetch()
        except (ModelError, StorageError) as error:
            told = {"kind": type(error).__name__, "message": str(error), "time": time.time()}
            with contextlib.suppress(OSError):
                # Who waits finds out by itself.
                write_private(failed, json.dumps(told))
            raise


def _raise_if_failed(file: Path, since: float) -> None:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        kind, message, at = _SHARED[told["kind"]], str(told["message"]), float(told["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if at >= since:
        raise kind(message)
