"""A run in the form of another program: hands its rows to a target, unit by unit.

Kinds of targets lie in `targets/`. A command that was stopped goes on where it was.
"""

from __future__ import annotations

import numpy as np

from embed_ops.analysis.shown import kept_of
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import StorageError
from embed_ops.numerics.topk import Metric
from embed_ops.runs.columns import VectorColumn, read_unit
from embed_ops.runs.rows import RunRows
from embed_ops.storage.location import locate
from embed_ops.targets.base import Contents, Options, TargetUnit
from embed_ops.targets.registry import make_target


def export(
    run: str,
    output: str,
    to: str,
    *,
    column: str | None = None,
    index: str = "Flat",
    metric: Metric = "cosine",
    reporter: Reporter | None = None,
) -> int:
    """Write the vectors of a finished run for another program.

    The same call goes on where an earlier one was stopped.

    Args:
        run: address of the run, or of a stage's run.
        output: local folder to write.
        to: kind of the target, a word of `targets.registry`; each module there says what it writes.
        column: vector column, where there are several.
        index: faiss: what `faiss.index_factory` takes, as "Flat", "IVF1024,Flat", "HNSW32".
        metric: faiss: cosine normalises the vectors.
        reporter: told what is done.

    Returns:
        rows that were written, those of earlier calls too.

    Raises:
        RunError, StageError: the run is not finished or has no such vectors.
        SpecError: there is no such kind, or the folder holds something else.
        PackageError: the kind's package is not installed.
        StorageError: it can't be written.
    """
    target = make_target(to, output)
    reporter = reporter or Silent()
    rows = RunRows(locate(run))
    vectors = rows.vector(column)
    contents = _contents(rows, vectors)
    try:
        target.begin(contents, Options(index, metric))
        present = target.present()
        for unit in contents.units:
            if unit.name in present:
                continue
            indexes = np.arange(unit.first, unit.first + unit.rows)
            target.put(unit, read_unit(vectors, unit.name, unit.rows), kept_of(rows, indexes))
            reporter.say(f"{to}: {unit.first + unit.rows:,} of {contents.rows:,} rows")
        target.end()
    except OSError as error:
        raise StorageError(
            f"{output}: can't be written ({error}); make room, and run the same command again"
        ) from error
    return contents.rows


def _contents(rows: RunRows, vectors: VectorColumn) -> Contents:
    """Say what a run hands over."""
    units = tuple(
        TargetUnit(record.unit, number, rows.starts[number], record.rows)
        for number, record in enumerate(rows.records)
    )
    return Contents(rows.content, vectors.column, vectors.dim, units)
