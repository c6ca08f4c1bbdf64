"""References behind http: an outage is no missing file, and nothing is asked that may not be.

Every test asks a real server on this machine.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reading import images, rows, table, write

from embed_ops.errors import SourceError, StorageError
from embed_ops.sources import outages, references
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.reach import Reach
from embed_ops.spec.source import ParquetSourceSpec
from embed_ops.storage import faults, web
from embed_ops.storage.files import locate

CONTENT = b"\xff\xd8\xff" + bytes(1000)
LARGE = b"\xff\xd8\xff" + bytes(2 << 20)


class _Handler(BaseHTTPRequestHandler):
    """Serves what the path asks for."""

    server: Server

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, _, rest = self.path.partition("?")[0].strip("/").partition("/")
        if self.server.out:
            self.send_error(503)
        elif kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "circle":
            self.send_response(307)
            self.send_header("Location", self.path)
            self.end_headers()
        elif kind.isdigit():
            self.send_error(int(kind))
        elif kind == "once" and self.server.asked.count(self.path) == 1:
            self.send_error(500)
        elif kind == "hang":
            self.server.stop.wait(20)
        else:
            self._send(kind)

    def _send(self, kind: str) -> None:
        body = LARGE if kind in ("large", "endless") else CONTENT
        self.send_response(200)
        if kind not in ("endless", "unsized"):
            self.send_header("Content-Length", str(len(body) + (kind == "short")))
        self.end_headers()
        if kind == "drip":
            while not self.server.stop.wait(0.02):
                self.wfile.write(b"x")
                self.wfile.flush()
        while kind == "endless" and not self.server.stop.is_set():
            self.wfile.write(body)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A server on this machine.

    Attributes:
        asked: the paths, in order.
        out: whether it answers 503 to all.
        stop: ends what hangs and drips.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.out = False
        self.stop = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""

    @property
    def root(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve, to a process that has never asked anybody."""
    known = outages.Known()
    monkeypatch.setattr(outages, "KNOWN", known)
    monkeypatch.setattr(references, "KNOWN", known)
    monkeypatch.setattr(faults, "ATTEMPTS", 4)
    with Server() as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.stop.set()
        served.shutdown()


def fetched(folder: Path, addresses: list[str | None], **fields: Any) -> list[tuple[Any, str | None]]:
    """Read what rows hold that name these: bytes and reasons."""
    write(folder / "x.parquet", pa.table({"image": pa.array(addresses, pa.string())}))
    options = {"schemes": ["file", "http"], "outside_root": True, "fetch_seconds": 0.5, **fields}
    found = images(folder / "x.parquet", "parquet", column="image", **options)
    return [(value, reason) for _, value, reason in rows(found)]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_files_come(server: Server, tmp_path: Path) -> None:
    """Files come whole, with one request where they are small; only 404 and 410 are missing."""
    names: list[str | None] = ["a.jpg", "unsized", "large", "404", "410", "once/a.jpg", "to//a.jpg"]
    addresses = [f"{server.root}/{name}" for name in names]
    found = fetched(tmp_path, [*addresses, addresses[0].replace("http", "HTTP")])
    gone = (None, "missing")
    good = (CONTENT, None)
    assert found == [good, good, (LARGE, None), gone, gone, good, good, good]
    assert server.asked.count("/unsized") == 1
    assert server.asked.count("/large") == 2
    assert fetched(tmp_path, [addresses[0], addresses[2]], fetch_bytes=1 << 20) == [good, (None, "too_large")]
    assert fetched(tmp_path, [f"{server.root}/endless"], fetch_bytes=1 << 20) == [(None, "too_large")]


@pytest.mark.parametrize("path", ["500", "503", "429", "403", "401", "400", "short", "to//500"])
def test_an_outage_ends_the_job(path: str, server: Server, tmp_path: Path) -> None:
    """What is neither there nor missing is tried again, and then an error: not a single reject."""
    with pytest.raises(StorageError, match=r"can't be read: .*: mend the network or the storage"):
        fetched(tmp_path, [f"{server.root}/{path}"])
    assert len(server.asked) >= 3


def test_nobody_is_there(server: Server, tmp_path: Path) -> None:
    """A refused connection and a host without an address are no missing files either."""
    for address in (f"http://127.0.0.1:{free_port()}/a.jpg", "http://no-such-host.invalid/a.jpg"):
        with pytest.raises(StorageError, match="mend the network"):
            fetched(tmp_path, [address])


def test_an_outage_in_the_middle(server: Server, tmp_path: Path) -> None:
    """A server that was there and is not any more is out, whatever else is known."""
    assert fetched(tmp_path, [f"{server.root}/a.jpg"]) == [(CONTENT, None)]
    server.out = True
    with pytest.raises(StorageError, match="503"):
        fetched(tmp_path, [f"{server.root}/b.jpg"])
    assert server.asked.count("/b.jpg") == 4


