"""A run in the form of another program: one NumPy file, a faiss index, a Lance dataset.

Each with the rows beside it.

Streams unit by unit; a command that was stopped goes on where it was. What is there under its own
name is whole.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.analysis.neighbors import kept_of
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import SpecError, StorageError
from embed_ops.numerics.exact import norms_of
from embed_ops.numerics.topk import scaled
from embed_ops.runs.columns import VectorColumn, read_unit
from embed_ops.runs.rows import RunRows
from embed_ops.storage.location import locate

Format = Literal["npy", "faiss", "lance"]
_TRAINED = 100_000
"""Rows that an index is trained on, at most."""
_NEEDS = {"npy": (None, ""), "faiss": ("faiss", "faiss"), "lance": ("lance", "lance")}
"""Module and extra of each format."""


class _Writer(Protocol):
    """Takes the units of a run in order, and knows how many it has."""

    def units_done(self, rows: RunRows) -> int: ...

    def add(self, number: int, first: int, x: Any, table: pa.Table) -> None: ...

    def finish(self, rows: RunRows) -> None: ...


def export(
    run: str,
    output: str,
    to: Format,
    *,
    column: str | None = None,
    index: str = "Flat",
    metric: Literal["cosine", "dot"] = "cosine",
    reporter: Reporter | None = None,
) -> int:
    """Write the vectors of a finished run for another program.

    The same call goes on where an earlier one was stopped.

    Args:
        run: address of the run, or of a stage's run.
        output: local folder to write.
        to: npy: `vectors.npy` (rows, dim) float32; faiss: `index.faiss`; lance: the folder is a
            Lance dataset. Beside the first two the folder `rows` has a Parquet file for each unit:
            index, where the row comes from, and what was kept.
        column: vector column, where there are several.
        index: faiss: what `faiss.index_factory` takes, as "Flat", "IVF1024,Flat", "HNSW32".
        metric: faiss: cosine normalises the vectors.
        reporter: told what is done.

    Returns:
        rows that were written, those of earlier calls too.

    Raises:
        RunError, StageError: the run is not finished or has no such vectors.
        SpecError: the format's library is not installed, or the folder holds something else.
        StorageError: it can't be written.
    """
    module, extra = _NEEDS[to]
    if module is not None and importlib.util.find_spec(module) is None:
        raise SpecError(f"--format {to} needs the package {module}: pip install 'embed-ops[{extra}]'")
    reporter = reporter or Silent()
    rows = RunRows(locate(run))
    vectors = rows.vector(column)
    place = Path(output).expanduser()
    writer: _Writer = (
        _Lance(place, vectors) if to == "lance" else _Files(place, vectors, rows, to, index, metric)
    )
    try:
        done = writer.units_done(rows)
        for number, first, x, table in _units(rows, vectors, done):
            writer.add(number, first, x, table)
            reporter.say(f"{to}: {first + len(x):,} of {rows.rows:,} rows")
        writer.finish(rows)
    except OSError as error:
        raise StorageError(
            f"{place}: can't be written ({error}); make room, and run the same command again"
        ) from error
    return rows.rows


def _units(rows: RunRows, vectors: VectorColumn, done: int) -> Iterator[tuple[int, int, Any, pa.Table]]:
    for number in range(done, len(rows.records)):
        record, first = rows.records[number], rows.starts[number]
        yield (
            number,
            first,
            read_unit(vectors, record.unit, record.rows),
            kept_of(rows, np.arange(first, first + record.rows)),
        )


class _Files:
    """`vectors.npy`, which grows under a name of its own, and a file of rows for each unit, which says that the unit is there."""

    def __init__(
        self, place: Path, vectors: VectorColumn, rows: RunRows, to: Format, index: str, metric: str
    ) -> None:
        self._place, self._to, self._index, self._metric = place, to, index, metric
        told = {"run": rows.content, "column": vectors.column, "format": to, "index": index, "metric": metric}
        known = place / "export.json"
        if known.exists():
            if json.loads(known.read_text(encoding="utf-8")) != told:
                raise SpecError(
                    f"{place}: holds the export of another run, or another form of it; choose another folder"
                )
        elif place.exists() and any(place.iterdir()):
            raise SpecError(f"{place}: is not empty, and holds no export; choose another folder")
        (place / "rows").mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(told), encoding="utf-8")
        self._growing, self._whole = (
            place / ".vectors.npy",
            place / ("vectors.npy" if to == "npy" else "index.faiss"),
        )
        if not self._growing.exists() and not self._whole.exists():
            np.lib.format.open_memmap(self._growing, "w+", np.float32, (rows.rows, vectors.dim)).flush()

    def _file(self, number: int) -> Path:
        return self._place / "rows" / f"{number:06d}.parquet"

    def units_done(self, rows: RunRows) -> int:
        if self._whole.exists():
            return len(rows.records)
        return next(
            (number for number in range(len(rows.records)) if not self._file(number).exists()),
            len(rows.records),
        )

    def add(self, number: int, first: int, x: Any, table: pa.Table) -> None:
        grown = np.load(self._growing, mmap_mode="r+")
        grown[first : first + len(x)] = x
        grown.flush()
        temporary = self._file(number).with_suffix(".new")
        pq.write_table(table, temporary)
        temporary.replace(self._file(number))

    def finish(self, rows: RunRows) -> None:
        if self._whole.exists():
            return
        if self._to == "npy":
            self._growing.replace(self._whole)
            return
        import faiss

        x = np.load(self._growing, mmap_mode="r")
        built = faiss.index_factory(x.shape[1], self._index, faiss.METRIC_INNER_PRODUCT)
        if not built.is_trained:
            chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:_TRAINED])
            built.train(self._ready(x[chosen]))
        for first in range(0, len(x), _TRAINED):
            built.add(self._ready(x[first : first + _TRAINED]))
        temporary = self._whole.with_name(".index.faiss")
        faiss.write_index(built, str(temporary))
        temporary.replace(self._whole)
        self._growing.unlink()

    def _ready(self, x: Any) -> Any:
        part = np.ascontiguousarray(x, np.float32)
        return scaled(part, norms_of(part)) if self._metric == "cosine" else part


class _Lance:
    """A Lance dataset, appended unit by unit; its number of rows says which are there."""

    def __init__(self, place: Path, vectors: VectorColumn) -> None:
        self._place, self._column = place, vectors.column

    def units_done(self, rows: RunRows) -> int:
        import lance

        if not self._place.exists():
            return 0
        try:
            there = lance.dataset(str(self._place)).count_rows()
        except (ValueError, OSError) as error:
            raise SpecError(
                f"{self._place}: is there, and is no Lance dataset ({error}); choose another folder"
            ) from error
        if there not in rows.starts:
            raise SpecError(
                f"{self._place}: has {there:,} rows, which are no units of this run; choose another folder"
            )
        return max(number for number, start in enumerate(rows.starts) if start == there)

    def add(self, number: int, first: int, x: Any, table: pa.Table) -> None:
        import lance

        from embed_ops.runs.parquet import vector_column

        if len(x):
            whole = table.append_column(self._column, vector_column(x, "float32"))
            lance.write_dataset(whole, str(self._place), mode="append" if self._place.exists() else "create")

    def finish(self, rows: RunRows) -> None:
        """Nothing is left: each append was whole."""
