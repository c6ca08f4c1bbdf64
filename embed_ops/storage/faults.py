"""Faults of storage: which ones pass by themselves, and how long that is waited for.

The libraries below retry single requests on their own for a second or two (Arrow's S3 client sends
each three times). What is here repeats whole operations, so that a store that is away for a minute
or two costs time and not the run.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from typing import TypeVar

import tenacity

from embed_ops.errors import EmbedOpsError, StorageError
from embed_ops.redaction import redacted

ATTEMPTS = 8
"""Times an operation is tried.

With the waits below that bridges about two minutes. A store needs less to fail over, or to split a
partition that is asked for too much; and nobody finds out in the morning that a run hangs."""
PATIENCE_S = 180.0
"""Seconds after which nothing is tried again: where the library below waits long by itself, waits
must not multiply."""
FIRST_WAIT_S, LONGEST_WAIT_S, JITTER_S = 1.0, 30.0, 1.0
"""Waits double; the jitter keeps workers that failed together from coming back together."""

_PASSING = frozenset(
    {
        *(
            errno.EIO,
            errno.EAGAIN,
            errno.EINTR,
            errno.EBUSY,
            errno.ESTALE,
            errno.ETIMEDOUT,
            errno.EPIPE,
            errno.ECONNRESET,
        ),
        *(
            errno.ECONNREFUSED,
            errno.ECONNABORTED,
            errno.ENOTCONN,
            errno.EHOSTUNREACH,
            errno.EHOSTDOWN,
            errno.ENETUNREACH,
        ),
        *(errno.ENETDOWN, errno.ENETRESET, errno.EREMOTEIO, errno.ENOLINK),
    }
)
"""What a network, or a disk behind one, gives and takes back. Disk full, permission, read-only and
the like stay."""
_STAYING = re.compile(
    # S3 as Arrow and botocore name it, Google, Azure, and any store that gives the status only.
    r"ACCESS_DENIED|AccessDenied|Access Denied|INVALID_ACCESS_KEY|InvalidAccessKeyId|INVALID_SIGNATURE|"
    r"SignatureDoesNotMatch|EXPIRED_TOKEN|ExpiredToken|UNRECOGNIZED_CLIENT|NO_SUCH_BUCKET|NoSuchBucket|"
    r"PERMISSION_DENIED|UNAUTHENTICATED|AuthorizationFailure|AuthorizationPermissionMismatch|"
    r"AuthenticationFailed|ContainerNotFound|InsufficientAccountPermissions|Forbidden|Unauthorized|"
    r"QuotaExceeded|is a directory|HTTP (?:status|response code):? ?40[13]\b|\[40[13]\b"
)
"""Causes that Arrow gives as text only and that waiting does not mend: permission, credentials, a
missing bucket, a quota, a folder in the place of a file."""
_OF_THE_PROGRAM = (
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    MemoryError,
    RecursionError,
    EmbedOpsError,
)

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class ShortRead(OSError):
    """Fewer bytes came than the file has."""


def passes(error: BaseException) -> bool:
    """Tell whether a fault of storage may be gone on another try."""
    if not isinstance(error, Exception) or isinstance(error, _OF_THE_PROGRAM):
        return False
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ):
        return False
    number = getattr(error, "errno", None)
    if isinstance(error, ValueError):
        # Arrow's word for a path or an argument that it does not take.
        return False
    if number is not None:
        return number in _PASSING
    return not _STAYING.search(str(error))


def patiently(what: str, path: str, operation: Callable[[], Result]) -> Result:
    """Do something with storage, again and again while its fault may pass.

    Args:
        what: the participle of the message: "read", "written", "listed".
        path: what it is done to.
        operation: may be done more than once.

    Raises:
        StorageError: it failed for good, or for too long.
        FileNotFoundError: there is no such file.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        cause = redacted(str(state.outcome.exception())) if state.outcome else ""
        _log.warning(
            "%s: can't be %s yet, trying again in %.0f s: %s",
            *(redacted(path), what, state.upcoming_sleep, cause),
        )

    retrying = tenacity.Retrying(
        before_sleep=tell,
        retry=tenacity.retry_if_exception(passes),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
        + tenacity.wait_random(0, JITTER_S),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    )
    try:
        return retrying(operation)
    except (FileNotFoundError, *_OF_THE_PROGRAM):
        raise
    except Exception as error:
        raise storage_error(what, path, error, tries=retrying.statistics.get("attempt_number", 1)) from error


def storage_error(what: str, path: str, error: Exception, tries: int = 1) -> StorageError:
    """Say what can't be done with a file, why, and what to do."""
    cause = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return StorageError(
            f"{path}: can't be {what}: it was there and is gone: {cause}; restore it and run the same "
            "command again"
        )
    often = f" ({tries} times)" if tries > 1 else ""
    return StorageError(
        f"{path}: can't be {what}{often}: {cause}; mend the storage and run the same command again"
    )


def is_transport(error: Exception) -> bool:
    """Tell an error of a local disk from one of decoding: only the system gives numbers."""
    return isinstance(error, OSError) and error.errno is not None
