"""Rows dealt to parts in `work/`: to shards of a sample, or to buckets of clusters.

Each stretch of the run keeps its rows ordered by part, raw, so that the rows of one part are read
as a slice of each file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from embed_ops.numerics.tiles import Ints, Vectors
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.storage.files import Location, open_file

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)


def keep_dealt(job: StageJob, name: str, x: Vectors, numbers: Ints, sizes: Ints) -> None:
    """Keep the rows of a stretch, ordered by part.

    Args:
        job: of the stage.
        name: of the files below `work/`; the one of exactly this name comes last.
        x: (rows, dim) float32.
        numbers: (rows,) or (rows, columns) int64, what is known of each row.
        sizes: (parts,) int64, rows of each part.
    """
    job.keep(f"{name}.rows", x.tobytes())
    job.keep(f"{name}.numbers", numbers.tobytes())
    job.keep(name, sizes.tobytes())


def read_dealt(job: StageJob, names: Iterable[str], part: int, columns: int) -> tuple[Vectors, Ints]:
    """Read the rows of one part out of several stretches, in their order.

    Args:
        job: of the stage.
        names: given to `keep_dealt`.
        part: number.
        columns: of the numbers.

    Returns:
        (rows, dim) float32 and (rows, columns) int64.
    """
    dim = job.vectors.dim
    rows, numbers = [np.empty((0, dim), FLOAT)], [np.empty((0, columns), LONG)]
    for name in names:
        sizes = np.frombuffer(job.kept(name) or b"", LONG)
        begin, end = int(sizes[:part].sum()), int(sizes[: part + 1].sum())
        rows.append(read_rows(job.run.child(f"{WORK}/{name}.rows"), FLOAT, dim, begin, end))
        numbers.append(read_rows(job.run.child(f"{WORK}/{name}.numbers"), LONG, columns, begin, end))
    return np.concatenate(rows), np.concatenate(numbers)


def read_rows(place: Location, kind: np.dtype[Any], dim: int, begin: int, end: int) -> Any:
    """Read rows of a raw file as (end - begin, dim)."""
    width = dim * kind.itemsize
    if end == begin:
        return np.empty((0, dim), kind)
    if place.local:
        return np.fromfile(place.path, kind, (end - begin) * dim, offset=begin * width).reshape(-1, dim)
    with open_file(place) as file:
        file.seek(begin * width)
        return np.frombuffer(file.read((end - begin) * width), kind).reshape(-1, dim)
