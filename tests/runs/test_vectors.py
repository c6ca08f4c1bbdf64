"""The rows of a finished run by position.

Stretches over units, columns of the run and its ancestors, and what is refused.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture
from stage_data import Array, same_bits

from embed_ops.errors import RunError, StageError
from embed_ops.numerics.tiles import BLOCK_ROWS
from embed_ops.runs.columns import blocks, indexes, positions, read_columns, read_unit
from embed_ops.runs.made_of import content_of, units_of
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.rows import RunRows, parent_of, told_parent
from embed_ops.schema import ROW, SOURCE
from embed_ops.stages.rounds import groups
from embed_ops.storage.files import locate

FILES = [5000, 1, 0, 9000, 2500]
ROWS, DIM = sum(FILES), 6
DRAW = mixture(DIM, 3)


def of(path: Path) -> RunRows:
    """Open the rows of a run."""
    return RunRows(locate(str(path)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of five files, one of a single row, one of none; units have up to 2,000 rows."""
    folder = tmp_path_factory.mktemp("vectors") / "run"
    make_run(
        str(folder),
        FILES,
        DRAW,
        unit_rows=2000,
        keep=lambda first, end: {"id": pa.array(np.arange(first, end))},
    )
    return folder


def data_files(run: Path) -> list[Path]:
    """List the data files of a run that have rows."""
    return sorted(path for path in (run / "data").rglob("*.parquet") if pq.read_metadata(path).num_rows)


def rewrite(path: Path, change: Any) -> None:
    """Change the table in a data file."""
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def with_vectors(table: pa.Table, column: pa.Array) -> pa.Table:
    """Put other vectors into a table."""
    return table.set_column(table.column_names.index("embedding"), "embedding", column)


def child_of(run: Path, path: Path, columns: dict[str, Any] | None = None) -> Path:
    """Make a run of the same units whose header names a parent.

    It has columns of its own, and not the vectors.
    """
    make_run(str(path), FILES, DRAW, unit_rows=2000)
    header = json.loads((path / "run.json").read_text())
    header["fingerprint"]["input"] = content_of(units_of(locate(str(run))).values())
    (path / "run.json").write_text(
        json.dumps(header | {"parent": told_parent(locate(str(path)), locate(str(run)))})
    )
    for file in (path / "data").rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None).select([SOURCE, ROW])
        for name, make in (columns or {}).items():
            table = table.append_column(name, make(len(table)))
        pq.write_table(table, file)
    return path


def test_rows_in_order(run: Path) -> None:
    """Units are in the order of the plan, empty ones too, and every row has its place."""
    rows = of(run)
    assert rows.rows == ROWS
    assert [record.rows for record in rows.records] == [
        2000,
        2000,
        1000,
        1,
        0,
        2000,
        2000,
        2000,
        2000,
        1000,
        2000,
        500,
    ]
    assert rows.starts == [0, *np.cumsum([record.rows for record in rows.records]).tolist()]
    holder = rows.vector(None)
    assert (holder.column, holder.dim, holder.run.path) == ("embedding", DIM, str(run))
    assert same_bits(
        np.concatenate([read_unit(holder, record.unit, record.rows) for record in rows.records]),
        DRAW(0, ROWS),
    )


@pytest.mark.parametrize(
    ("first", "end"),
    [(0, ROWS), (0, 1), (1999, 2001), (4999, 5002), (5000, 5001), (3, 16_001), (ROWS - 1, ROWS), (7, 7)],
)
def test_stretch(run: Path, first: int, end: int) -> None:
    """A stretch reads the rows from one index to another, whatever files they are in.

    It knows where each of them stands.
    """
    rows = of(run)
    stretch = rows.stretch(first, end)
    assert sum(part.end - part.begin for part in stretch.parts) == end - first
    found = list(blocks(rows.vector(None), stretch))
    assert [at for at, _ in found] == list(range(first, end, BLOCK_ROWS))
    assert all(len(x) == BLOCK_ROWS for _, x in found[:-1])
    x = np.concatenate([np.empty((0, DIM), np.float32), *(x for _, x in found)])
    assert same_bits(x, DRAW(first, end))
    ids = [
        read_columns(rows.holder("id").run, part.unit, ["id"], part.rows)
        .column(0)
        .to_pylist()[part.begin : part.end]
        for part in stretch.parts
    ]
    assert [*itertools.chain(*ids)] == list(range(first, end))
    assert indexes(first, 2).tolist() == [first, first + 1]


