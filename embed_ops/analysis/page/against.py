"""Another run of the same source beside this one: what moved."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embed_ops.analysis.page.sample import Sample
from embed_ops.analysis.scores import cosines_of
from embed_ops.errors import StageError
from embed_ops.numerics.topk import Ints, TopK, Vectors
from embed_ops.runs.columns import positions, read_unit
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.schema import ROW, SOURCE
from embed_ops.storage.location import locate

NEAR = 10
"""Nearest rows of each row that are compared."""
_MOST_MOVED = 12


@dataclass(frozen=True)
class Moved:
    """A row whose neighbourhood differs: its place in the sample, its nearest row in both runs."""

    row: int
    kept: float
    nearest_here: int
    nearest_there: int


@dataclass(frozen=True)
class Drift:
    """How the same rows lie in two runs.

    Attributes:
        rows: places in the sample of the rows that are compared.
        dims: widths of both runs.
        kept: (rows,) share of its ten nearest rows that a row has in both.
        mean_moved: how far the mean moved, in standard deviations; `spread_ratio`: spread there to
            spread here; `cosine`: of a row here and there, on average. None where the widths are
            not equal, or the spaces can't be compared.
        most: the rows whose neighbourhoods differ most.
    """

    rows: Ints
    dims: tuple[int, int]
    kept: npt.NDArray[np.float64]
    mean_moved: float | None
    spread_ratio: float | None
    cosine: float | None
    most: tuple[Moved, ...]

    def lines(self) -> list[tuple[str, str]]:
        """Word the figures, a (name, value) each."""
        told = [
            ("rows compared", f"{len(self.rows):,}"),
            ("dimensions, here and there", " and ".join(map(str, self.dims))),
        ]
        if len(self.kept):
            told.append((f"of the {NEAR} nearest rows, the same", f"{self.kept.mean():.1%}"))
        if self.cosine is not None:
            told.append(("cosine of a row here and there, mean", f"{self.cosine:.4f}"))
            told.append(("the mean moved by, in standard deviations", f"{self.mean_moved:.4f}"))
            told.append(("spread there to spread here", f"{self.spread_ratio:.4f}"))
        return told


def against(path: str, other: str, sample: Sample, column: str | None) -> Drift:
    """Find the rows of the sample in another run, by where they come from, and compare.

    Raises:
        StageError: the other run has none of these rows.
    """
    rows = RunRows(locate(other))
    vectors = rows.vector(column)
    places = {key: place for place, key in enumerate(sample.keys)}
    wanted: dict[str, list[int]] = {}
    for source, row in sorted(sample.keys):
        wanted.setdefault(source, []).append(row)
    mine, theirs = [], []
    for record in (record for record in rows.records if _has_any(record, wanted)):
        where = positions(rows.lineage[-1][0], record.unit, record.rows)
        keys = list(zip(where.column(SOURCE).to_pylist(), where.column(ROW).to_pylist(), strict=True))
        there = [(place, places[key]) for place, key in enumerate(keys) if key in places]
        if there:
            x = read_unit(vectors, record.unit, record.rows)[[place for place, _ in there]]
            finite = np.isfinite(x).all(axis=1)
            theirs.append(x[finite])
            mine.append(np.array([place for _, place in there], np.int64)[finite])
    if not mine:
        raise StageError(f"{other}: has none of the sampled rows of {path}: compare runs of the same source")
    of_sample = np.concatenate(mine)
    return drift(sample.x[of_sample], np.concatenate(theirs), of_sample)


def _has_any(record: Record, wanted: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether a unit's ranges hold any of the (ascending) rows of a source file.

    Runs may be cut into other units.
    """
    for part in record.ranges:
        rows = wanted.get(part["source"], ())
        place = bisect.bisect_left(rows, part["begin"])
        if place < len(rows) and (part["end"] is None or rows[place] < part["end"]):
            return True
    return False


def drift(left: Vectors, right: Vectors, rows: Ints) -> Drift:
    """Compare the same rows in two runs.

    Args:
        left: (rows, dim) vectors here.
        right: (rows, other dim) vectors there.
        rows: their places in the sample.
    """
    kept, here, there = kept_neighbors(left, right)
    moved = ratio = cosine = None
    if left.shape[1] == right.shape[1]:
        one, two = left.astype(np.float64), right.astype(np.float64)
        scale = np.sqrt((one.var(axis=0)).sum()) or 1.0
        moved = float(np.linalg.norm(two.mean(axis=0) - one.mean(axis=0)) / scale)
        ratio = float(np.sqrt(two.var(axis=0).sum()) / scale)
        cosine = float(cosines_of(left, right).mean())
    least = np.argsort(kept, kind="stable")[:_MOST_MOVED].tolist()
    most = tuple(
        Moved(int(rows[at]), float(kept[at]), int(rows[here[at]]), int(rows[there[at]]))
        for at in least
        if kept[at] < 1 and here[at] >= 0 and there[at] >= 0
    )
    return Drift(rows, (left.shape[1], right.shape[1]), kept, moved, ratio, cosine, most)


def kept_neighbors(left: Vectors, right: Vectors) -> tuple[npt.NDArray[np.float64], Ints, Ints]:
    """Give the share of nearest rows that each row has in common in two spaces.

    Of each row the ten nearest by cosine, and the nearest one in both: (rows,) each; the shares are
    empty where there is one row only. (rows, dim) and (rows, other dim) come in.
    """
    k = min(NEAR, len(left) - 1)
    if k < 1:
        none = np.empty(0, np.int64)
        return np.empty(0), none, none
    ids = np.arange(len(left), dtype=np.int64)
    nearest = []
    for x in (left, right):
        best = TopK(x, k, "cosine", ids)
        best.add(x, ids)
        nearest.append(best.result()[0])
    shared = [
        len(np.intersect1d(mine[mine >= 0], theirs[theirs >= 0]))
        for mine, theirs in zip(*nearest, strict=True)
    ]
    return np.array(shared) / k, nearest[0][:, 0], nearest[1][:, 0]
