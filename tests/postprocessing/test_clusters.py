"""What follows k-means, through the whole job: duplicates, folders by cluster, labels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from made_run import make_run
from sklearn.metrics import adjusted_rand_score
from tiny_runs import contents

from embed_ops import postprocess
from embed_ops.analysis.page.write import write_page
from embed_ops.errors import StageError
from embed_ops.runs.run import Run
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage

ROWS, GROUPS = 3000, 600
KMEANS = {"kind": "kmeans", "k": 8, "label": "label", "by_cluster": True}
DEDUP = {"kind": "dedup", "threshold": 0.995}


def draw(first: int, end: int) -> np.ndarray:
    """Give rows that are noisy copies of 600 rows, in turn."""
    base = np.random.default_rng(0).standard_normal((GROUPS, 24))
    rows = [
        base[row % GROUPS] + 0.02 * np.random.default_rng(row).standard_normal(24)
        for row in range(first, end)
    ]
    return np.array(rows, np.float32).reshape(-1, 24)


@pytest.fixture(scope="module")
def run(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run with a label, cluster it and look for duplicates."""
    path = tmp_path_factory.mktemp("clusters") / "run"
    make_run(
        str(path),
        [1700, 0, 1300],
        draw,
        unit_rows=500,
        keep=lambda first, end: {"label": pa.array(np.arange(first, end) % 3)},
    )
    postprocess(str(path), [parse_stage(KMEANS), parse_stage(DEDUP)])
    return path


@pytest.mark.on_every_engine
def test_duplicates_are_found(run: Path) -> None:
    """Copies that share a cluster are one group with one row kept.

    Every row has its place, and the run verifies.
    """
    dedup, clusters = (
        Run(str(run / "stages/dedup")),
        Run(str(run / "stages/kmeans")).open().to_table()["cluster"].to_numpy(),
    )
    assert verify(dedup.path).differences == []
    table = dedup.open().to_table()
    group, keep = table["group"].to_numpy(), table["keep"].to_numpy(zero_copy_only=False)
    first: dict[tuple[int, int], int] = {}
    expected = [first.setdefault((row % GROUPS, int(clusters[row])), row) for row in range(ROWS)]
    assert group.tolist() == expected
    assert (keep == (group == np.arange(ROWS))).all()
    assert dedup.report["model"]["duplicates"] == int((~keep).sum()) == ROWS - len(first)


@pytest.mark.slow
def test_the_same_bytes_after_a_kill(run: Path, tmp_path: Path) -> None:
    """Killed between its passes or while writing, the same command ends with the same bytes."""
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "postprocess",
        str(run / "stages/kmeans"),
        "kind=dedup",
        "threshold=0.995",
        "--output",
    ]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*line, str(killed), "--progress", "none"], cwd=Path(__file__).parents[2])
    while not list(killed.glob("work/groups/00001*")) and process.poll() is None:
        pass
    process.kill()
    process.wait()
    assert Run(str(killed)).status != "finished"
    postprocess(str(run / "stages/kmeans"), [parse_stage(DEDUP)], output=str(killed))
    assert contents(killed) == contents(run / "stages/dedup")
    assert not list(killed.glob("work/*"))


def test_a_folder_for_each_cluster(run: Path) -> None:
    """The copy by cluster has each row once, in its cluster's folder, most central first."""
    copy = (
        pads.dataset(run / "stages/kmeans/clusters", format="parquet", partitioning="hive")
        .to_table()
        .to_pandas()
    )
    whole = Run(str(run / "stages/kmeans")).open().to_table().to_pandas()
    both = copy.merge(whole, on=["_source", "_row"], suffixes=("", "_there"))
    assert len(copy) == len(both) == ROWS
    assert (both["cluster"].astype(int) == both["cluster_there"]).all()
    file = next((run / "stages/kmeans/clusters").rglob("*.parquet"))
    assert pads.dataset(file).to_table()["distance"].to_pandas().is_monotonic_increasing
    first = copy[copy["_row"] == 5].sort_values("_source").iloc[0]
    assert np.allclose(first["embedding"], draw(5, 6)[0])


def test_quality_is_in_the_report(run: Path, tmp_path: Path) -> None:
    """Inertia, sizes and agreement with a kept column, equal to scikit-learn's over all rows.

    The page shows the sizes.
    """
    table = Run(str(run / "stages/kmeans")).open().to_table()
    found = json.loads((run / "stages/kmeans/report.json").read_text())["quality"]
    assert found["inertia"] == pytest.approx((table["distance"].to_numpy().astype(float) ** 2).sum())
    assert found["labelled_rows"] == ROWS
    sizes = np.bincount(table["cluster"].to_numpy()).tolist()
    assert {int(cluster): rows for cluster, rows in found["largest_clusters"].items()} == dict(
        enumerate(sizes)
    )
    page = Path(write_page(str(run), str(tmp_path / "page.html"), most=300, method="pca")).read_text()
    told = re.findall(r'<tr[^>]* id="cluster-(\d+)">.*?data-name="rows">([\d,]+)</td>', page, re.DOTALL)
    assert {int(cluster): int(rows.replace(",", "")) for cluster, rows in told} == dict(enumerate(sizes))
    assert [place.name for place in tmp_path.iterdir()] == ["page.html"]
    assert found["ari"] == pytest.approx(
        adjusted_rand_score(np.arange(ROWS) % 3, table["cluster"].to_numpy()), abs=1e-9
    )


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (DEDUP, "give it the run of a kmeans stage"),
        ({"kind": "kmeans", "k": 2, "label": "lable"}, "no column 'lable'"),
        ({"kind": "kmeans", "k": 2, "label": "embedding"}, "labels no rows"),
    ],
)
def test_columns_that_are_not_there(
    run: Path, tmp_path: Path, stage: dict[str, object], sentence: str
) -> None:
    """A stage that lacks a column says so before anything is fitted or written."""
    with pytest.raises(StageError, match=sentence):
        postprocess(str(run), [parse_stage(stage)], output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
