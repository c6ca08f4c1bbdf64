"""A hub model, from a hub on this machine.

What is fetched when and how often, what is waited out, and what each failure says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import BRANCH, COMMIT, MODEL, TREE, Hub, path_of, refused, serve
from tiny_models import build

ENCODE = """
import json, sys, pyarrow as pa
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import TextEncoderSpec
encoder = TextEncoder(TextEncoderSpec(model="someone/tiny"))
prepared = encoder.prepare(pa.array(["one", "two"]))
prints = encoder.fingerprint()
weights_before = bool(list(encoder._backbone.files.path.glob("*.safetensors")))
encoder.load("cpu", "float32")
vectors = encoder.forward(prepared.inputs)["embedding"]
try:
    TextEncoder(TextEncoderSpec(model="someone/else"))
except ModelError as error:
    message = str(error)
sys.stdout.write(json.dumps([weights_before, encoder.describe()["commit"], prints, vectors.shape, message]))
"""
FETCH = """
import json, sys
from embed_ops.encoders.hub import fetching, folder
from embed_ops.errors import EmbedOpsError
asked, tries, weights = json.loads(sys.argv[1])
fetching.TRIES, fetching.LONGEST_WAIT_S = tries, 0.2
told = []
for model, revision in asked:
    try:
        found = folder.locate_model(model, revision, False)
        if weights:
            folder.fetch_weights(found, [""])
        sizes = {path.name: path.stat().st_size for path in sorted(found.path.iterdir())}
        told.append({"commit": found.commit, "files": sizes})
    except EmbedOpsError as error:
        told.append({"kind": type(error).__name__, "code": error.exit_code, "message": str(error)})
sys.stdout.write(json.dumps(told))
"""
SMALL = {"config.json": b"{}", "tokenizer.json": b"[1, 2, 3]", "vocab.txt": b"a\nb\n"}
WEIGHTS = {"model.safetensors": bytes(range(256)) * 8192}
OTHERS = {
    "tf_model.h5": b"x",
    "pytorch_model.bin": b"x",
    "onnx/model.onnx": b"x",
    "checkpoint-5/model.safetensors": b"x",
}
SIZES = {name: len(content) for name, content in {**SMALL, **WEIGHTS}.items()}


Told = list[dict[str, Any]]


@dataclass(frozen=True)
class Fetch:
    """Processes that fetch the model, as a driver or a worker does."""

    hub: Hub
    home: Path

    def start(
        self,
        *revisions: str | None,
        model: str = MODEL,
        tries: int = 5,
        weights: bool = True,
        **environment: str,
    ) -> Any:
        """Start one that asks for one revision after the other."""
        told = json.dumps([[(model, revision) for revision in revisions], tries, weights])
        with_hub = {**os.environ, **self.hub.environment(self.home), **environment}
        return subprocess.Popen(
            [sys.executable, "-c", FETCH, told],
            env=with_hub,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def all(self, *revisions: str | None, **options: Any) -> Told:
        """Run one, and give what it found or the error it met, for each revision."""
        return self.told(self.start(*revisions, **options))

    def __call__(self, revision: str | None = COMMIT, **options: Any) -> dict[str, Any]:
        """Run one for one revision."""
        return self.all(revision, **options)[0]

    @staticmethod
    def told(process: subprocess.Popen[str]) -> Told:
        """Give what a process found or the errors it met."""
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        told: Told = json.loads(out)
        return told


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Serve files that look like a model's."""
    with serve({**SMALL, **WEIGHTS, **OTHERS}) as served:
        yield served


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Fetch:
    """Fetch from it to an empty cache."""
    return Fetch(hub, tmp_path / "home")


def whole(told: Mapping[str, Any]) -> bool:
    """Tell whether all that is needed was fetched, and nothing else."""
    return (told.get("commit"), told.get("files")) == (COMMIT, SIZES)


def test_hub_model(tmp_path: Path) -> None:
    """Weights come with load only, other frameworks' weights never; the commit is kept.

    An unknown name is a clear error.
    """
    files = {path.name: path.read_bytes() for path in build("bert", tmp_path / "served").iterdir()}
    with serve({**OTHERS, **files}) as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", ENCODE], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        weights_before, commit, prints, shape, message = json.loads(done.stdout)
        assert not weights_before
        assert (commit, prints["commit"], shape) == (COMMIT, COMMIT, [2, 32])
        assert hub.count("GET", "model.safetensors") == 1
        assert not set(OTHERS) & set(hub.fetched())
        assert "someone/else is not on the hub" in message


def test_once_per_node(fetch: Fetch) -> None:
    """Of eight workers that start at once on an empty cache, one fetches.

    Afterwards nobody asks the hub for anything.
    """
    workers = [fetch.start(COMMIT) for _ in range(8)]
    assert [whole(fetch.told(worker)[0]) for worker in workers] == [True] * 8
    assert fetch.hub.fetched() == dict.fromkeys(SIZES, 1)
    assert fetch.hub.count("GET", TREE) == 1
    assert fetch.hub.count("GET", BRANCH) == 0
    asked = len(fetch.hub.requests)
    assert whole(fetch())
    assert len(fetch.hub.requests) == asked


def test_branch(fetch: Fetch) -> None:
    """The driver asks which commit a branch is; workers need no question."""
    driver = fetch(None, weights=False)
    assert driver["commit"] == COMMIT
    assert fetch.hub.count("GET", BRANCH) > 0
    before = list(fetch.hub.requests)
    assert whole(fetch(driver["commit"]))
    after = {request.path for request in fetch.hub.requests[len(before) :]}
    assert {path for path in after if MODEL in path} == {path_of("model.safetensors")}


