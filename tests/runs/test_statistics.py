"""Statistics of the vectors of a run: added up over units and parts, and lost with none of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embed_ops.runs.directory import RunDir
from embed_ops.runs.journal import Journal
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.record import Record
from embed_ops.runs.statistics import VectorStatistics, dump, load, merged, report_of, statistics_of
from embed_ops.schema import ROW, SOURCE, SOURCE_TYPE


def unit(x: np.ndarray, dtype: str = "float32") -> pa.Table:
    """Make the table of a unit."""
    return pa.table({"embedding": vector_column(x, dtype), "n": pa.array(range(len(x)))})


def test_report_is_that_of_all_rows() -> None:
    """Added over units of any size, figures are numpy's over all rows.

    Text and back changes no bit.
    """
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1000, 5)) + 100).astype(np.float32)
    x[10] = 0
    parts = [statistics_of(unit(part)) for part in np.array_split(x, 7)]
    found = report_of(merged(load(dump(part)) for part in parts), 1000)["embedding"]
    wide = x.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    assert found["complete"]
    assert (found["rows"], found["zero_vectors"]) == (1000, 1)
    assert found["norm"] == pytest.approx({"min": 0.0, "mean": norms.mean(), "max": norms.max()})
    for name, expected in (
        ("mean", wide.mean(0)),
        ("variance", wide.var(0)),
        ("min", x.min(0)),
        ("max", x.max(0)),
    ):
        assert found[name] == pytest.approx(expected.tolist(), rel=1e-12)


def test_what_has_no_statistics() -> None:
    """Units without rows, and codes."""
    assert statistics_of(unit(np.empty((0, 3), np.float32))) == {}
    assert statistics_of(unit(np.ones((2, 3)), "int8")) == {}
    assert statistics_of(unit(np.ones((2, 3)), "float16"))["embedding"].moments.rows == 2


def record(name: str, rows: int) -> Record:
    """Make a record as a worker does before it writes."""
    return Record(
        name,
        "a-1-1",
        [{"source": "s", "begin": 0, "end": rows, "records": rows}],
        None,
        None,
        rows,
        0,
        0,
        0,
        0,
        "",
    )


def test_kept_with_the_manifest(tmp_path: Path) -> None:
    """The journal keeps them with its parts.

    A unit whose record was lost is read back, and counts once.
    """
    run = RunDir.at(str(tmp_path))
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    journal = Journal(run, "a-1-1")
    for number, part in enumerate(np.array_split(x, 3)):
        data = (
            unit(part)
            .append_column(SOURCE, pa.array(["s"] * 10, SOURCE_TYPE))
            .append_column(ROW, pa.array(range(10)))
        )
        written = run.write_unit(record(f"s.{number:012d}", 10), data, data.slice(0, 0), "fingerprint", "0")
        if number < 2:
            journal.add(written, dump(statistics_of(data)))
            journal.flush()
    assert run.manifest.statistics()["embedding"].moments.rows == 20
    RunDir.at(str(tmp_path)).load_records("fingerprint", "b-2-2")
    found = run.manifest.statistics()["embedding"]
    assert found.moments.rows == 30
    assert found.moments.mean == pytest.approx(VectorStatistics.of(x).moments.mean)
    assert not report_of({"embedding": found}, 29)["embedding"]["complete"]
