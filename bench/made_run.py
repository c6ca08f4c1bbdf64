"""A finished run of made-up vectors, without a model.

What stages read, at any size, a block in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.record import Record
from embed_ops.schema import ROW, SOURCE, SOURCE_TYPE
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span, unit_name
from embed_ops.spec.spec import Spec

FINGERPRINT = {"model": "none"}
Draw = Callable[[int, int], npt.NDArray[Any]]


def mixture(dim: int, clusters: int, seed: int = 0, spread: float = 1.0) -> Draw:
    """Draw from a mixture of normal distributions; a row depends on its index alone.

    Returns:
        a function of (first, end) that gives rows `first` to `end` as (rows, dim) float32.
    """
    centers = np.random.default_rng(seed).standard_normal((clusters, dim)).astype(np.float32)

    def draw(first: int, end: int) -> npt.NDArray[Any]:
        parts = []
        for block in range(first // 1024, -(-end // 1024)):
            rng = np.random.default_rng((seed, block))
            x = centers[rng.integers(0, clusters, 1024)] + np.float32(spread) * rng.standard_normal(
                (1024, dim), np.float32
            )
            parts.append(x[max(0, first - 1024 * block) : end - 1024 * block])
        return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)

    return draw


def make_run(
    path: str,
    files: Sequence[int],
    draw: Draw,
    *,
    unit_rows: int = 16_384,
    keep: Callable[[int, int], dict[str, pa.Array]] | None = None,
    dtype: str = "float32",
    column: str = "embedding",
) -> None:
    """Write a finished run.

    Args:
        path: run directory, which should not be there yet.
        files: rows of each source file it is to look like.
        draw: gives rows by their global index.
        unit_rows: most rows of a unit.
        keep: gives kept columns by global index.
        dtype: of the stored vectors.
        column: their name.
    """
    run, attempt = RunDir.at(path), new_attempt()
    tree = {
        "source": {"path": f"{path}-source", "column": "text"},
        "encoder": {"model": "none"},
        "sink": {"path": path},
    }
    header = RunHeader.new(Spec.parse(tree).model_dump(mode="json"), FINGERPRINT, {}, time.time())
    spans, sources, first = [], [], 0
    for number, rows in enumerate(files):
        name = f"part={number % 3}/file-{number:05d}.parquet"
        sources.append(SourceFile(name, 0, 0, 0))
        spans.append(Span(number, (Piece(name, 0, rows, rows, 0),)))
        for begin in range(0, max(1, rows), unit_rows):
            end = min(rows, begin + unit_rows)
            kept = keep(first + begin, first + end) if keep else {}
            table = {
                **kept,
                SOURCE: pa.array([name] * (end - begin), SOURCE_TYPE),
                ROW: pa.array(np.arange(begin, end)),
            }
            table[column] = vector_column(draw(first + begin, first + end), dtype)
            ranges = [{"source": name, "begin": begin, "end": end, "records": end - begin}]
            following = (name, end) if end < rows else (None, None)
            record = Record(unit_name(name, begin), attempt, ranges, *following, end - begin, 0, 0, 0, 0, "")
            data = pa.table(table)
            run.manifest.append(
                [run.write_unit(record, data, data.slice(0, 0), digest_of(FINGERPRINT), "0")], attempt
            )
        first += rows
    run.write_plan(
        Plan(tuple(sorted(sources, key=lambda file: file.name)), tuple(spans), pa.schema([])), attempt
    )
    run.write_header(replace(header, status=FINISHED, finished=time.time()), attempt)
    run.remove_temporary(attempt)
