"""An S3 API on loopback that fails on purpose: moto's server behind a proxy that injects faults by rule."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
_NOT_FORWARDED = {"connection", "transfer-encoding", "content-length", "expect", "date", "server"}
_NOT_SENT_ON = {"connection", "transfer-encoding", "content-length", "expect"}


@dataclass
class Fault:
    """What goes wrong, for which requests, how often.

    Attributes:
        kind: a status ("500", "503", "403"); "reset" (the connection, before the request is passed on); "lost" (the same
            after it was: done, but the answer never comes); "stall" (no answer for `seconds`); "never" (the same, then a reset, and it
            is not passed on); "short" (half of the body,
            then the connection ends); "cut" (half of the body, and a length that says so).
        method: regular expression for the whole method.
        target: regular expression found in path and query, as sent.
        times: requests that it hits; None for all.
        skip: requests that match and are let through first.
    """

    kind: str
    method: str = "GET|PUT|POST|DELETE|HEAD"
    target: str = ""
    times: int | None = 1
    skip: int = 0
    seconds: float = 5.0
    hits: int = 0

    def takes(self, method: str, target: str) -> bool:
        """Tell whether this request is hit, and count it."""
        if not re.fullmatch(self.method, method) or not re.search(self.target, target):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


@dataclass
class FaultyS3:
    """The server: where it is, what was asked of it, and what goes wrong.

    Attributes:
        port: of the proxy.
        quiet_port: of moto itself.
        faults: rules; the first that takes a request decides.
        requests: (method, path and query) of every request.
    """

    port: int = 0
    quiet_port: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, method: str = "GET|PUT|POST|DELETE|HEAD", target: str = "", **more: object) -> Fault:
        """Add a rule."""
        fault = Fault(kind, method, target, **more)  # type: ignore[arg-type]
        with self.lock:
            self.faults.append(fault)
        return fault

    def calm(self) -> None:
        """Drop all rules, and the record of requests."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()

    def counted(self, method: str, target: str = "") -> int:
        """Count the requests that match."""
        with self.lock:
            return sum(bool(re.fullmatch(method, verb) and re.search(target, asked)) for verb, asked in self.requests)

    def client(self) -> Any:
        """Give a boto3 client that meets no faults."""
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.quiet_port}")

    def objects(self, prefix: str = "") -> dict[str, int]:
        """List what is visible: sizes by key."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def upload(self, folder: Path, prefix: str) -> None:
        """Put the files of a folder."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())

    def fault_for(self, method: str, target: str) -> Fault | None:
        """Note a request, and choose what goes wrong with it."""
        with self.lock:
            self.requests.append((method, target))
            return next((fault for fault in self.faults if fault.takes(method, target)), None)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, faulty: FaultyS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faulty = faulty

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        body = self._body()
        fault = self.server.faulty.fault_for(self.command, self.path)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind in ("stall", "never"):
            time.sleep(fault.seconds)
        if kind in ("reset", "never"):
            self._reset()
            return
        if kind.isdigit():
            self._refuse(int(kind))
            return
        status, headers, content = self._forward(body)
        if kind == "lost":
            self._reset()
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        kept = content[: len(content) // 2] if kind in ("short", "cut") else content
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" or kind == "short" else str(len(kept)))
        self.end_headers()
        self.wfile.write(kept)
        if kind == "short":
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        inner = http.client.HTTPConnection("127.0.0.1", self.server.faulty.quiet_port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_SENT_ON}
            inner.request(self.command, self.path, body, headers)
            answer = inner.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            inner.close()

    def _refuse(self, status: int) -> None:
        code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown", 404: "NoSuchKey"}.get(status, "Injected")
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected {status}</Message></Error>'.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _reset(self) -> None:
        # With no time to linger, closing sends a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def environment(server: FaultyS3) -> dict[str, str]:
    """Give the variables that lead pyarrow and boto3 to the proxy, in this process and in those it starts."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_EC2_METADATA_DISABLED": "true"}


@contextlib.contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Start moto, with an empty bucket, and the proxy on free ports of loopback, and set the environment; undo all at the end."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    server = FaultyS3()
    server.quiet_port = moto.get_host_and_port()[1]
    proxy = _Proxy(server)
    server.port = proxy.server_address[1]
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    before = dict(os.environ)
    os.environ.update(environment(server))
    try:
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        proxy.shutdown()
        proxy.server_close()
        moto.stop()
