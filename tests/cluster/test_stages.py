"""The laws, held by stages: complete, resumable in the middle of a fit and of an apply, byte-identical on any number of workers."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from conftest import no_session
from corpora import docstrings, write_parquet
from made_run import make_run, mixture
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans
from stage_data import Array, fitted, same_bits
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from embed_ops import Run, load_model, postprocess
from embed_ops.errors import RunError, StageError
from embed_ops.record import SUFFIX
from embed_ops.sinks.parquet import vectors_of
from embed_ops.spec import parse_stage
from embed_ops.stages import kmeans
from embed_ops.verify import verify
from jobs.cli import app

pytestmark = pytest.mark.usefixtures("ray_session")

FILES, DIM = [9000, 1, 0, 12_000, 8999], 24
ROWS = sum(FILES)
DRAW = mixture(DIM, 12, spread=0.4)
SECTIONS: list[dict[str, Any]] = [
    {"kind": "normalize"},
    {"kind": "normalize", "method": "standardize", "name": "standardize", "input": "embed"},
    {"kind": "pca", "dim": 6, "input": "embed"},
    {"kind": "pca", "dim": 4, "solver": "subspace", "name": "subspace", "input": "embed"},
    {"kind": "whiten", "input": "embed"},
    {"kind": "center", "input": "embed"},
    {"kind": "project", "dim": 8, "input": "embed"},
    {"kind": "truncate", "dim": 8, "input": "embed"},
    {"kind": "quantize", "percentile": 0.5, "input": "embed"},
    {"kind": "kmeans", "k": 12, "input": "normalize"},
    {"kind": "kmeans", "k": 30, "init": "two-level", "spherical": True, "sample_rows": 9000, "name": "cells", "input": "embed"},
]
NAMES = [section.get("name", section["kind"]) for section in SECTIONS]
LONG = {"kind": "kmeans", "k": 12, "patience": 100_000, "max_epochs": 30}


def bytes_of(run: Path) -> dict[str, bytes]:
    """Read the data and the model of a stage's run."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in ("data", "model")
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }


def all_bytes(run: Path) -> dict[str, dict[str, bytes]]:
    """Read the data and the models of all stages of a run."""
    return {name: bytes_of(run / "stages" / name) for name in NAMES}


def rows_of(run: Path, column: str = "embedding") -> Array:
    """Read a column of a run in the order of its rows."""
    records = {record.unit: record for record in Run(str(run)).records().values()}
    units = sorted(records, key=lambda unit: (unit.partition("file-")[2].partition(".")[0], int(unit.rpartition(".")[2])))
    parts = [pq.read_table(run / "data" / f"{unit}{SUFFIX}", columns=[column], partitioning=None).column(0) for unit in units]
    return np.concatenate([vectors_of(part) if "list" in str(part.type) else part.to_numpy() for part in parts])


def invoke(*words: Any) -> tuple[int, str]:
    """Run a command in this process: its exit code and everything it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join((result.output + result.stderr).split())


def many_tasks(set_attribute: Callable[..., None]) -> None:
    """Let rounds over the sample have several tasks, though there is little to do."""
    set_attribute(kmeans, "_FLOP_PER_TASK", 2e6)


@pytest.fixture(scope="module")
def run(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of five files, one of a single row and one of none, with every kind of stage behind it."""
    path = tmp_path_factory.mktemp("stages") / "run"
    make_run(str(path), FILES, DRAW, unit_rows=2500)
    with pytest.MonkeyPatch.context() as patch:
        many_tasks(patch.setattr)
        postprocess(str(path), [parse_stage(section) for section in SECTIONS])
    return path


