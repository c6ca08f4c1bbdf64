"""All rows of a run for embedding-atlas: each where its like are on the map."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture
from stage_runs import invoke

from embed_ops.analysis.atlas import write_atlas
from embed_ops.engine.progress import Silent

ROWS = 900
HAS_ATLAS = importlib.util.find_spec("embedding_atlas") is not None


def spoiled(first: int, end: int) -> np.ndarray:
    """Draw vectors of which the seventh is not finite."""
    x = mixture(12, 5, spread=0.05)(first, end)
    x[np.arange(first, end) == 7, 0] = np.nan
    return x


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of 900 rows with a kept column."""
    path = tmp_path_factory.mktemp("atlas") / "run"
    keep = {"name": lambda row: f"row {row}", "map_y": lambda row: f"kept {row}"}
    make_run(
        str(path),
        [500, 400],
        spoiled,
        unit_rows=200,
        keep=lambda first, end: {
            name: pa.array([make(row) for row in range(first, end)]) for name, make in keep.items()
        },
    )
    return path


def test_every_row_is_where_its_like_are(run: Path, tmp_path: Path) -> None:
    """All finite rows, sampled or not, once and in order; rows of a group lie together."""
    file = tmp_path / "atlas.parquet"
    told = {"most": 200, "method": "pca", "column": None, "seed": 0, "reporter": Silent()}
    assert write_atlas(str(run), str(file), **told) == ROWS - 1
    table = pq.read_table(file)
    assert table["name"].to_pylist() == [f"row {row}" for row in range(ROWS) if row != 7]
    assert {"map_x", "map_y", "_source", "_row", "part"} <= set(table.column_names)
    plane = np.stack([table["map_x"].to_numpy(), table["map_y"].to_numpy()], axis=1)
    assert np.isfinite(plane).all()
    x = np.delete(mixture(12, 5, spread=0.05)(0, ROWS), 7, axis=0)
    # Rows of one group are nearest to each other, so their places are: 0.9 says that they are.
    alike = np.corrcoef(
        np.linalg.norm(x[:300] - x[300:600], axis=1), np.linalg.norm(plane[:300] - plane[300:600], axis=1)
    )[0, 1]
    assert alike > 0.9
    assert [place.name for place in tmp_path.iterdir()] == ["atlas.parquet"]


@pytest.mark.skipif(HAS_ATLAS, reason="embedding-atlas is installed")
def test_without_the_package_a_sentence_says_so(run: Path) -> None:
    """Before anything is computed; and what belongs to the page is refused."""
    code, told = invoke("report", run, "--atlas")
    assert code == 2
    assert "pip install 'embed-ops[atlas]'" in told
    assert not (run / "atlas.parquet").exists()
    code, told = invoke("report", run, "--atlas", "--color", "name")
    assert code == 2
    assert "leave out --color" in told


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ATLAS, reason="needs embedding-atlas: pip install 'embed-ops[atlas]'")
def test_embedding_atlas_reads_it(run: Path, tmp_path: Path) -> None:
    """The package itself makes its application of the file, with our places."""
    file = tmp_path / "atlas.parquet"
    write_atlas(str(run), str(file), most=200, method="pca", column=None, seed=0, reporter=Silent())
    line = [sys.executable, "-m", "embedding_atlas.cli", str(file), "--x", "map_x", "--y", "map_y"]
    subprocess.run([*line, "--export-application", str(tmp_path / "app.zip")], check=True)
    with zipfile.ZipFile(tmp_path / "app.zip") as made:
        assert any(name.endswith(".parquet") for name in made.namelist())