def test_throttled(fetch: Fetch) -> None:
    """429, 5xx and connections that break are waited out, 429 for as long as it says."""
    hub = fetch.hub
    hub.fail("GET", BRANCH, 429, retry_after=1)
    hub.fail("GET", BRANCH, 503)
    hub.fail("GET", TREE, 503)
    hub.fail("HEAD", "model.safetensors", 500)
    hub.fail("GET", "model.safetensors", 503)
    hub.fail("GET", "model.safetensors", "reset")
    hub.fail("GET", "model.safetensors", "short")
    assert whole(fetch(None))
    assert [fault for fault in hub.faults if fault.times] == []
    times = [request.at for request in hub.requests if request.path == BRANCH]
    assert times[1] - times[0] >= 1.0


@pytest.mark.slow
def test_throttled_together(fetch: Fetch) -> None:
    """Workers that wait while one is throttled neither fail nor ask."""
    fetch.hub.fail("GET", "model.safetensors", 500, times=2)
    workers = [fetch.start(COMMIT) for _ in range(4)]
    assert [whole(fetch.told(worker)[0]) for worker in workers] == [True] * 4
    assert fetch.hub.count("GET", "model.safetensors") == 3


def test_down(fetch: Fetch) -> None:
    """A hub that is down is exit 3 after some tries.

    A commit that is here does not need it, nor does a branch that was asked for.
    """
    gone = {"HF_ENDPOINT": refused()}
    told = fetch(None, tries=3, **gone)
    assert (told["kind"], told["code"]) == ("StorageError", 3)
    assert "run the same command again" in told["message"]
    fetch.hub.fail("GET", BRANCH, 503, times=1000)
    told = fetch(None, tries=3)
    assert (told["kind"], fetch.hub.count("GET", BRANCH)) == ("StorageError", 3)
    fetch.hub.faults.clear()
    assert whole(fetch(None))
    assert [whole(told) for told in fetch.all(None, COMMIT, tries=2, **gone)] == [True] * 2


@pytest.mark.slow
def test_down_with_a_commit(fetch: Fetch) -> None:
    """The hub's library has a patience of its own with listings: half a minute a try."""
    told = fetch(COMMIT, tries=1, HF_ENDPOINT=refused())
    assert (told["kind"], told["code"]) == ("StorageError", 3)


def test_refused(fetch: Fetch) -> None:
    """What would fail again is exit 2 at once, with what to do; the token that is set is sent."""
    hub = fetch.hub
    for told in fetch.all("no-such-branch", "f" * 40):
        assert (told["kind"], told["code"]) == ("ModelError", 2)
        assert "correct encoder.revision" in told["message"]
    hub.gated = True
    assert "accept its terms" in fetch()["message"]
    hub.gated, hub.private = False, True
    told = fetch()
    assert (told["kind"], "HF_TOKEN" in told["message"]) == ("ModelError", True)
    assert {request.token for request in hub.requests} == {None}
    assert whole(fetch(HF_TOKEN="hf_secret"))
    assert hub.requests[-1].token == "hf_secret"


def test_cut_short_in_the_cache(fetch: Fetch) -> None:
    """Weights that are shorter in the cache than on the hub are fetched again.

    Offline, they are an error.
    """
    assert whole(fetch())
    cached = next(fetch.home.rglob("model.safetensors"))
    with cached.open("r+b") as file:
        file.truncate(1000)
    assert "does not hold it whole" in fetch(HF_HUB_OFFLINE="1")["message"]
    assert whole(fetch())
    assert cached.read_bytes() == WEIGHTS["model.safetensors"]


def test_offline(fetch: Fetch) -> None:
    """Offline, what is cached works, by branch and by commit, and what is not says what to do.

    There is no request.
    """
    for told in fetch.all(None, COMMIT, HF_HUB_OFFLINE="1"):
        assert (told["kind"], told["code"]) == ("ModelError", 2)
        assert "HF_HUB_OFFLINE" in told["message"]
    assert fetch.hub.requests == []
    fetch(None, weights=False)
    asked = len(fetch.hub.requests)
    assert "does not hold it whole" in fetch(None, HF_HUB_OFFLINE="1")["message"]
    assert len(fetch.hub.requests) == asked
    assert whole(fetch(None))
    asked = len(fetch.hub.requests)
    assert [whole(told) for told in fetch.all(None, COMMIT, HF_HUB_OFFLINE="1")] == [True] * 2
    assert len(fetch.hub.requests) == asked


def test_cache_of_other_software(fetch: Fetch) -> None:
    """A cache without a listing may lack files.

    With a hub it is completed, offline it is taken as it is.
    """
    assert whole(fetch())
    for trees in list(fetch.home.rglob("trees")):
        shutil.rmtree(trees)
    next(fetch.home.rglob("vocab.txt")).unlink()
    assert "vocab.txt" not in fetch(HF_HUB_OFFLINE="1")["files"]
    before = fetch.hub.fetched()
    assert whole(fetch())
    assert {name for name, times in fetch.hub.fetched().items() if times > before[name]} <= {"vocab.txt"}


def test_folder_needs_no_hub(fetch: Fetch, tmp_path: Path) -> None:
    """A folder is used as it is, without a question to anybody."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"123")
    there = {"commit": None, "files": {"config.json": 2, "model.safetensors": 3}}
    assert fetch(None, model=str(folder), tries=1, HF_ENDPOINT=refused()) == there
    assert fetch(None, model=f"file://{folder}", tries=1, HF_ENDPOINT=refused()) == there
