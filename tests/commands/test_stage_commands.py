"""Stages by their commands.

Killed and stopped in the middle, another spec, bad input, and `run` from text to clusters.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from corpora import docstrings, write_parquet
from made_run import make_run
from stage_data import Array
from stage_runs import DRAW, FILES, ROWS, bytes_of, invoke
from tiny_runs import no_session

from embed_ops import Run, postprocess
from embed_ops.errors import RunError
from embed_ops.runs.record import SUFFIX
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage

pytestmark = pytest.mark.usefixtures("ray_session")

LONG: dict[str, Any] = {"kind": "kmeans", "k": 12, "patience": 100_000, "max_epochs": 10}


def start(run: Path, output: Path) -> subprocess.Popen[str]:
    """Start a long fit by the command, as a session of its own."""
    words = [f"{key}={value}" for key, value in LONG.items()]
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "postprocess",
        str(run),
        *words,
        "--output",
        str(output),
        "--progress",
        "plain",
    ]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Wait until something is there, or the process has ended."""
    while not there() and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def many_units(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Make a run of many small units, and the bytes of a long fit that nobody disturbs."""
    folder = tmp_path_factory.mktemp("killed")
    make_run(str(folder / "run"), FILES, DRAW, unit_rows=200)
    postprocess(str(folder / "run"), [parse_stage(LONG)], output=str(folder / "quiet"))
    return folder / "run", bytes_of(folder / "quiet")


@pytest.mark.slow
def test_killed(many_units: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """Killed in the middle of the fit, then in the middle of applying.

    The same command ends with the same bytes.
    """
    run, quiet = many_units
    output = tmp_path / "out"
    process = start(run, output)
    wait_for(process, lambda: (output / "work" / "state").exists())
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert not (output / "model").exists(), "the fit was over before it could be killed"
    process = start(run, output)
    wait_for(process, lambda: sum(1 for _ in (output / "data").rglob(f"*{SUFFIX}")) > 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {name: (output / name).stat().st_mtime_ns for name in bytes_of(output)}
    assert 5 < len(done) < len(quiet), "nothing was left to apply when it was killed"
    process = start(run, output)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert bytes_of(output) == quiet
    assert {name: (output / name).stat().st_mtime_ns for name in done} == done, (
        "what was done was written again"
    )
    assert json.loads((output / "report.json").read_text())["units_skipped"] >= len(done) - 2
    assert verify(str(output), source=True).differences == []
    assert not (output / "work").exists()
    assert not list((output / "tmp").iterdir()), "temporary files of the dead attempts were left"


@pytest.mark.slow
def test_stopped(many_units: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """SIGTERM and --stop-after end a fit with exit code 3 and a sentence.

    The same command goes on to the same bytes.
    """
    run, quiet = many_units
    output = tmp_path / "out"
    process = start(run, output)
    wait_for(process, lambda: (output / "work" / "state").exists())
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 3, said
    assert "kmeans: stopped as asked" in said
    assert "Traceback" not in said
    assert json.loads((output / "run.json").read_text())["status"] == "stopped"
    words = [
        "postprocess",
        run,
        *(f"{key}={value}" for key, value in LONG.items()),
        "--output",
        output,
        "--progress",
        "none",
    ]
    code, said = invoke(*words, "--stop-after", "0.2s")
    assert (code, "run the same command again" in said) == (3, True), said
    code, said = invoke(*words)
    assert code == 0, said
    assert bytes_of(output) == quiet


def test_another_spec(tmp_path: Path) -> None:
    """Another spec, seed or input on the same folder is refused by name; --refit begins anew."""
    path = tmp_path / "run"
    make_run(str(path), [300], DRAW)
    assert invoke("postprocess", path, "kind=pca", "dim=6")[0] == 0
    before = bytes_of(path / "stages" / "pca")
    code, said = invoke("postprocess", path, "kind=pca", "dim=5")
    assert (code, "stage.dim" in said, "Traceback" in said) == (2, True, False), said
    with pytest.raises(RunError, match="seed"):
        postprocess(str(path), [parse_stage({"kind": "pca", "dim": 6, "seed": 1})], session=no_session)
    assert bytes_of(path / "stages" / "pca") == before
    assert invoke("postprocess", path, "kind=pca", "dim=5", "--refit")[0] == 0
    assert Run(str(path / "stages" / "pca")).open().schema.field("embedding").type.list_size == 5
    assert verify(str(path / "stages" / "pca"), source=True).differences == []
    with pytest.raises(RunError, match="is not the run of a stage"):
        postprocess(
            str(path),
            [parse_stage({"kind": "pca", "dim": 5})],
            output=str(path),
            refit=True,
            session=no_session,
        )
    assert verify(str(path)).differences == []


BAD: list[tuple[list[str], str]] = [
    (["{run}", f"kind=kmeans k={ROWS + 1}"], "but the run has 20,000 rows"),
    (["{run}", "kind=kmeans k=0"], "k"),
    (["{run}", "kind=pca dim=25"], "have at most 24 components"),
    (["{run}", "kind=pca dim=4 column=nope"], "no column 'nope' here"),
    (["{run}", "kind=pca dim=4 colour=red"], "colour"),
    (["{run}", "kind=nope"], "kind"),
    (["{run}", ""], "which stage?"),
    (["{codes}", "kind=pca dim=4 column=embedding"], "holds codes (int8)"),
    (["{stopped}", "kind=normalize"], "the run is stopped"),
    (["{nan}", "kind=pca dim=4"], "is not finite in 1 rows, the first is row 7"),
    (["{nan}", "kind=normalize"], "is not finite in 1 rows, the first is row 7"),
    (["{one}", "kind=pca dim=1"], "1 rows have no variance"),
    (["{nowhere}", "kind=normalize"], "no run here"),
]


@pytest.fixture(scope="module")
def places(
    many_units: tuple[Path, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Make runs that can't be used: not finished, with a value that is not finite, of one row."""
    folder = tmp_path_factory.mktemp("bad")
    found = {name: folder / name for name in ("stopped", "nan", "one", "codes", "nowhere")} | {
        "run": many_units[0]
    }
    for name, rows in (("stopped", 50), ("nan", 50), ("one", 1), ("codes", 9)):
        make_run(
            str(found[name]),
            [rows],
            lambda first, end, name=name: spoiled(first, end) if name == "nan" else DRAW(first, end),
            dtype="int8" if name == "codes" else "float32",
        )
    header = json.loads((found["stopped"] / "run.json").read_text())
    (found["stopped"] / "run.json").write_text(json.dumps(header | {"status": "stopped"}))
    return found


def spoiled(first: int, end: int) -> Array:
    """Draw rows, the eighth with a value that is not finite."""
    x = DRAW(first, end).copy()
    x[7, 3] = np.nan
    return x


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input(words: list[str], sentence: str, places: dict[str, Path], tmp_path: Path) -> None:
    """What can't be fitted or applied is exit code 2 and one sentence that names it.

    No data are written.
    """
    given = [word.format(**places) for word in words]
    code, said = invoke(
        "postprocess", given[0], *given[1].split(), "--output", tmp_path / "out", "--progress", "none"
    )
    assert (code, sentence in said) == (2, True), said
    assert "Traceback" not in said
    assert not any(name.startswith("data/") for name in bytes_of(tmp_path / "out"))


@pytest.mark.slow
def test_module(places: dict[str, Path], tmp_path: Path) -> None:
    """The module is the command, exit codes too."""
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "postprocess",
        str(places["run"]),
        "kind=kmeans",
        "k=40000",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "kmeans: k = 40,000, but the run has 20,000 rows; give k = 20000 or less" in done.stderr
    assert "Traceback" not in done.stderr


def test_embed_and_stages(tiny: str, tmp_path: Path) -> None:
    """`run` embeds and goes through the stages of the spec; again it finds nothing to do."""
    write_parquet(tmp_path / "corpus", docstrings(120), files=3)
    spec = f"""
[source]
path = "{tmp_path / "corpus"}"
column = "text"
[encoder]
model = "{tiny}"
[sink]
path = "{tmp_path / "run"}"
[parity]
rows = 0
[resources]
replicas = 1
[[stage]]
kind = "normalize"
[[stage]]
kind = "kmeans"
k = 5
spherical = true
[[stage]]
kind = "pca"
dim = 4
input = "normalize"
"""
    (tmp_path / "spec.toml").write_text(spec)
    code, said = invoke("run", tmp_path / "spec.toml", "--progress", "none")
    assert code == 0, said
    for name in ("normalize", "kmeans", "pca"):
        found = verify(str(tmp_path / "run" / "stages" / name), source=True)
        assert (found.differences, found.rows) == ([], 120)
    before = {name: bytes_of(tmp_path / "run" / "stages" / name) for name in ("normalize", "kmeans", "pca")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "remote", no_session)
        code, said = invoke("run", tmp_path / "spec.toml", "--progress", "none")
    assert code == 0, said
    assert {name: bytes_of(tmp_path / "run" / "stages" / name) for name in before} == before
