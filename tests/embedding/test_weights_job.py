"""A whole job with a hub model: driver, readers and two replicas together fetch each file once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from corpora import write_parquet
from loopback_hub import BRANCH, COMMIT, MODEL, TREE, serve
from tiny_models import build

from embed_ops import Run


def embed(spec: dict[str, str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command with a Ray of its own."""
    # Ray's sockets need a short path, and locks and sessions are not to meet those of other tests.
    folder = tempfile.mkdtemp(prefix="w", dir="/tmp")
    words = [f"{name}={value}" for name, value in spec.items()]
    told = {**os.environ, **environment, "TMPDIR": folder, "RAY_TMPDIR": folder}
    told.pop("RAY_ADDRESS", None)
    try:
        return subprocess.run(
            [sys.executable, "-m", "embed_ops", "embed", *words],
            env=told,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_hub_model(tmp_path: Path) -> None:
    """Weights are fetched once for two replicas and the reference.

    Only the driver asks for the branch; a second command needs no file.
    """
    write_parquet(tmp_path / "corpus", [f"text number {number}" for number in range(2000)], files=4)
    spec: dict[str, Any] = {
        "source.path": tmp_path / "corpus",
        "source.column": "text",
        "encoder.model": MODEL,
        "sink.path": tmp_path / "run",
    }
    spec |= {
        "resources.replicas": 2,
        "resources.unit_rows": 50,
        "encoder.dtype": "float32",
        "encoder.compile": "false",
    }
    # One text at a time: a replica that is ready first must not have done everything before the
    # other one is.
    spec["resources.token_budget"] = 1
    files = {path.name: path.read_bytes() for path in build("bert", tmp_path / "served").iterdir()}
    with serve({**files, "pytorch_model.bin": b"x", "tf_model.h5": b"x"}) as hub:
        hub.fail("GET", "model.safetensors", 429, retry_after=1)
        done = embed(spec, hub.environment(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        hub_asked = {(request.method, request.path) for request in hub.requests if MODEL in request.path}
        assert {name: times for name, times in hub.fetched().items() if name != "model.safetensors"} == {
            name: 1 for name in files if name != "model.safetensors"
        }
        assert hub.count("GET", "model.safetensors") == 2
        assert hub.count("GET", TREE) == 1
        run = json.loads((tmp_path / "run/run.json").read_text())
        assert (
            run["model"]["commit"],
            run["spec"]["encoder"]["revision"],
            run["fingerprint"]["model commit"],
        ) == (COMMIT,) * 3
        assert {path for method, path in hub_asked if method == "GET"} == {
            BRANCH,
            TREE,
            *(f"/{MODEL}/resolve/{COMMIT}/{name}" for name in files),
        }
        branches = hub.count("GET", BRANCH)
        assert branches == 2
        assert Run(str(tmp_path / "run")).report["replicas"] == 2
        again = embed(spec, hub.environment(tmp_path / "home"))
        assert again.returncode == 0, again.stderr
        assert hub.count("GET", "model.safetensors") == 2
        hub.fail("GET", BRANCH, 503, times=1000)
        offline = embed(spec, hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"})
        assert offline.returncode == 0, offline.stderr
