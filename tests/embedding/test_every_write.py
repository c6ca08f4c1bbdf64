"""Law 2 at every write: a command that dies between any two of them is gone on with.

A storage that counts its writes and deletions stands for the kill: from one of them on nothing is
written any more, as in a process that is gone. (SQLite is tested in this way.)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage_runs import bytes_of
from tiny_runs import contents

from embed_ops import Run, embed, postprocess
from embed_ops.embedding.driver import retry
from embed_ops.embedding.vocabulary import write_vocabulary
from embed_ops.runs import directory, heartbeat
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import Spec
from embed_ops.storage import files, publishing
from embed_ops.storage.faults import patiently

pytestmark = pytest.mark.usefixtures("engine")

WRITES = ("written", "created", "deleted")


class Killed(BaseException):
    """The process is gone."""


class MortalStorage:
    """Lets a process die before its n-th write, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 1 << 30
        self.done = 0
        self._dead: set[str] = set()
        for module in (files, publishing, directory):
            monkeypatch.setattr(module, "patiently", self._patiently)
        alive = heartbeat.attempt_is_dead
        for holder in (heartbeat, directory):
            monkeypatch.setattr(holder, "attempt_is_dead", lambda name: name in self._dead or alive(name))

    def _patiently(self, what: str, where: str, act: Callable[[], Any]) -> Any:
        if what in WRITES:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            self.done += 1
        return patiently(what, where, act)

    def kill(self, act: Callable[[], Any], at: int) -> bool:
        """Run a command whose process dies before write `at`; says whether it died."""
        self.left = at
        try:
            act()
        except Killed:
            return True
        finally:
            self.left = 1 << 30
        return False

    def bury(self, run: Path) -> None:
        """Let the dead be known as such: this process only played them."""
        for place in (*run.rglob("heartbeat.json"), *run.rglob("run.json")):
            told = json.loads(place.read_text())
            self._dead |= {told["attempt"]} if "attempt" in told else {a["attempt"] for a in told["attempts"]}
        self._dead |= {place.name for place in run.rglob("tmp/*")}


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> MortalStorage:
    """Make the storage mortal."""
    return MortalStorage(monkeypatch)


def corpus(root: Path, words: list[str]) -> None:
    """Write two files in two folders, one with rejects."""
    for name, part in (("one", words[:7]), ("two", words[7:])):
        (root / "corpus" / name).mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": word, "n": number}) for number, word in enumerate(part)]
        (root / "corpus" / name / "a.jsonl").write_text("\n".join([*lines, '{"text": null}', "{"]))


def spec_of(root: Path) -> Spec:
    """Make a spec of words and stages."""
    stages = [
        {"kind": "normalize"},
        {"kind": "kmeans", "k": 2, "by_cluster": True, "max_epochs": 1, "polish": 0},
    ]
    return Spec.parse(
        {
            "source": {
                "kind": "jsonl",
                "path": str(root / "corpus"),
                "column": "text",
                "keep": ["n"],
                "on_change": "re-embed",
            },
            "encoder": {"family": "static", "model": str(root / "table.txt")},
            "sink": {"path": str(root / "run")},
            "parity": {"rows": 0},
            "resources": {"unit_rows": 7},
            "max_reject_fraction": 1.0,
            "stage": stages,
        }
    )


def made(root: Path) -> None:
    """Embed, and run the stages."""
    embed(spec_of(root))
    postprocess(spec_of(root))


def changed(root: Path) -> None:
    """Change a file, and let run and stages follow."""
    lines = (root / "corpus/one/a.jsonl").read_text().split("\n")
    (root / "corpus/one/a.jsonl").write_text("\n".join([*lines[:5][::-1], *lines[5:]]))
    os.utime(root / "corpus/one/a.jsonl", (1_800_000_000, 1_800_000_000))