def test_one_bad_reference(server: Server, tmp_path: Path) -> None:
    """While other files come, what one of them does is a reject of its row."""
    dead = f"http://127.0.0.1:{free_port()}/a.jpg"
    bad: list[str | None] = [*(f"{server.root}/{name}" for name in ("403", "500", "short")), dead]
    bad += ["http://no-such-host.invalid/a.jpg", f"{server.root}/circle"]
    write(tmp_path / "here.jpg", b"H")
    good = [f"{server.root}/a.jpg", "here.jpg"]
    found = fetched(tmp_path, [*bad, *good])
    assert found[-2:] == [(CONTENT, None), (b"H", None)]
    assert [reason for _, reason in found[:-2]] == ["unreachable"] * 6


@pytest.mark.parametrize("path", ["hang", "drip"])
def test_hosts_that_hang(path: str, server: Server, tmp_path: Path) -> None:
    """A server that takes the question and never answers costs its row, and a bounded time."""
    write(tmp_path / "here.jpg", b"H")
    started = time.monotonic()
    found = fetched(tmp_path, [f"{server.root}/{path}", "here.jpg"], fetch_seconds=0.3)
    assert found == [(None, "unreachable"), (b"H", None)]
    assert time.monotonic() - started < 5
    assert server.asked.count(f"/{path}") == 2


def test_redirects_are_checked(server: Server, tmp_path: Path) -> None:
    """No redirect leads to another scheme."""
    write(tmp_path / "here.jpg", b"H")
    targets = [
        f"file://{tmp_path}/here.jpg",
        "ftp://127.0.0.1/a.jpg",
        "gopher:x",
        "data:image/png;base64,AAAA",
    ]
    addresses: list[str | None] = [f"{server.root}/to/{target}" for target in targets]
    assert fetched(tmp_path, addresses) == [(None, "missing")] * len(addresses)


def test_inside_of_a_network(server: Server, tmp_path: Path) -> None:
    """By default no row reaches a host inside of a network: named, resolved, or by a redirect."""
    port = server.server_port
    inside: list[str | None] = [
        *(f"http://{host}:{port}/a.jpg" for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0")),
        *(f"http://{host}:{port}/a.jpg" for host in ("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]")),
        *("http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a.jpg", "http://192.168.0.1/"),
    ]
    assert fetched(tmp_path, inside, outside_root=False) == [(None, "missing")] * len(inside)
    assert server.asked == []
    assert [
        web.is_inside(place) for place in ("8.8.8.8", "2001:4860:4860::8888", "224.0.0.1", "fe80::1%eth0")
    ] == [*(False, False, True, True)]


def test_a_source_behind_http(server: Server, tmp_path: Path) -> None:
    """Of a table behind http, rows name what lies below it, also after a redirect."""
    at = locate(f"{server.root}/tables/x.parquet")
    reach = Reach(
        ParquetSourceSpec(path=f"{server.root}/tables", column="image", modality="image"), "x.parquet", at
    )
    names = [
        "a.jpg",
        f"{server.root}/tables/b.jpg",
        "../a.jpg",
        "/a.jpg",
        "%2e%2e/a.jpg",
        "//localhost/a.jpg",
    ]
    column = pa.chunked_array([[*names, f"{server.root}/tables/../a.jpg", "/etc/passwd"]])
    ((_, found),) = references.fetch(column, np.ones(len(column), np.bool_), reach, 1 << 20)
    assert found[:2] == [CONTENT] * 2
    assert [part[0] for part in found[2:] if isinstance(part, tuple)] == ["missing"] * 6
    assert sorted(server.asked) == ["/tables/a.jpg", "/tables/b.jpg"]


def test_messages_of_outages(server: Server, tmp_path: Path) -> None:
    """What is said of a row names the file and what the server said, and no query."""
    write(
        tmp_path / "x.parquet", pa.table({"image": [f"{server.root}/403?token=secret", f"{server.root}/a"]})
    )
    found = images(tmp_path / "x.parquet", "parquet", column="image", schemes=["http"], outside_root=True)
    assert table(found).column("message").to_pylist() == [
        f"{server.root}/403: the server says 403 Forbidden",
        None,
    ]


def test_a_root_behind_http(server: Server) -> None:
    """A source whose server is out is not one that is not there."""
    with pytest.raises(SourceError, match="nothing there"):
        Corpus.open(ParquetSourceSpec(path=f"{server.root}/404", column="x"))
    for path in ("500", "429", "403"):
        with pytest.raises(StorageError, match=path):
            Corpus.open(ParquetSourceSpec(path=f"{server.root}/{path}", column="x"))
    with pytest.raises(StorageError, match="refused"):
        Corpus.open(ParquetSourceSpec(path=f"http://127.0.0.1:{free_port()}/x.parquet", column="x"))
