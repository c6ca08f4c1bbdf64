"""Statistics of the vectors of any run.

Gathered as units are written, kept with the manifest, added up for the report.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.numerics.exact import norms_of
from embed_ops.numerics.kinds import kinds_of
from embed_ops.numerics.summaries import Moments
from embed_ops.runs.parquet import vectors_of
from embed_ops.storage.packing import pack, unpack

METADATA_KEY = b"statistics"
"""Key of the statistics in a part of the manifest."""


@dataclass(frozen=True)
class VectorStatistics:
    """What is known of the vectors of one column, a mergeable summary.

    Attributes:
        moments: rows, and of each dimension mean, spread and range.
        zeros: vectors of zeros.
        least, sum, greatest: of the L2 norms.
    """

    moments: Moments
    zeros: int
    least: float
    sum: float
    greatest: float

    @classmethod
    def of(cls, x: npt.NDArray[Any]) -> Self:
        """Summarise (rows, dim) with at least one row."""
        norms = norms_of(x)
        return cls(
            Moments.of(x), int((norms == 0).sum()), float(norms.min()), float(norms.sum()), float(norms.max())
        )

    def __add__(self, other: Self) -> Self:
        """Merge."""
        least, greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        return type(self)(
            self.moments + other.moments, self.zeros + other.zeros, least, self.sum + other.sum, greatest
        )

    def report(self) -> dict[str, Any]:
        """Give the figures of `report.json`."""
        moments = self.moments
        return {
            "rows": moments.rows,
            "zero_vectors": self.zeros,
            "norm": {"min": self.least, "mean": self.sum / moments.rows, "max": self.greatest},
            "mean": moments.mean.tolist(),
            "variance": moments.variance.tolist(),
            "min": moments.low.tolist(),
            "max": moments.high.tolist(),
        }


Statistics = Mapping[str, VectorStatistics]
"""By vector column."""


def statistics_of(table: pa.Table) -> dict[str, VectorStatistics]:
    """Summarise the vector columns of a unit, lists vector by vector.

    Codes of 8 bits and less are left out.
    """
    columns = {name: vectors_of(table.column(name)) for name in kinds_of(table.schema)}
    return {
        name: VectorStatistics.of(x)
        for name, x in columns.items()
        if len(x) and np.issubdtype(x.dtype, np.floating)
    }


def merged(parts: Iterable[Statistics]) -> dict[str, VectorStatistics]:
    """Add statistics up, column by column."""
    sums: dict[str, VectorStatistics] = {}
    for part in parts:
        for name, of_part in part.items():
            sums[name] = sums[name] + of_part if name in sums else of_part
    return sums


def dump(statistics: Statistics) -> str:
    """Write statistics as text."""
    return json.dumps(
        {name: base64.b64encode(pack(of_column)).decode() for name, of_column in statistics.items()}
    )


def load(text: str | bytes) -> dict[str, VectorStatistics]:
    """Read what `dump` wrote."""
    return {name: unpack(base64.b64decode(content)) for name, content in json.loads(text).items()}


def report_of(statistics: Statistics, rows: int) -> dict[str, Any]:
    """Give the figures of `report.json`, and whether they are of all rows of the run.

    Not where units were replaced.
    """
    return {
        name: of_column.report() | {"complete": of_column.moments.rows == rows}
        for name, of_column in statistics.items()
    }