def mended(root: Path) -> None:
    """Let the rejects of a file be readable, without a change that shows."""
    place = root / "corpus/two/a.jsonl"
    stamp = place.stat()
    place.write_text(place.read_text().replace('{"text": null}', '{"text": "w1"}'))
    os.utime(place, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def nothing(root: Path) -> None:
    """Change nothing."""


COMMANDS: dict[str, tuple[bool, Callable[[Path], None], Callable[[Path], Any]]] = {
    "embed": (False, nothing, lambda root: embed(spec_of(root))),
    "embed again": (True, nothing, lambda root: embed(spec_of(root))),
    "re-embed": (True, changed, lambda root: embed(spec_of(root))),
    "retry": (True, mended, lambda root: retry(str(root / "run"))),
    "stages": (
        False,
        lambda root: Run(embed(spec_of(root)).path) and None,
        lambda root: postprocess(spec_of(root)),
    ),
    "stages again": (
        True,
        lambda root: (changed(root), embed(spec_of(root)), None)[-1],
        lambda root: postprocess(spec_of(root)),
    ),
    "refit": (True, nothing, lambda root: postprocess(spec_of(root), refit=True)),
    "vocabulary": (False, nothing, lambda root: write_vocabulary(str(root / "table.txt"), str(root / "run"))),
}


def bytes_below(root: Path) -> dict[str, Any]:
    """Read all that decides: data, rejects, models, copies by cluster."""
    runs = [root / "run", *sorted((root / "run/stages").glob("*"))]
    clusters = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("run/stages/*/clusters/**/*.parquet"))
    }
    return {str(run.relative_to(root)): (contents(run), bytes_of(run)) for run in runs} | {
        "clusters": clusters
    }


@pytest.mark.slow
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_dies_at_any_write(name: str, storage: MortalStorage, tmp_path: Path) -> None:
    """Whichever write it misses, the same command ends with the bytes of one that lived."""
    begun, before, command = COMMANDS[name]
    origin = tmp_path / "origin"
    origin.mkdir()
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    table = [f"{word} {' '.join(f'{value:.4f}' for value in rng.normal(size=3))}" for word in words]
    # Addresses stand in the runs, so all of them lie at one place in turn.
    place = tmp_path / "place"
    place.mkdir()
    (place / "table.txt").write_text("\n".join(table))
    corpus(place, words)
    if begun:
        made(place)
    before(place)
    shutil.copytree(place, origin, dirs_exist_ok=True)
    command(place)
    expected = bytes_below(place)
    at, died = 0, True
    while died:
        shutil.rmtree(place)
        shutil.copytree(origin, place)
        died = storage.kill(lambda: command(place), at)
        storage.bury(place / "run")
        command(place)
        assert bytes_below(place) == expected, f"died before write {at}"
        for run in (place / "run", *(place / "run/stages").glob("*")):
            if died and name in ("re-embed", "retry") and run != place / "run":
                # Stages of before are refused until they are run again.
                continue
            assert Run(str(run)).status == "finished"
            differences = verify(str(run)).differences
            if name not in ("re-embed", "retry") or run == place / "run":
                assert differences == [], f"died before write {at}"
        at += 1
    assert at > 5


def test_a_header_without_a_plan_is_a_new_run(tmp_path: Path) -> None:
    """An earlier version could die between the two; with units beside it, it is refused."""
    corpus(tmp_path, [f"w{number}" for number in range(12)])
    (tmp_path / "table.txt").write_text("\n".join(f"w{number} 1 {number}" for number in range(12)))
    embed(spec_of(tmp_path))
    expected = contents(tmp_path / "run")
    for folder in ("data", "rejects", "manifest"):
        shutil.rmtree(tmp_path / "run" / folder)
    (tmp_path / "run/plan.parquet").unlink()
    assert embed(spec_of(tmp_path)).report["rows"] == 12
    assert contents(tmp_path / "run") == expected
    (tmp_path / "run/plan.parquet").unlink()
    with pytest.raises(
        directory.RunError, match=r"has no plan\.parquet, but data/.*restore it, or choose another"
    ):
        embed(spec_of(tmp_path))
    assert contents(tmp_path / "run") == expected
