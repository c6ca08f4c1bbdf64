"""Columns of the runs below a stage: beside its own in Python, and copied into its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture
from stage_runs import bytes_of, invoke

from embed_ops import Run, postprocess
from embed_ops.errors import SpecError, StageError
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage

pytestmark = pytest.mark.usefixtures("engine")

FILES = [70, 0, 50]


def kept(first: int, end: int) -> dict[str, pa.Array]:
    """Keep a name and a list with each row."""
    return {
        "name": pa.array([f"n{row}" for row in range(first, end)]),
        "tags": pa.array([[f"t{row}"] for row in range(first, end)], pa.list_(pa.string())),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run of several units."""
    make_run(str(tmp_path / "run"), FILES, mixture(6, 3), unit_rows=20, keep=kept)
    return tmp_path / "run"


def stages(run: Path, *sections: dict[str, Any]) -> list[Run]:
    """Run stages over a run."""
    return postprocess(str(run), [parse_stage(section) for section in sections])


def frame_of(folder: Path) -> pd.DataFrame:
    """Read the data of a run with pandas."""
    frame = pd.concat(
        pq.read_table(file, partitioning=None).to_pandas() for file in folder.rglob("*.parquet")
    )
    return frame.astype({"_source": str})


def test_open_gives_the_columns_of_all_parents(run: Path) -> None:
    """Rows are those that pandas merges by place; the nearest column of a name counts."""
    last = stages(run, {"kind": "pca", "dim": 2}, {"kind": "kmeans", "k": 3})[-1]
    merged = frame_of(Path(last.path) / "data").merge(
        frame_of(run / "data")[["_source", "_row", "name"]], on=["_source", "_row"]
    )
    merged = merged.merge(
        frame_of(run / "stages/pca/data")[["_source", "_row", "embedding"]], on=["_source", "_row"]
    ).set_index("name")
    opened = last.open()
    assert opened.count_rows() == sum(FILES)
    assert "part" in opened.schema.names
    rows = opened.to_table().to_pandas()
    assert sorted(rows["name"]) == sorted(merged.index)
    expected = merged.loc[rows["name"]]
    for column in ("_source", "_row", "cluster", "distance"):
        assert rows[column].astype(str).tolist() == expected[column].astype(str).tolist()
    np.testing.assert_array_equal(np.stack(rows["embedding"]), np.stack(expected["embedding"]))
    first = opened.to_table(columns=["name", "cluster"], filter=pads.field("cluster") == 0)
    assert sorted(first["name"].to_pylist()) == sorted(merged.index[merged["cluster"] == 0])
    assert opened.head(25, columns=["name"])["name"].to_pylist() == rows["name"].tolist()[:25]
    assert duckdb.sql("SELECT count(*), count(DISTINCT name) FROM opened").fetchall() == [(120, 120)]
    with pytest.raises(Exception, match="nothing"):
        opened.to_table(columns=["nothing"])


def test_a_stage_alone_has_its_own_columns(run: Path, tmp_path: Path) -> None:
    """Without the run that it was made from it opens as it is."""
    stage = stages(run, {"kind": "kmeans", "k": 3})[0]
    Path(stage.path).rename(tmp_path / "alone")
    assert "name" not in Run(str(tmp_path / "alone")).open().schema.names


def test_keep_copies_columns(run: Path) -> None:
    """Its files have them, those of clusters too, and nothing else differs; verified, resumed."""
    section: dict[str, Any] = {"kind": "kmeans", "k": 3, "by_cluster": True}
    stages(run, {"kind": "normalize"})
    unit = run / "stages/normalize"
    plain, copied = (
        stages(unit, section | more)[0]
        for more in ({"name": "plain"}, {"name": "copied", "keep": ["name", "tags"]})
    )
    assert "stage.keep" not in plain.header.fingerprint
    assert copied.header.fingerprint["stage.keep"] == ["name", "tags"]
    one, two = (frame_of(Path(path.path) / "data") for path in (plain, copied))
    pd.testing.assert_frame_equal(
        one.set_index(["_source", "_row"]).sort_index(),
        two.drop(columns=["name", "tags"]).set_index(["_source", "_row"]).sort_index(),
    )
    both = two.merge(frame_of(run / "data"), on=["_source", "_row"])
    assert both["name_x"].tolist() == both["name_y"].tolist()
    assert [list(tags) for tags in both["tags_x"]] == [list(tags) for tags in both["tags_y"]]
    assert set(frame_of(Path(copied.path) / "clusters")["name"]) == set(two["name"])
    assert verify(copied.path).differences == []
    assert copied.open().to_table(columns=["name"]).num_rows == sum(FILES)
    before = bytes_of(Path(copied.path))
    next((Path(copied.path) / "data").rglob("*.parquet")).unlink()
    stages(unit, section | {"name": "copied", "keep": ["name", "tags"]})
    assert bytes_of(Path(copied.path)) == before
    dedup = stages(Path(copied.path), {"kind": "dedup", "keep_columns": ["name"]})[0]
    assert frame_of(Path(dedup.path) / "data")["name"].nunique() == sum(FILES)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"kind": "kmeans", "k": 2, "keep": ["nothing"]}, "no column 'nothing'"),
        ({"kind": "kmeans", "k": 2, "keep": ["embedding"]}, "holds vectors"),
        ({"kind": "pca", "dim": 2, "output": "name", "keep": ["name"]}, "the vector column that the stage"),
        ({"kind": "kmeans", "k": 2, "keep": ["part"]}, "is a key=value folder"),
        ({"kind": "kmeans", "k": 2, "keep": ["cluster"]}, "is a column that the stage writes itself"),
        ({"kind": "kmeans", "k": 2, "keep": ["_row"]}, "is a column that the stage writes itself"),
        ({"kind": "dedup", "keep_columns": ["group"]}, "is a column that the stage writes itself"),
        ({"kind": "kmeans", "k": 2, "keep": ["name", "name"]}, "to be copied twice"),
    ],
)
def test_what_can_not_be_copied(run: Path, section: dict[str, Any], says: str) -> None:
    """Each is one sentence before anything is computed."""
    with pytest.raises((SpecError, StageError), match=says):
        stages(run, section)
    assert not (run / "stages").exists()


def test_keep_through_the_command(run: Path) -> None:
    """The words of a command name columns as a list, and the help says so."""
    code, said = invoke("postprocess", run, "kind=kmeans", "k=2", 'keep=["name"]', "--progress", "none")
    assert code == 0, said
    assert "name" in pq.read_schema(next((run / "stages/kmeans/data").rglob("*.parquet"))).names
    code, said = invoke("postprocess", run, "kind=kmeans", "k=2", "--progress", "none")
    assert (code, "stage.keep" in said) == (2, True), said
