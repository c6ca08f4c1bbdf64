"""A hub on this machine that serves one model, counts requests, and fails on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

MODEL = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCH, TREE = f"/api/models/{MODEL}/revision/main", f"/api/models/{MODEL}/tree/{COMMIT}"


@dataclass(frozen=True)
class Request:
    """One request: its method, path, token, and when it came."""

    method: str
    path: str
    token: str | None
    at: float


@dataclass
class Fault:
    """What happens to the next requests of one kind: a status, or a connection that breaks in the middle of the body."""

    method: str
    path: str
    kind: int | Literal["reset", "short"]
    times: int
    retry_after: int | None = None


@dataclass
class Hub:
    """What is served, what was asked for, and what is to fail."""

    files: Mapping[str, bytes]
    address: str = ""
    private: bool = False
    gated: bool = False
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, name: str, kind: int | Literal["reset", "short"], times: int = 1, retry_after: int | None = None) -> None:
        """Let the next requests for a file (or for BRANCH or TREE) fail."""
        self.faults.append(Fault(method, path_of(name), kind, times, retry_after))

    def count(self, method: str, name: str) -> int:
        """Count the requests for a file (or for BRANCH or TREE)."""
        return sum((request.method, request.path) == (method, path_of(name)) for request in self.requests)

    def fetched(self) -> dict[str, int]:
        """Count the requests for the contents of each file."""
        names = {request.path.removeprefix(path_of("")) for request in self.requests if request.method == "GET"}
        return {name: self.count("GET", name) for name in sorted(names) if not name.startswith("/")}

    def environment(self, home: Any) -> dict[str, str]:
        """Give what points the hub's library to this hub, and to a cache of its own."""
        # Locks are kept in the temporary folder, and those of other tests are none of ours.
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        told = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "TMPDIR": str(home / "tmp"), "HF_HUB_OFFLINE": "0"}
        return told | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def take(self, request: Request) -> Fault | None:
        """Count a request, and give the fault that meets it."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and (fault.method, fault.path) == (request.method, request.path):
                    fault.times -= 1
                    return fault
        return None


def path_of(name: str) -> str:
    """Give the path of a file of the model; BRANCH and TREE are paths."""
    return name if name.startswith("/") else f"/{MODEL}/resolve/{COMMIT}/{name}"


def refused() -> str:
    """Give an address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve a model on loopback for the time of a `with`."""
    hub = Hub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path, hub = self.path.split("?")[0], self.hub
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        fault = hub.take(Request(self.command, path, token, time.monotonic()))
        name = path.removeprefix(path_of(""))
        if fault is not None and isinstance(fault.kind, int):
            self.reply(fault.kind, b"{}", {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)})
        elif hub.private and token is None:
            self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif hub.gated and not path.startswith("/api/"):
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path in (BRANCH, BRANCH.replace("main", COMMIT)):
            self.reply(200, json.dumps({"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": file} for file in hub.files]}).encode())
        elif path == TREE:
            tree = [{"type": "file", "path": file, "size": len(held), "oid": "0" * 40} for file, held in hub.files.items()]
            self.reply(200, json.dumps(tree).encode())
        elif name in hub.files:
            self.reply(200, hub.files[name], broken=fault.kind if fault else None)
        else:
            code = "RevisionNotFound" if path.startswith(f"/api/models/{MODEL}/") else "RepoNotFound"
            self.reply(404, b"{}", {"X-Error-Code": code})

    def reply(self, status: int, content: bytes, headers: Mapping[str, str] = {}, broken: object = None) -> None:
        self.send_response(status)
        told = {"Content-Length": str(len(content)), "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        for key, value in {**told, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content if broken is None else content[: len(content) // 2])
        if broken is not None:
            self.wfile.flush()
            if broken == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
