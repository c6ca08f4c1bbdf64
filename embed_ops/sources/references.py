"""Fetches the files that rows name: paths beside the source file, absolute paths, and URIs.

Any fault of one reference is a reject of its row.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenacity

from embed_ops.errors import SpecError, StorageError
from embed_ops.schema import Reason
from embed_ops.sources.base import MAX_RECORD_BYTES
from embed_ops.sources.data_uris import is_data_uri, of_bare_base64, of_data_uri
from embed_ops.sources.outages import KNOWN, Fault, Lost, judged
from embed_ops.sources.reach import Reach, WebAddress, shown
from embed_ops.storage import faults, web
from embed_ops.storage.files import Location, file_info, read_bytes
from embed_ops.storage.web import Fetched, Inadmissible, Trouble, WebFault

HELD_BYTES = 64 << 20
"""Bytes of fetched files that are held together."""
LOOKED_AT = 64
"""Files whose sizes are asked for together."""
_LOOKED_BYTES = HELD_BYTES // LOOKED_AT // 2
"""Bytes of a file behind http that come with the first question: of most images, all."""
_THREADS = 16
_LONGEST_PATH = 4096
_TRIES = {Trouble.SLOW: 2, Trouble.REFUSED: 3}
"""Times a file behind http is tried whose server has never answered; one that is busy, or was there
before, gets as many as any storage."""
_OF_THE_PATH = frozenset(
    {
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO),
        *(errno.EACCES, errno.EPERM, errno.EOVERFLOW, errno.ENODEV),
    }
)
"""What a disk says of one path, and not of itself."""

Content = bytes | Fault | None
"""What a row holds; None for a null."""
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _File:
    """A file that is there and not read yet."""

    name: str
    at: Location | WebAddress
    size: int


def fetch(
    column: pa.ChunkedArray, wanted: npt.NDArray[np.bool_], reach: Reach, held_bytes: int
) -> Iterator[tuple[int, list[Content]]]:
    """Fetch the files that rows name, several at once, in portions of consecutive rows.

    (first row, what they hold).

    The size of every file is asked for first, so a portion ends before it would hold too much. Of
    no rows there is one portion.

    Args:
        column: a path, a URI, or a struct of `bytes` and `path` in each row, of which the bytes
            win.
        wanted: (rows,) bool; the others become None.
        reach: where references may lead, and what fetching one may cost.
        held_bytes: of a portion, unless it is a single row.

    Raises:
        StorageError: the storage fails, or the network does.
    """
    for first in range(0, max(1, len(column)), LOOKED_AT):
        values = column.slice(first, LOOKED_AT).to_pylist()
        asked = [
            value if keep else None
            for value, keep in zip(values, wanted[first : first + LOOKED_AT], strict=True)
        ]
        looked: list[_File | Lost | Content] = _at_once(partial(_look, reach), asked)
        seen = judged(looked)
        for begin, part in _portions(seen, held_bytes):
            # A variable would hold a portion while the next one is fetched.
            yield first + begin, _contents(part, reach)


def _contents(part: Sequence[_File | Content], reach: Reach) -> list[Content]:
    read: list[Lost | Content] = _at_once(partial(_read, reach), part)
    return judged(read)


def _at_once(act: Callable[[_Given], _Made], values: Sequence[_Given]) -> list[_Made]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(act, values))


def _portions(
    items: Sequence[_File | Content], held_bytes: int
) -> Iterator[tuple[int, Sequence[_File | Content]]]:
    begin, held = 0, 0
    for place, item in enumerate(items):
        size = item.size if isinstance(item, _File) else len(item) if isinstance(item, bytes) else 0
        if place > begin and held + size > held_bytes:
            yield begin, items[begin:place]
            begin, held = place, 0
        held += size
    yield begin, items[begin:]


def _look(reach: Reach, value: Any) -> _File | Lost | Content:
    if isinstance(value, Mapping):
        own, value = value.get("bytes"), value.get("path")
        if own is not None:
            return _within(own)
    if value is None:
        return None
    if not isinstance(value, str):
        return Reason.WRONG_TYPE, f"the path is a {type(value).__name__}, not text"
    if is_data_uri(value):
        content = of_data_uri(value)
        if content is None:
            return Reason.UNDECODABLE, f"{shown(value)}: holds no data that can be decoded"
        return _within(content)
    seen = _look_at(value, reach)
    if (
        isinstance(seen, tuple)
        and seen[0] == Reason.MISSING
        and (content := of_bare_base64(value)) is not None
    ):
        return _within(content)
    return seen


def _within(content: bytes) -> Content:
    if len(content) <= MAX_RECORD_BYTES:
        return content
    return Reason.TOO_LARGE, f"the image is longer than {MAX_RECORD_BYTES} bytes"


def _too_large(name: str, reach: Reach) -> Fault:
    return Reason.TOO_LARGE, f"{name}: the file is longer than {reach.most_bytes} bytes"


def _look_at(reference: str, reach: Reach) -> _File | Lost | Content:
    name = shown(reference)
    if "\0" in reference or len(reference) > _LONGEST_PATH:
        return _missing(name)
    try:
        at = reach.place(reference)
    except (SpecError, Inadmissible) as error:
        return Reason.MISSING, f"{name}: {error}"
    except StorageError as error:
        return Lost(name, str(error), name.partition("://")[0], alone=False)
    if isinstance(at, WebAddress):
        return _from_web(name, at, _LOOKED_BYTES, reach)
    try:
        size = file_info(at).size
    except StorageError as error:
        return _lost(name, at, error, reach)
    if size is None:
        return _missing(name)
    return _File(name, at, size) if size <= reach.most_bytes else _too_large(name, reach)


def _read(reach: Reach, item: _File | Content) -> Lost | Content:
    if not isinstance(item, _File):
        return item
    if isinstance(item.at, WebAddress):
        fetched = _from_web(item.name, item.at, reach.most_bytes + 1, reach)
        return _too_large(item.name, reach) if isinstance(fetched, _File) else fetched
    try:
        content = read_bytes(item.at)
    except StorageError as error:
        return _lost(item.name, item.at, error, reach)
    return _missing(item.name) if content is None else content


def _missing(name: str) -> Fault:
    return Reason.MISSING, f"{name}: there is no such file"


def _lost(name: str, at: Location, error: StorageError, reach: Reach) -> Lost | Fault:
    """Tell a fault of one path from one of its disk or store.

    Raises:
        StorageError: the disk fails, as it always did.
    """
    cause = error.__cause__
    number = getattr(cause, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return Reason.UNREACHABLE, f"{name}: {cause}"
    if number in _OF_THE_PATH or isinstance(cause, ValueError):
        return _missing(name)
    if at.local:
        raise error
    if reach.in_same_store(at):
        KNOWN.note(at.fs.type_name, partial(file_info, reach.beside))
    return Lost(name, str(cause or error), at.fs.type_name, alone=False)


def _from_web(name: str, address: str, most_bytes: int, reach: Reach) -> _File | Lost | Content:
    """Fetch a file, or the size of one that has more bytes than that."""
    try:
        host = web.host_of(address)
        fetched = _patiently(host, partial(web.get, address, most_bytes, reach.limits))
    except FileNotFoundError:
        KNOWN.note(host, partial(web.answers, address, reach.limits))
        return _missing(name)
    except Inadmissible as error:
        return Reason.MISSING, f"{name}: {error}"
    except WebFault as error:
        return Lost(name, str(error), host, alone=error.trouble is Trouble.SLOW)
    KNOWN.note(host, partial(web.answers, address, reach.limits))
    if len(fetched.content) > reach.most_bytes or (fetched.size or 0) > reach.most_bytes:
        return _too_large(name, reach)
    if fetched.whole:
        return fetched.content
    return _File(name, address, reach.most_bytes if fetched.size is None else fetched.size)


def _patiently(host: str, ask: Callable[[], Fetched]) -> Fetched:
    def is_over(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        trouble = error.trouble if isinstance(error, WebFault) else Trouble.REFUSED
        patient = trouble is Trouble.BUSY or (trouble is Trouble.REFUSED and KNOWN.has(host))
        tries = faults.ATTEMPTS if patient else min(faults.ATTEMPTS, _TRIES[trouble])
        waited = state.seconds_since_start or 0.0
        return state.attempt_number >= tries or waited >= faults.PATIENCE_S

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(WebFault),
        wait=tenacity.wait_exponential(multiplier=faults.FIRST_WAIT_S, max=faults.LONGEST_WAIT_S)
        + tenacity.wait_random(0, faults.JITTER_S),
        stop=is_over,
        reraise=True,
    )
    return retrying(ask)
