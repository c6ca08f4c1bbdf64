"""Files behind http and https, fetched with limits: of time, of bytes, of where redirects may lead.

What a server or a network does is told apart, since an outage is no missing file.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from embed_ops.storage.location import CONNECT_TIMEOUT_S

SCHEMES = ("http", "https")
_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_BUSY = (408, 425, 429)
_CHUNK_BYTES = 256 << 10
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Trouble(Enum):
    """What kind of fault kept a file from coming."""

    BUSY = "busy"
    """The server asks for patience: too many requests, or a fault of its own."""
    REFUSED = "refused"
    """The server, or the network, does not give it: 403, nobody listens, no such host."""
    SLOW = "slow"
    """It did not come in time."""


class WebFault(Exception):
    """A file can't be had now, which says nothing of whether it is there."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


class Inadmissible(Exception):
    """An address that may not be asked, or is none: what is wrong with it."""


@dataclass(frozen=True)
class Fetched:
    """What came of a file.

    Attributes:
        content: all of it, or its beginning.
        size: bytes of the whole file, None where the server does not say.
        whole: whether `content` is all of it.
    """

    content: bytes
    size: int | None
    whole: bool


@dataclass(frozen=True)
class WebLimits:
    """What one try may cost.

    Attributes:
        seconds: from the first byte asked to the last one given, redirects included.
        check: raises `Inadmissible` for an address that may not be asked, redirects included.
        private: whether hosts inside of a network may be asked.
    """

    seconds: float
    check: Callable[[str], None]
    private: bool


def host_of(address: str) -> str:
    """Give the host and port of an address, by which servers are told apart.

    Raises:
        Inadmissible: it is no address of a host.
    """
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise Inadmissible(f"is no address: {error}") from error
    if not host or not all("!" <= sign <= "~" for sign in host):
        raise Inadmissible("names no host")
    return f"{host}:{port}"


def get(address: str, most_bytes: int, limits: WebLimits) -> Fetched:
    """Fetch a file, or its first `most_bytes`; nothing is tried twice.

    Raises:
        FileNotFoundError: the server says that there is none (404, 410).
        WebFault: it can't be had now.
        Inadmissible: the address, or one that it is redirected to, may not be asked.
    """
    with _deadline(limits.seconds) as clock:
        for _ in range(_MOST_REDIRECTS + 1):
            limits.check(address)
            with _request(address, limits, clock) as answer:
                if answer.status in _REDIRECTS and (target := answer.headers["Location"]):
                    address = urljoin(address, target)
                    continue
                if answer.status in _GONE:
                    raise FileNotFoundError(address)
                if answer.status != http.client.OK:
                    busy = answer.status in _BUSY or answer.status >= 500
                    told = f"the server says {answer.status} {answer.reason}".rstrip()
                    raise WebFault(Trouble.BUSY if busy else Trouble.REFUSED, told)
                return _body(answer, most_bytes)
    raise WebFault(Trouble.REFUSED, f"more than {_MOST_REDIRECTS} redirects")


def answers(address: str, limits: WebLimits) -> None:
    """Ask a server for one byte; that it has no such file is an answer too.

    Raises:
        WebFault, Inadmissible: it gives none.
    """
    with contextlib.suppress(FileNotFoundError):
        get(address, 1, limits)


class _Clock:
    """Ends a connection when the time is over: of one that drips every single wait is short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.over = False

    def watch(self, connected: socket.socket) -> None:
        """Take a connection in, by a handle of its own: TLS takes the socket's away."""
        with self._lock:
            self._sockets.append(connected.dup())
        if self.over:
            self.end()

    def end(self) -> None:
        """Shut what is open: who reads from it sees the end."""
        with self._lock:
            self.over = True
            for opened in self._sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the handles back."""
        with self._lock:
            for opened in self._sockets:
                opened.close()
            self._sockets.clear()


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[_Clock]:
    clock = _Clock()
    timer = threading.Timer(seconds, clock.end)
    timer.daemon = True
    timer.start()
    try:
        yield clock
        # A body that breaks off without a length looks whole.
        if clock.over:
            raise WebFault(Trouble.SLOW, f"it did not come within {seconds:g} s")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, FileNotFoundError):
            raise
        if clock.over or isinstance(error, TimeoutError):
            raise WebFault(Trouble.SLOW, f"it did not come within {seconds:g} s") from error
        raise WebFault(Trouble.REFUSED, str(error) or type(error).__name__) from error
    finally:
        timer.cancel()
        clock.close()


@contextlib.contextmanager
def _request(address: str, limits: WebLimits, clock: _Clock) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(address)
    host, _, port = host_of(address).rpartition(":")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, int(port), timeout=limits.seconds)

    def connect(*_: object) -> socket.socket:
        connected = _connect(host, int(port), limits)
        clock.watch(connected)
        return connected

    # Connects to the very place that was looked at, not to what the name may mean a moment later.
    connection._create_connection = connect  # type: ignore[attr-defined]
    try:
        connection.request("GET", _target(parts), headers=_headers(parts))
        yield connection.getresponse()
    except (ValueError, http.client.InvalidURL) as error:
        raise Inadmissible(f"is no address: {error}") from error
    finally:
        connection.close()


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~?')}" if parts.query else path


def _headers(parts: SplitResult) -> dict[str, str]:
    told = {"Accept-Encoding": "identity", "User-Agent": "embed-ops", "Connection": "close"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        told["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return told


def _connect(host: str, port: int, limits: WebLimits) -> socket.socket:
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [place for place in places if limits.private or not is_inside(str(place[4][0]))]
    if not allowed:
        raise Inadmissible(f"leads into a network of its own ({places[0][4][0]})")
    failure: OSError | None = None
    for family, kind, protocol, _, where in allowed:
        connected = socket.socket(family, kind, protocol)
        connected.settimeout(min(CONNECT_TIMEOUT_S, limits.seconds))
        try:
            connected.connect(where)
        except OSError as error:
            connected.close()
            failure = error
            continue
        connected.settimeout(limits.seconds)
        return connected
    if isinstance(failure, TimeoutError):
        raise ConnectionError(f"{host} does not take the connection") from failure
    raise failure or ConnectionError(f"{host} has no address")


def is_inside(place: str) -> bool:
    """Tell an address of this machine or of a private network, in every way to write it."""
    address = ipaddress.ip_address(place.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return not address.is_global or address.is_multicast


def _body(answer: http.client.HTTPResponse, most_bytes: int) -> Fetched:
    size = answer.length
    parts: list[bytes] = []
    left = most_bytes
    while left > 0 and (part := answer.read(min(left, _CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
    content = b"".join(parts)
    if size is None:
        # The length is told by its end alone, so the end must be seen.
        return Fetched(content, None, left > 0 or not answer.read(1))
    if left > 0 and len(content) < size:
        raise ConnectionError(f"it broke off after {len(content)} of {size} bytes")
    return Fetched(content, size, len(content) == size)
