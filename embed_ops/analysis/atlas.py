"""A whole run for embedding-atlas: every row with its place on the map, in one Parquet file.

The map is that of the page: a sample is laid out, and each row goes where the sampled rows are that
it is nearest to. So millions of rows take one pass over the run, and a unit in memory at a time.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.analysis.page.health import layout
from embed_ops.analysis.page.sample import Sample, clusters_below, read_sample, texts_of
from embed_ops.engine.progress import Reporter
from embed_ops.errors import PackageError, StageError, StorageError
from embed_ops.numerics.tiles import unit_length
from embed_ops.numerics.topk import Vectors
from embed_ops.runs.columns import VectorColumn, read_columns, stored_unit
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.runs.sample import Texts
from embed_ops.schema import RESERVED, ROW, SOURCE
from embed_ops.sources.base import hive_columns
from embed_ops.storage.location import locate

_X, _Y, _CLUSTER, _TEXT = "map_x", "map_y", "cluster", "text"
_NEAR = 5
"""Sampled rows that say where a row goes."""
_ROWS_AT_ONCE = 8_192


def require_atlas() -> None:
    """Hold that embedding-atlas is installed.

    Raises:
        PackageError: it is not; says what to run.
    """
    if importlib.util.find_spec("embedding_atlas") is None:
        raise PackageError(
            "--atlas needs the package embedding-atlas, which is not installed: "
            "pip install 'embed-ops[atlas]'"
        )


def write_atlas(
    path: str, output: str, *, most: int, method: str, column: str | None, seed: int, reporter: Reporter
) -> int:
    """Write all rows of a finished run to a local Parquet file: places, columns, clusters, texts.

    Args:
        path: address of the run.
        output: file to write.
        most: rows of the sample that is laid out.
        method: of the layout: auto, umap, tsne or pca.
        column: vector column, where there are several.
        seed: of all that draws.
        reporter: told what is done.

    Returns:
        how many rows were written. Those whose vectors are not finite are left out.

    Raises:
        RunError, StageError: there is no finished run, no such column, or nothing to show.
        StorageError: the file can't be written.
    """
    reporter.say(f"reading {path}")
    root = locate(path)
    rows = RunRows(root)
    sample, why = read_sample(root, most, seed, column)
    if sample is None:
        raise StageError(f"{path}: no map: {why}")
    reporter.say(f"laying {len(sample.ids):,} rows out")
    places = _Places.of(sample, method, seed)
    reporter.say(f"placing {rows.rows:,} rows")
    temporary, written = Path(f"{output}.new"), 0
    try:
        writer = None
        for table in _tables(rows, sample, rows.vector(column), places):
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table.cast(writer.schema))
            written += len(table)
        if writer is not None:
            writer.close()
        temporary.replace(output)
    except OSError as error:
        raise StorageError(f"{output}: can't be written: {error}; name another file with --output") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def open_atlas(file: str) -> int:
    """Serve a file that `write_atlas` wrote with embedding-atlas until it is interrupted.

    Returns:
        its exit code.
    """
    line = [sys.executable, "-m", "embedding_atlas.cli", file, "--x", _X, "--y", _Y]
    if _TEXT in pq.read_schema(file).names:
        line += ["--text", _TEXT]
    try:
        return subprocess.run(line, check=False).returncode
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True)
class _Places:
    """Where sampled rows lie: (rows, dim) of length 1, and (rows, 2)."""

    unit: Vectors
    plane: npt.NDArray[np.float64]

    @classmethod
    def of(cls, sample: Sample, method: str, seed: int) -> _Places:
        """Lay a sample out."""
        return cls(unit_length(sample.x), layout(sample.x, method, seed)[0])

    def at(self, x: Vectors) -> npt.NDArray[np.float64]:
        """Place (rows, dim) vectors: the mean of the nearest sampled rows, weighted by nearness."""
        near = min(_NEAR, len(self.unit))
        placed = np.empty((len(x), 2))
        for begin in range(0, len(x), _ROWS_AT_ONCE):
            cosines = unit_length(x[begin : begin + _ROWS_AT_ONCE]) @ self.unit.T
            best = np.argpartition(-cosines, near - 1, axis=1)[:, :near]
            weights = 1.0 / (1.0 + 1e-4 - np.minimum(np.take_along_axis(cosines, best, axis=1), 1.0)) ** 2
            weights /= weights.sum(axis=1, keepdims=True)
            placed[begin : begin + _ROWS_AT_ONCE] = (self.plane[best] * weights[:, :, None]).sum(axis=1)
        return placed


def _tables(rows: RunRows, sample: Sample, vectors: VectorColumn, places: _Places) -> Iterator[pa.Table]:
    """Read the rows of the run unit by unit, with all that is shown of them."""
    kept = [name for name in rows.names(len(rows.lineage) - 1) if name not in RESERVED]
    folders = sorted({name for record in rows.records for name in hive_columns(record.unit)})
    clustered, _ = clusters_below(rows)
    texts = texts_of(rows) if sample.texts is not None else None
    for record in rows.records:
        if record.rows:
            yield _table(rows, record, vectors, places, kept, folders, clustered, texts)


def _table(
    rows: RunRows,
    record: Record,
    vectors: VectorColumn,
    places: _Places,
    kept: list[str],
    folders: list[str],
    clustered: VectorColumn | None,
    texts: Texts | None,
) -> pa.Table:
    x = stored_unit(vectors, record.unit, record.rows)
    fine: npt.NDArray[np.bool_] = np.isfinite(x).min(axis=1)
    plane = places.at(np.where(fine[:, None], x, 0))
    table = read_columns(rows.lineage[-1][0], record.unit, [SOURCE, ROW, *kept], record.rows)
    known = hive_columns(record.unit)
    columns = {_X: pa.array(plane[:, 0], pa.float32()), _Y: pa.array(plane[:, 1], pa.float32())}
    if clustered is not None:
        columns[_CLUSTER] = read_columns(clustered.run, record.unit, ["cluster"], record.rows).column(0)
    columns |= {name: pa.array([known.get(name)] * len(table), pa.string()) for name in folders}
    if texts is not None:
        columns[_TEXT] = pa.array(texts.of(record, table), pa.string())
    # A kept column that is called like one of these is the text, or the label, itself.
    columns |= {name: table.column(name) for name in table.column_names if name not in columns}
    return pa.table(columns).filter(pa.array(fine))
