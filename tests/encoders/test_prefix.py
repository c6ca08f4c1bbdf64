"""A model on an object store, from an S3 on this machine.

Copied once per node, whole or not at all, and never mixed with what it was.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from tiny_models import build

from embed_ops.encoders.hub import fetching, folder, prefix
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.errors import ModelError, StorageError
from embed_ops.spec.encoder import TextEncoderSpec
from embed_ops.storage.files import locate

FETCH = """
import json, os, sys
from embed_ops.encoders.hub import fetching, folder, prefix
from embed_ops.errors import EmbedOpsError
address, die_after = json.loads(sys.argv[1])
copy, copied = prefix._copy, []
def dying(at, name, size, target):
    copy(at, name, size, target)
    copied.append(name)
    if len(copied) == die_after:
        os._exit(9)
prefix._copy = dying
try:
    found = folder.locate_model(address, None, False)
    folder.fetch_weights(found, [""])
    told = sorted(path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file())
except EmbedOpsError as error:
    told = str(error)
sys.stdout.write(json.dumps(told))
"""


@dataclass
class Store:
    """A bucket, and the requests for each of its objects."""

    port: int
    client: Any
    asked: Counter[tuple[str, str]]

    def put(self, folder: str, files: dict[str, bytes]) -> str:
        """Put objects under a prefix, and give the address."""
        for name, content in files.items():
            self.client.put_object(Bucket="models", Key=f"{folder}/{name}", Body=content)
        self.asked.clear()
        return f"s3://models/{folder}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Start an S3 on loopback that counts."""
    asked: Counter[tuple[str, str]] = Counter()

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found := re.search(r'"(?:\x1b\[\d+m)*([A-Z]+) (\S+) HTTP', record.getMessage()):
                asked[found[1], found[2].split("?")[0]] += 1

    keys = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    log, handler = logging.getLogger("werkzeug"), Counting()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        patch.setattr(log, "handlers", [handler])
        patch.setattr(log, "propagate", False)
        log.setLevel(logging.INFO)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="models")
        yield Store(port, client, asked)
        server.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model."""
    return build("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def files(model: Path) -> dict[str, bytes]:
    """Give what a prefix holds: the model, and what nobody needs."""
    others = (
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/model.onnx",
        "README.md",
        "checkpoint-5/model.safetensors",
    )
    return {path.name: path.read_bytes() for path in model.iterdir()} | dict.fromkeys(others, b"x")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache, locks of its own, and little patience."""
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fetching, "TRIES", 2)
    monkeypatch.setattr(fetching, "LONGEST_WAIT_S", 0.1)
    return tmp_path / "cache"


def start(address: str, die_after: int = 0) -> subprocess.Popen[str]:
    """Start a process that fetches all of a model."""
    told = json.dumps([address, die_after])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> Any:
    """Give what a process found."""
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return json.loads(out)


def memory(content: dict[str, bytes]) -> str:
    """Put files on a file system that lives in this process."""
    address = f"memory://{uuid.uuid4().hex}"
    change(address, content)
    return address


def change(address: str, content: dict[str, bytes]) -> None:
    """Write files below an address."""
    root = locate(address)
    for name, held in content.items():
        root.fs.create_dir(root.child(name).path.rpartition("/")[0])
        with root.fs.open_output_stream(root.child(name).path) as stream:
            stream.write(held)


def test_same_as_the_folder(store: Store, model: Path, files: dict[str, bytes]) -> None:
    """A prefix gives the vectors and the fingerprint of the folder that was uploaded.

    Its listing is the revision that workers get.
    """
    address = store.put("same", files)
    here, there = TextEncoder(TextEncoderSpec(model=str(model))), TextEncoder(TextEncoderSpec(model=address))
    assert there.fingerprint() == here.fingerprint()
    assert there.weight_bytes() == here.weight_bytes() > 0
    vectors = []
    for encoder in (here, there):
        encoder.load("cpu", "float32")
        vectors.append(encoder.forward(encoder.prepare(pa.array(["one", "two"])).inputs)["embedding"])
    assert np.array_equal(*vectors)
    store.asked.clear()
    worker = TextEncoder(TextEncoderSpec(model=address, revision=there.describe()["commit"]))
    worker.load("cpu", "float32")
    assert store.asked == Counter()


def test_once_per_node(store: Store, model: Path, files: dict[str, bytes]) -> None:
    """Of eight processes that start at once, one reads each object, once, and no needless one."""
    address = store.put("once", files)
    processes = [start(address) for _ in range(8)]
    needed = sorted(path.name for path in model.iterdir())
    assert [told(process) for process in processes] == [needed] * 8
    read = {
        path.removeprefix("/models/once/"): times
        for (verb, path), times in store.asked.items()
        if verb == "GET" and "once/" in path
    }
    assert read == dict.fromkeys(needed, 1)


def test_killed_copy(store: Store, model: Path, files: dict[str, bytes], cache: Path) -> None:
    """A process killed while it copies leaves no model behind, and the next one copies all."""
    address = store.put("killed", files)
    for die_after in (1, len(list(model.iterdir()))):
        # The second dies when all of the weights are copied, and not yet checked.
        dying = start(address, die_after)
        dying.communicate(timeout=120)
        assert dying.returncode == 9
        assert not list(cache.glob("models/*/model.safetensors"))
    assert told(start(address)) == sorted(path.name for path in model.iterdir())