def test_groups_tile_the_run() -> None:
    """Groups are whole blocks that tile the rows, in sizes that depend on their number alone."""
    for rows in (0, 1, BLOCK_ROWS, BLOCK_ROWS + 1, 64 * BLOCK_ROWS, 65 * BLOCK_ROWS, 10_000 * BLOCK_ROWS - 1):
        found = groups(rows)
        assert [first for first, _ in found] == [0, *(end for _, end in found)][: len(found)]
        assert (found[-1][1] if found else 0) == rows
        assert all(first % BLOCK_ROWS == 0 for first, _ in found)


def test_content(run: Path, tmp_path: Path) -> None:
    """The digest is of what the run holds: other rows give another one, the same rows the same."""
    for name, draw in (("same", DRAW), ("other", mixture(DIM, 3, seed=1))):
        make_run(
            str(tmp_path / name),
            FILES,
            draw,
            unit_rows=2000,
            keep=lambda first, end: {"id": pa.array(np.arange(first, end))},
        )
    # Attempts are in the footers of no data file: equal runs have equal bytes.
    assert of(tmp_path / "same").content == of(run).content != of(tmp_path / "other").content


def test_columns_of_ancestors(run: Path, tmp_path: Path) -> None:
    """A column that a run lacks is read from the nearest ancestor that has it, at the same place.

    Runs can be moved together.
    """
    child = child_of(
        run,
        tmp_path / "run" / "stages" / "child",
        {"cluster": lambda rows: pa.array(np.arange(rows, dtype=np.int32))},
    )
    grandchild = child_of(child, tmp_path / "run" / "stages" / "grandchild")
    rows = of(grandchild)
    assert [root.path for root, _ in rows.lineage] == [str(grandchild), str(child), str(run)]
    assert rows.vector(None).run.path == rows.vector("embedding").run.path == str(run)
    child_holder = rows.holder("cluster")
    assert child_holder.run.path == str(child)
    assert read_columns(child_holder.run, rows.records[1].unit, ["cluster"], 2000).column(
        0
    ).to_pylist() == list(range(2000))
    assert positions(rows.root, rows.records[0].unit, 2000).column(ROW).to_pylist() == list(range(2000))
    with pytest.raises(
        StageError,
        match=r"no column 'nope' here or in its ancestors; there are _source, _row, cluster, id, embedding",
    ):
        rows.holder("nope")
    with pytest.raises(StageError, match="holds int32, not vectors"):
        rows.vector("cluster")
    own = child_of(
        child, tmp_path / "own", {"codes": lambda rows: vector_column(np.zeros((rows, 3)), "float32")}
    )
    assert of(own).vector(None).column == "codes"


def test_parents() -> None:
    """Near parents are told by a path from there, far ones by a whole one."""
    root = locate("/a/run/stages/pca")
    for told, path in (("../..", "/a/run"), ("../kmeans", "/a/run/stages/kmeans"), ("/b/run", "/b/run")):
        assert told_parent(root, locate(path)) == told
        assert parent_of(root, told).path == path


def test_runs_that_are_refused(run: Path, tmp_path: Path) -> None:
    """No run, one not finished, one with lost units and one without its parent are told apart."""
    with pytest.raises(RunError, match=r"no run here \(run\.json is missing\)$"):
        of(tmp_path / "nowhere")
    lonely = child_of(run, tmp_path / "lonely")
    header = json.loads((lonely / "run.json").read_text())
    (lonely / "run.json").write_text(json.dumps(header | {"parent": "../gone"}))
    with pytest.raises(RunError, match=f"gone: no run here .*, the parent of {lonely}"):
        of(lonely)
    (lonely / "run.json").write_text(json.dumps(header | {"status": "stopped"}))
    with pytest.raises(RunError, match="the run is stopped; run its command again to finish it"):
        of(lonely)
    make_run(str(tmp_path / "lost"), [10], DRAW)
    for part in (tmp_path / "lost" / "manifest").iterdir():
        part.unlink()
    with pytest.raises(RunError, match="1 spans lack units"):
        of(tmp_path / "lost")


def test_other_floats(tmp_path: Path) -> None:
    """Vectors that are stored in other floats are read as float32."""
    make_run(str(tmp_path / "half"), [50], DRAW, dtype="float16")
    make_run(str(tmp_path / "double"), [50], DRAW)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(DRAW(0, 50).astype(np.float64).ravel()), DIM)
    rewrite(data_files(tmp_path / "double")[0], lambda table: with_vectors(table, wide))
    for name, wanted in (
        ("half", DRAW(0, 50).astype(np.float16).astype(np.float32)),
        ("double", DRAW(0, 50)),
    ):
        rows = of(tmp_path / name)
        assert same_bits(read_unit(rows.vector(None), rows.records[0].unit, 50), wanted)


