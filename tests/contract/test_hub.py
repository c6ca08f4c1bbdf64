"""A hub model, from a hub on this machine: what is fetched when, the commit, and the error for an unknown name."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import build

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys, pyarrow as pa
from embed_ops.encoders.text import TextEncoder
from embed_ops.errors import ModelError
from embed_ops.spec import EncoderSpec
encoder = TextEncoder(EncoderSpec(model="someone/tiny"))
prepared = encoder.prepare(pa.array(["one", "two"]))
prints = encoder.fingerprint()
weights_before = bool(list(encoder._path.glob("*.safetensors")))
encoder.load("cpu", "float32")
vectors = encoder.forward(prepared.inputs)["embedding"]
try:
    TextEncoder(EncoderSpec(model="someone/else"))
except ModelError as error:
    message = str(error)
sys.stdout.write(json.dumps([weights_before, encoder.describe()["commit"], prints, vectors.shape, message]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve one tiny model as the hub does: its address, and the files that were asked for."""
    files = {path.name: path.read_bytes() for path in build("bert", tmp_path / "served").iterdir()}
    files |= {"tf_model.h5": b"x", "pytorch_model.bin": b"x", "onnx/model.onnx": b"x"}
    fetched: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            name = path.removeprefix(f"/someone/tiny/resolve/{COMMIT}/")
            if path.startswith("/api/models/someone/tiny/revision/"):
                info = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                self.reply(200, json.dumps(info).encode(), body)
            elif path == f"/api/models/someone/tiny/tree/{COMMIT}":
                tree = [{"type": "file", "path": file, "size": len(held), "oid": "0" * 40} for file, held in files.items()]
                self.reply(200, json.dumps(tree).encode(), body)
            elif name in files:
                fetched.extend([name] if body else [])
                self.reply(200, files[name], body)
            else:
                self.reply(404, b"{}", body)

        def reply(self, status: int, content: bytes, body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()


def test_hub_model(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    """Weights come with load only, other frameworks' weights never; the commit is kept; an unknown name is a clear error."""
    address, fetched = hub
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights_before, commit, prints, shape, message = json.loads(done.stdout)
    assert not weights_before
    assert (commit, prints["commit"], shape) == (COMMIT, COMMIT, [2, 32])
    assert "model.safetensors" in fetched
    assert not {"tf_model.h5", "pytorch_model.bin", "onnx/model.onnx"} & set(fetched)
    assert "someone/else is not on the hub" in message