def test_cut_short_in_the_cache(files: dict[str, bytes]) -> None:
    """A file of the copy that lost its end is copied again."""
    address = memory(files)
    found = folder.locate_model(address, None, False)
    folder.fetch_weights(found, [""])
    (found.path / "model.safetensors").write_bytes(b"short")
    folder.fetch_weights(folder.locate_model(address, found.revision, False), [""])
    assert (found.path / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_changed_prefix(
    store: Store, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A prefix that has changed is another copy.

    Who was told the old listing gets the old copy, or an error where there is none.
    """
    address = store.put("changed", files)
    old = folder.locate_model(address, None, False)
    folder.fetch_weights(old, [""])
    store.put("changed", {"model.safetensors": files["model.safetensors"] + b" "})
    new = folder.locate_model(address, None, False)
    folder.fetch_weights(new, [""])
    assert new.path != old.path
    assert (new.path / "model.safetensors").stat().st_size == (
        old.path / "model.safetensors"
    ).stat().st_size + 1
    assert folder.locate_model(address, old.revision, False).path == old.path
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path / "another node"))
    with pytest.raises(ModelError, match="have changed since the run began"):
        folder.locate_model(address, old.revision, False)
    with pytest.raises(ModelError, match="leave revision out"):
        folder.locate_model(address, "../../main", False)


def test_same_size_is_another_file(files: dict[str, bytes]) -> None:
    """New weights of the old size are seen, on a file system that tells no `mtime` too."""
    address = memory(files)
    old = folder.locate_model(address, None, False).revision
    assert folder.locate_model(address, None, False).revision == old
    change(address, {"model.safetensors": bytes(len(files["model.safetensors"]))})
    assert folder.locate_model(address, None, False).revision != old


def test_changed_while_copied(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload during the copy is noticed, and nothing of it is kept."""
    address = memory(files)
    found = folder.locate_model(address, None, False)
    copy = prefix._copy

    def late(*arguments: Any) -> None:
        copy(*arguments)
        change(address, {"model.safetensors": b"another"})

    monkeypatch.setattr(prefix, "_copy", late)
    with pytest.raises(StorageError, match=r"model\.safetensors has changed while it was copied"):
        folder.fetch_weights(found, [""])
    assert not list(cache.glob("models/*/model.safetensors"))


def test_parts_and_bin(files: dict[str, bytes]) -> None:
    """Folders of modules come too, and pytorch_model.bin only where there are no safetensors."""
    held = {
        "modules.json": b"[]",
        "1_Dense/config.json": b"{}",
        "1_Dense/pytorch_model.bin": b"w",
        "pytorch_model.bin": b"x",
    }
    found = folder.locate_model(memory(files | held), None, False)
    folder.fetch_weights(found, ["", "1_Dense"])
    assert (found.path / "1_Dense/config.json").is_file()
    assert (found.path / "1_Dense/pytorch_model.bin").is_file()
    assert not (found.path / "pytorch_model.bin").exists()


def test_nothing_there(store: Store) -> None:
    """A prefix without a model, an object, and a bucket that is not there say what was found."""
    store.client.put_object(Bucket="models", Key="lone.json", Body=b"{}")
    address = store.put("text", {"a.html": b"x"})
    for wrong, words in [
        ("models/text", "found a.html"),
        ("models/gone", "found nothing"),
        ("models/lone.json", "found nothing"),
        ("nobucket/x", "found nothing"),
    ]:
        with pytest.raises(ModelError, match=words):
            folder.locate_model(address.replace("models/text", wrong), None, False)


def test_store_fails(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails for a moment is tried again.

    One that keeps failing is exit 3, and keeps nothing.
    """
    found = folder.locate_model(memory(files), None, False)
    copy, calls = prefix._copy, Counter[str]()

    def failing(at: Any, name: str, *arguments: Any) -> None:
        calls[name] += 1
        if calls[name] < 2 or stubborn:
            raise OSError("AWS Error SLOW_DOWN")
        copy(at, name, *arguments)

    stubborn = True
    monkeypatch.setattr(prefix, "_copy", failing)
    with pytest.raises(StorageError, match=r"SLOW_DOWN.*run the same command again"):
        folder.fetch_weights(found, [""])
    assert calls["model.safetensors"] == 2
    stubborn = False
    calls.clear()
    folder.fetch_weights(found, [""])
    assert (found.path / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.slow
def test_store_down(store: Store) -> None:
    """An S3 that does not answer is exit 3; its client has a patience of its own."""
    address = store.put("down", {"config.json": b"{}"}).replace(str(store.port), "9")
    with pytest.raises(StorageError, match="can't be listed"):
        folder.locate_model(address, None, False)


def test_cache_that_cannot_be_written(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cache that can't be written is exit 3, and the message names the variable."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBED_OPS_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="EMBED_OPS_CACHE"):
        folder.locate_model(memory(files), None, False)


def test_dead_temporaries_go(files: dict[str, bytes], cache: Path) -> None:
    """What a killed process left goes with the next copy once it is an hour old.

    What is being written stays.
    """
    for name, age in (("dead", 7200), ("alive", 0)):
        file = cache / "tmp" / name / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        for path in (file, file.parent):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    folder.locate_model(memory(files), None, False)
    assert [path.name for path in (cache / "tmp").iterdir()] == ["alive"]