def lists(values: Array, kind: Any) -> pa.Array:
    """Make a column of lists."""
    return pa.array(values.tolist(), kind)


COLUMNS = [
    (lambda x: lists(x, pa.list_(pa.float32())), "is ragged: stages need one vector a row"),
    (lambda x: lists(x, pa.large_list(pa.float32())), "is ragged"),
    (
        lambda x: vector_column((x > 0).astype(np.int8), "int8"),
        r"holds codes \(int8\); name the column before it",
    ),
    (lambda x: vector_column((x > 0).astype(np.uint8), "uint8"), r"holds codes \(uint8\)"),
    (lambda x: pa.array(["text"] * len(x)), "holds string, not vectors"),
]


@pytest.mark.parametrize(("make", "sentence"), COLUMNS, ids=[sentence for _, sentence in COLUMNS])
def test_columns_that_are_refused(make: Any, sentence: str, tmp_path: Path) -> None:
    """A column that holds no vectors of floats is refused by name."""
    make_run(str(tmp_path / "run"), [20], DRAW)
    rewrite(data_files(tmp_path / "run")[0], lambda table: with_vectors(table, make(DRAW(0, 20))))
    with pytest.raises(StageError, match=f"column 'embedding' {sentence}"):
        of(tmp_path / "run").vector("embedding")


def test_several_vector_columns(tmp_path: Path) -> None:
    """Where there are several vector columns one has to be named.

    Where there is none that is said.
    """
    make_run(
        str(tmp_path / "run"),
        [20],
        DRAW,
        keep=lambda first, end: {"second": vector_column(DRAW(first, end)[:, :2], "float32")},
    )
    rows = of(tmp_path / "run")
    with pytest.raises(
        StageError, match=r"several vector columns \(second, embedding\): say which with `column`"
    ):
        rows.vector(None)
    assert rows.vector("second").dim == 2
    make_run(str(tmp_path / "none"), [20], DRAW)
    rewrite(data_files(tmp_path / "none")[0], lambda table: table.drop_columns(["embedding"]))
    with pytest.raises(StageError, match="neither it nor its ancestors have a vector column"):
        of(tmp_path / "none").vector(None)
    make_run(str(tmp_path / "empty"), [], DRAW)
    with pytest.raises(StageError, match="has no units"):
        of(tmp_path / "empty").vector(None)


def spoiled(value: float) -> Array:
    """Give vectors with one value that is not finite, in row 7."""
    x = DRAW(0, 20).copy()
    x[7, 2] = value
    return x


UNITS = [
    (
        lambda t: with_vectors(t, vector_column(spoiled(np.nan), "float32")),
        StageError,
        "is not finite in 1 rows, the first is row 7",
    ),
    (lambda t: with_vectors(t, vector_column(spoiled(-np.inf), "float32")), StageError, "the first is row 7"),
    (
        lambda t: with_vectors(t, vector_column(DRAW(0, 20)[:, :5], "float32")),
        RunError,
        "other files of the run",
    ),
    (
        lambda t: with_vectors(t, pa.array([None, *DRAW(1, 20).tolist()], pa.list_(pa.float32(), DIM))),
        StageError,
        "1 rows without a vector",
    ),
    (lambda t: t.slice(1), RunError, "has 19 rows and not the 20 that its run says"),
    (lambda t: t.drop_columns(["embedding"]), RunError, "has no column 'embedding', though other files"),
]


@pytest.mark.parametrize(("change", "error", "sentence"), UNITS, ids=[sentence for _, _, sentence in UNITS])
def test_units_that_are_refused(change: Any, error: type[Exception], sentence: str, tmp_path: Path) -> None:
    """A unit that is not like the others, or holds what is no vector, is refused.

    File and row are named.
    """
    make_run(str(tmp_path / "run"), [20, 20], DRAW)
    rows = of(tmp_path / "run")
    holder, unit = rows.vector(None), rows.records[1].unit
    file = tmp_path / "run" / "data" / f"{unit}.parquet"
    rewrite(file, change)
    with pytest.raises(error, match=sentence) as raised:
        read_unit(holder, unit, 20)
    assert str(raised.value).startswith(f"{file}: ")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(RunError, match="can't be read"):
        read_unit(holder, unit, 20)


def test_large_values_are_finite(tmp_path: Path) -> None:
    """Values whose sum overflows are vectors all the same."""
    big = np.full((20, DIM), 3e38, np.float32)
    make_run(str(tmp_path / "run"), [20], lambda first, end: big[first:end])
    rows = of(tmp_path / "run")
    assert same_bits(read_unit(rows.vector(None), rows.records[0].unit, 20), big)
    assert replace(rows.vector(None), column="embedding") == rows.vector(None)