@pytest.fixture(scope="module")
def plain(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Give copies of the run without stages."""

    def copy() -> Path:
        path = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("stages"))
        return path

    return copy


@pytest.mark.parametrize("name", NAMES)
def test_complete(name: str, run: Path) -> None:
    """A stage's run verifies, against its parent too, has no work left over, and holds what its model gives in plain Python."""
    path = run / "stages" / name
    found = verify(str(path), source=True)
    assert (found.differences, found.rows) == ([], ROWS)
    assert not (path / "work").exists()
    assert json.loads((path / "report.json").read_text())["rows"] == ROWS
    x = rows_of(run / "stages" / "normalize") if name == "kmeans" else DRAW(0, ROWS)
    with threadpool_limits(1):
        for column, values in load_model(str(path)).columns(x, "embedding").items():
            assert same_bits(rows_of(path, column), values)


def test_nothing_is_left_to_do(run: Path) -> None:
    """The same stages again open no session and write nothing."""
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    postprocess(str(run), [parse_stage(section) for section in SECTIONS], session=no_session)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == stamps


ON_ITS_OWN = """
import contextlib, json, sys
import ray
from embed_ops import postprocess
from embed_ops.spec import parse_stage
from embed_ops.stages import kmeans
kmeans._FLOP_PER_TASK = 2e6
run, cores, folder, sections = sys.argv[1:]
ray.init(address="local", num_cpus=int(cores), object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
postprocess(run, [parse_stage(section) for section in json.loads(sections)], session=lambda: contextlib.nullcontext(True))
"""


@pytest.mark.parametrize("cores", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers(cores: int, run: Path, plain: Callable[[], Path]) -> None:
    """One worker and four give the bytes of two, models and data."""
    path, folder = plain(), tempfile.mkdtemp(prefix="r", dir="/tmp")
    line = [sys.executable, "-c", ON_ITS_OWN, str(path), str(cores), folder, json.dumps(SECTIONS)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_bytes(path) == all_bytes(run)


def test_stages_one_at_a_time(run: Path, plain: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that do not share their passes over the run give the same bytes."""
    many_tasks(monkeypatch.setattr)
    path = plain()
    for section in (SECTIONS[2], SECTIONS[8], SECTIONS[10]):
        postprocess(str(path), [parse_stage(section)])
        name = section.get("name", section["kind"])
        assert bytes_of(path / "stages" / name) == bytes_of(run / "stages" / name)


def test_fifty_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in fifty files, and in one, give the same models and the same columns."""
    many_tasks(monkeypatch.setattr)
    for files in ([ROWS // 50] * 50, [ROWS]):
        path = tmp_path / f"{len(files)}"
        make_run(str(path), files, DRAW)
        postprocess(str(path), [parse_stage(section) for section in SECTIONS])
        for name in NAMES:
            mine, theirs = path / "stages" / name, run / "stages" / name
            assert {file.name: file.read_bytes() for file in (mine / "model").iterdir()} == {
                file.name: file.read_bytes() for file in (theirs / "model").iterdir()
            }
            column = "cluster" if name in ("kmeans", "cells") else "embedding"
            assert same_bits(rows_of(mine, column), rows_of(theirs, column))


def start(run: Path, output: Path) -> subprocess.Popen[str]:
    """Start a long fit by the command, as a session of its own."""
    words = [f"{key}={value}" for key, value in LONG.items()]
    line = [sys.executable, "-m", "jobs.postprocess", str(run), *words, "--output", str(output), "--progress", "plain"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Wait until something is there, or the process has ended."""
    while not there() and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def many_units(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Make a run of many small units, and the bytes that a long fit over it gives where nobody disturbs it."""
    folder = tmp_path_factory.mktemp("killed")
    make_run(str(folder / "run"), FILES, DRAW, unit_rows=200)
    postprocess(str(folder / "run"), [parse_stage(LONG)], output=str(folder / "quiet"))
    return folder / "run", bytes_of(folder / "quiet")


def test_killed(many_units: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """Killed in the middle of the fit, then in the middle of applying: the same command ends with the same bytes."""
    run, quiet = many_units
    output = tmp_path / "out"
    process = start(run, output)
    wait_for(process, lambda: (output / "work" / "sample").exists())
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert not (output / "model").exists(), "the fit was over before it could be killed"
    assert (output / "work" / "state").exists()
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
    assert {name: (output / name).stat().st_mtime_ns for name in done} == done, "what was done was written again"
    assert json.loads((output / "report.json").read_text())["units_skipped"] >= len(done) - 2
    assert verify(str(output), source=True).differences == []
    assert not (output / "work").exists()
    assert not list((output / "tmp").iterdir()), "temporary files of the dead attempts were left"


def test_stopped(many_units: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """SIGTERM and --stop-after end a fit with exit code 3 and a sentence; the same command goes on to the same bytes."""
    run, quiet = many_units
    output = tmp_path / "out"
    process = start(run, output)
    wait_for(process, lambda: (output / "work" / "sample").exists())
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 3, said
    assert "kmeans: stopped as asked" in said
    assert "Traceback" not in said
    assert json.loads((output / "run.json").read_text())["status"] == "stopped"
    words = ["postprocess", run, *(f"{key}={value}" for key, value in LONG.items()), "--output", output, "--progress", "none"]
    code, said = invoke(*words, "--stop-after", "0.2s")
    assert (code, "run the same command again" in said) == (3, True), said
    code, said = invoke(*words)
    assert code == 0, said
    assert bytes_of(output) == quiet


def test_model_of_another_run(run: Path, tmp_path: Path) -> None:
    """A model that another run was fitted on is applied, and kept beside the data; one that does not fit is refused."""
    other = mixture(DIM, 5, seed=9)
    make_run(str(tmp_path / "other"), [700, 300], other)
    for name in ("pca", "kmeans", "quantize"):
        section = next(section for section in SECTIONS if section["kind"] == name) | {"input": None}
        found = postprocess(str(tmp_path / "other"), [parse_stage(section)], model=str(run / "stages" / name))[0]
        assert verify(found.path, source=True).differences == []
        model = load_model(str(run / "stages" / name))
        column = "cluster" if name == "kmeans" else "embedding"
        assert same_bits(rows_of(Path(found.path), column), model.transform(other(0, 1000)))
        assert same_bits(load_model(found.path).transform(other(0, 9)), model.transform(other(0, 9)))
    make_run(str(tmp_path / "narrow"), [50], mixture(5, 2))
    with pytest.raises(StageError, match=f"takes vectors of width {DIM}, .* has 5"):
        postprocess(str(tmp_path / "narrow"), [parse_stage({"kind": "pca", "dim": 6})], model=str(run / "stages" / "pca"))
    with pytest.raises(StageError, match="holds a model of kind 'pca', the stage is 'whiten'"):
        postprocess(str(tmp_path / "other"), [parse_stage({"kind": "whiten"})], model=str(run / "stages" / "pca"))
    with pytest.raises(StageError, match="no fitted model here"):
        postprocess(str(tmp_path / "other"), [parse_stage({"kind": "whiten"})], model=str(run))


def test_another_spec(plain: Callable[[], Path]) -> None:
    """Another spec, another seed or another input on the same folder is refused by name, and begun anew by --refit."""
    path = plain()
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
        postprocess(str(path), [parse_stage({"kind": "pca", "dim": 5})], output=str(path), refit=True, session=no_session)
    assert verify(str(path)).differences == []


BAD: list[tuple[list[str], str]] = [
    (["{run}", f"kind=kmeans k={ROWS + 1}"], "but the run has 30,000 rows"),
    (["{run}", "kind=kmeans k=0"], "k"),
    (["{run}", "kind=pca dim=25"], "have at most 24 components"),
    (["{run}", "kind=pca dim=4 column=nope"], "no column 'nope' here"),
    (["{run}", "kind=pca dim=4 colour=red"], "colour"),
    (["{run}", "kind=nope"], "kind"),
    (["{run}", ""], "which stage?"),
    (["{run}/stages/quantize", "kind=pca dim=4 column=embedding"], "holds codes (int8)"),
    (["{stopped}", "kind=normalize"], "the run is stopped"),
    (["{nan}", "kind=pca dim=4"], "is not finite in 1 rows, the first is row 7"),
    (["{nan}", "kind=normalize"], "is not finite in 1 rows, the first is row 7"),
    (["{one}", "kind=pca dim=1"], "1 rows have no variance"),
    (["{nowhere}", "kind=normalize"], "no run here"),
]


@pytest.fixture(scope="module")
def places(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make runs that can't be used: not finished, with a value that is not finite, of one row."""
    folder = tmp_path_factory.mktemp("bad")
    found = {name: folder / name for name in ("stopped", "nan", "one", "nowhere")} | {"run": run}
    for name, rows in (("stopped", 50), ("nan", 50), ("one", 1)):
        make_run(str(found[name]), [rows], lambda first, end, name=name: spoiled(first, end) if name == "nan" else DRAW(first, end))
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
    """What can't be fitted or applied is exit code 2 and one sentence that names it; no model and no data are written."""
    given = [word.format(**places) for word in words]
    code, said = invoke("postprocess", given[0], *given[1].split(), "--output", tmp_path / "out", "--progress", "none")
    assert (code, sentence in said) == (2, True), said
    assert "Traceback" not in said
    assert bytes_of(tmp_path / "out") == {}


def test_module(places: dict[str, Path], tmp_path: Path) -> None:
    """The module is the command, exit codes too."""
    line = [sys.executable, "-m", "jobs.postprocess", str(places["run"]), "kind=kmeans", "k=40000", "--output", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "kmeans: k = 40,000, but the run has 30,000 rows; give k = 30000 or less" in done.stderr
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
    with contextlib.ExitStack() as patches:
        patch = patches.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ray, "remote", no_session)
        code, said = invoke("run", tmp_path / "spec.toml", "--progress", "none")
    assert code == 0, said
    assert {name: bytes_of(tmp_path / "run" / "stages" / name) for name in before} == before


def test_clusters_of_text(minilm_run: tuple[Run, list[str]]) -> None:
    """On embeddings of MiniLM mean inertia over five seeds is at most 1.02 times that of scikit-learn's MiniBatchKMeans."""
    x = vectors_of(minilm_run[0].open().to_table().column("embedding").combine_chunks()).astype(np.float32)

    def inertia(centers: Array) -> float:
        return float(cdist(x.astype(np.float64), centers, "sqeuclidean").min(axis=1).sum())

    ours = [inertia(fitted(x, seed, kind="kmeans", k=20).centers) for seed in range(5)]
    peers = [inertia(MiniBatchKMeans(20, random_state=seed).fit(x).cluster_centers_) for seed in range(5)]
    assert np.mean(ours) <= 1.02 * np.mean(peers)
