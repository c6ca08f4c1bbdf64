"""The protocol of targets, and what they are told.

A target knows no run and no spec. Its driver, `analysis/export.py`, reads the run and puts it in,
unit by unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from embed_ops.numerics.topk import Metric, Vectors


@dataclass(frozen=True)
class TargetUnit:
    """A unit of the run: its rows are those from `first` on, `rows` of them.

    Attributes:
        name: of the unit; `number`: its place among the units.
    """

    name: str
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Contents:
    """What a target is filled with.

    Attributes:
        digest: of names and checksums of the run's units: another run has another one.
        column: name of the vectors; `dim`: their width.
        units: of the run, in its order.
    """

    digest: str
    column: str
    dim: int
    units: tuple[TargetUnit, ...]

    @property
    def rows(self) -> int:
        """Rows of all units."""
        return sum(unit.rows for unit in self.units)


@dataclass(frozen=True)
class Options:
    """The form that is asked for; a target passes over what does not concern it.

    Attributes:
        index: what `faiss.index_factory` takes.
        metric: of an index.
    """

    index: str = "Flat"
    metric: Metric = "cosine"


class Target(Protocol):
    """A place that holds the rows of a run. It is made from what `--output` names.

    Whatever was stopped, and wherever: the same calls again end with what a quiet run writes. An
    OSError from any of them is reported as a place that can't be written.
    """

    def begin(self, contents: Contents, options: Options) -> None:
        """Make the place, or check that what is there is of this run and of this form.

        Raises:
            SpecError: something else is there.
        """

    def present(self) -> frozenset[str]:
        """Name the units that are there as a whole."""

    def put(self, unit: TargetUnit, x: Vectors, table: pa.Table) -> None:
        """Take a unit that is not there yet; units come in their order.

        Args:
            unit: whose rows these are.
            x: (rows, dim) float32, all of them finite.
            table: a row for each vector: `row`, its index in the run; where it comes from; and
                what was kept of it.
        """

    def end(self) -> None:
        """Finish what needs all rows, and give it its name. Called again, it does nothing."""
