"""The laws, held by stages: complete, resumable, byte-identical on any number of workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_run import make_run, mixture
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans
from stage_data import Array, fitted, same_bits
from stage_runs import DIM, DRAW, FILES, ROWS, bytes_of, rows_of
from threadpoolctl import threadpool_limits
from tiny_runs import no_session

from embed_ops import Run, load_model, postprocess
from embed_ops.errors import StageError
from embed_ops.numerics.exact import kernel_name
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage
from embed_ops.stages.kmeans import stage as kmeans

pytestmark = pytest.mark.usefixtures("engine")

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
    {"kind": "kmeans", "k": 12, "max_epochs": 1, "input": "normalize"},
    {
        "kind": "kmeans",
        "k": 30,
        "init": "two-level",
        "spherical": True,
        "sample_rows": 9000,
        "max_epochs": 2,
        "name": "cells",
        "input": "embed",
    },
]
NAMES = [section.get("name", section["kind"]) for section in SECTIONS]
FEW = [
    section
    for section in SECTIONS
    if section["kind"] in ("pca", "quantize", "kmeans") and section.get("input") == "embed"
]
"""Enough to see every kind of round."""


def some_bytes(run: Path) -> dict[str, dict[str, bytes]]:
    """Read the data and the models of the few."""
    return {name: bytes_of(run / "stages" / name) for name in map(name_of, FEW)}


def name_of(section: dict[str, Any]) -> str:
    """Give the folder of a stage."""
    return str(section.get("name", section["kind"]))


def many_tasks(set_attribute: Callable[..., None]) -> None:
    """Let rounds over the sample have several tasks, though there is little to do."""
    set_attribute(kmeans, "_FLOP_PER_TASK", 2e6)


@pytest.fixture(scope="module")
def run(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of five files, one of one row, one of none, with every kind of stage behind."""
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
    """A stage's run verifies, has no work left, and holds what its model gives."""
    path = run / "stages" / name
    found = verify(str(path), source=True)
    assert (found.differences, found.rows) == ([], ROWS)
    assert not (path / "work").exists()
    report = json.loads((path / "report.json").read_text())
    assert report["rows"] == ROWS
    assert report["resolved"].get("kernels") == ([kernel_name()] if report["rounds"] else None)
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
import json, sys
import ray
from embed_ops import postprocess
from embed_ops.spec.spec import parse_stage
from embed_ops.stages.kmeans import stage as kmeans
kmeans._FLOP_PER_TASK = 2e6
run, cores, folder, sections = sys.argv[1:]
options = {"include_dashboard": False, "log_to_driver": False, "_temp_dir": folder}
options["object_store_memory"] = 100 * 2**20
ray.init(address="local", num_cpus=int(cores), **options)
postprocess(run, [parse_stage(section) for section in json.loads(sections)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 4])
def test_any_number_of_workers(cores: int, run: Path, plain: Callable[[], Path]) -> None:
    """One worker and four give the bytes of two, models and data."""
    path, folder = plain(), tempfile.mkdtemp(prefix="r", dir="/tmp")
    line = [sys.executable, "-c", ON_ITS_OWN, str(path), str(cores), folder, json.dumps(FEW)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert some_bytes(path) == some_bytes(run)


def test_stages_one_at_a_time(run: Path, plain: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that do not share their passes over the run give the same bytes."""
    many_tasks(monkeypatch.setattr)
    path = plain()
    for section in FEW:
        postprocess(str(path), [parse_stage(section)])
    assert some_bytes(path) == some_bytes(run)


@pytest.mark.slow
@pytest.mark.parametrize("files", [50, 1])
def test_fifty_files(files: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in fifty files, and in one, give the same models and the same columns."""
    many_tasks(monkeypatch.setattr)
    make_run(str(tmp_path / "run"), [ROWS // files] * files, DRAW)
    postprocess(str(tmp_path / "run"), [parse_stage(section) for section in FEW])
    for name in map(name_of, FEW):
        mine, theirs = tmp_path / "run" / "stages" / name, run / "stages" / name
        for file in ("model.json", "model.safetensors"):
            assert (mine / "model" / file).read_bytes() == (theirs / "model" / file).read_bytes()
        column = "cluster" if name == "cells" else "embedding"
        assert same_bits(rows_of(mine, column), rows_of(theirs, column))


def test_model_of_another_run(run: Path, tmp_path: Path) -> None:
    """A model that another run was fitted on is applied, and kept beside the data.

    One that does not fit is refused.
    """
    other = mixture(DIM, 5, seed=9)
    make_run(str(tmp_path / "other"), [700, 300], other)
    for name in ("pca", "kmeans", "quantize"):
        section = next(section for section in SECTIONS if section["kind"] == name) | {"input": None}
        found = postprocess(
            str(tmp_path / "other"),
            [parse_stage(section)],
            model=str(run / "stages" / name),
            # The clusters are those of normalised vectors.
            any_space=name == "kmeans",
        )[0]
        assert verify(found.path, source=True).differences == []
        model = load_model(str(run / "stages" / name))
        column = "cluster" if name == "kmeans" else "embedding"
        assert same_bits(rows_of(Path(found.path), column), model.transform(other(0, 1000)))
        assert same_bits(load_model(found.path).transform(other(0, 9)), model.transform(other(0, 9)))
    make_run(str(tmp_path / "narrow"), [50], mixture(5, 2))
    with pytest.raises(StageError, match=f"takes vectors of width {DIM}, .* has 5"):
        postprocess(
            str(tmp_path / "narrow"),
            [parse_stage({"kind": "pca", "dim": 6})],
            model=str(run / "stages" / "pca"),
        )
    with pytest.raises(StageError, match="holds a model of kind 'pca', the stage is 'whiten'"):
        postprocess(
            str(tmp_path / "other"), [parse_stage({"kind": "whiten"})], model=str(run / "stages" / "pca")
        )
    with pytest.raises(StageError, match="no fitted model here"):
        postprocess(str(tmp_path / "other"), [parse_stage({"kind": "whiten"})], model=str(run))


def test_clusters_of_text(minilm_run: tuple[Run, list[str]]) -> None:
    """On MiniLM's vectors mean inertia over five seeds is at most 1.02 times scikit-learn's.

    That of MiniBatchKMeans.
    """
    x = vectors_of(minilm_run[0].open().to_table().column("embedding").combine_chunks()).astype(np.float32)

    def inertia(centers: Array) -> float:
        return float(cdist(x.astype(np.float64), centers, "sqeuclidean").min(axis=1).sum())

    ours = [inertia(fitted(x, seed, kind="kmeans", k=20).centers) for seed in range(5)]
    peers = [inertia(MiniBatchKMeans(20, random_state=seed).fit(x).cluster_centers_) for seed in range(5)]
    assert np.mean(ours) <= 1.02 * np.mean(peers)


@pytest.mark.parametrize(
    ("section", "column"),
    [({"kind": "kmeans", "k": 3}, "distance"), ({"kind": "project", "dim": 3}, "embedding")],
)
def test_vectors_too_large_for_float32(section: dict[str, Any], column: str, tmp_path: Path) -> None:
    """What would not be finite is refused with what to do; with that done it is finite."""
    x = np.random.default_rng(0).standard_normal((60, 8))
    x = (x / np.abs(x).max() * 3.4e38).astype(np.float32)
    make_run(str(tmp_path / "run"), [60], lambda first, end: x[first:end])
    with pytest.raises(StageError, match=f"column '{column}' would not be finite.*run a normalize stage"):
        postprocess(str(tmp_path / "run"), [parse_stage(section)])
    unit = postprocess(str(tmp_path / "run"), [parse_stage({"kind": "normalize"})])[0]
    values = postprocess(unit.path, [parse_stage(section)])[0].open().to_table()[column].to_pylist()
    assert np.isfinite(np.array(values, np.float64)).all()
