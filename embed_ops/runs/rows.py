"""The rows of a finished run: which file has which row, and where a column is.

The rows of a run have a global index: its units in the order of the plan, their rows in the order
of the files. A stage's run has the units and rows of its input, so a column it lacks is read from
an ancestor, at the same place; `made_of.py` holds that it is still the same row.
"""

from __future__ import annotations

import bisect
import itertools
import posixpath

import pyarrow as pa

from embed_ops.errors import RunError, StageError
from embed_ops.numerics.kinds import kind_of_type
from embed_ops.runs.columns import Label, Part, Stretch, VectorColumn, checked, is_vector, open_unit
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.ledger import ANY_UNITS, take_stock
from embed_ops.runs.made_of import content_of, require_current
from embed_ops.runs.record import Record
from embed_ops.sources.base import hive_columns
from embed_ops.storage.files import Location


class RunRows:
    """The units and rows of a finished run, in order, and where their columns are.

    Raises:
        RunError: there is no run, it is not finished, or an ancestor is missing or has changed.
    """

    def __init__(self, root: Location) -> None:
        self.root = root
        self.lineage = lineage_of(root)
        header = self.lineage[0][1]
        place = RunDir(root)
        records = place.manifest.read(timed=False)
        stock = take_stock(place.read_plan(), records, ANY_UNITS)
        if header.status != FINISHED or stock.works:
            missing = f", {len(stock.works)} spans lack units" if stock.works else ""
            raise RunError(
                f"{root.path}: the run is {header.status}{missing}; run its command again to finish it"
            )
        self.records: tuple[Record, ...] = stock.done
        require_current(self.lineage, {record.unit: record for record in self.records})
        self.starts = [0, *itertools.accumulate(record.rows for record in self.records)]
        self._schemas: dict[int, pa.Schema] = {}

    @property
    def rows(self) -> int:
        """Rows of the run."""
        return self.starts[-1]

    @property
    def content(self) -> str:
        """Digest of what the run holds: names and checksums of its units."""
        return content_of(self.records)

    def stretch(self, first: int, end: int) -> Stretch:
        """Give the rows from one global index to another."""
        parts = []
        for number in range(max(0, bisect.bisect_right(self.starts, first) - 1), len(self.records)):
            begin, stop = max(first, self.starts[number]), min(end, self.starts[number + 1])
            if self.starts[number] >= end:
                break
            if begin < stop:
                start, record = self.starts[number], self.records[number]
                parts.append(Part(record.unit, begin - start, stop - start, record.rows))
        return Stretch(first, tuple(parts))

    def vector(self, column: str | None) -> VectorColumn:
        """Find a vector column: the named one, or the only one of the nearest run that has any.

        Raises:
            StageError: there is none, several and none is named, or it holds no floats.
        """
        if column is not None:
            return checked(self.holder(column))
        for number, (root, _) in enumerate(self.lineage):
            schema = self._schema(number)
            names = [name for name in schema.names if is_vector(schema.field(name).type)]
            if len(names) > 1:
                raise StageError(
                    f"{root.path}: has several vector columns ({', '.join(names)}): say which with `column`"
                )
            if names:
                return checked(VectorColumn(root, names[0], schema.field(names[0]).type))
        lists = [
            name
            for number in range(len(self.lineage))
            for name in self._schema(number).names
            if self._holds_vectors(number, name)
        ]
        if lists:
            raise StageError(
                f"{self.root.path}: has lists of vectors only ({', '.join(lists)}): stages need one "
                "vector a row"
            )
        raise StageError(f"{self.root.path}: neither it nor its ancestors have a vector column")

    def header_of(self, run: Location) -> RunHeader:
        """Give the header of a run of the lineage."""
        return next(header for root, header in self.lineage if root == run)

    def holder(self, column: str) -> VectorColumn:
        """Find a column by name, in the nearest run of the lineage that has it.

        Raises:
            StageError: none has it.
        """
        for number, (root, _) in enumerate(self.lineage):
            schema = self._schema(number)
            if column in schema.names:
                return VectorColumn(root, column, schema.field(column).type)
        known = ", ".join(
            dict.fromkeys(name for number in range(len(self.lineage)) for name in self._schema(number).names)
        )
        raise StageError(
            f"{self.root.path}: no column {column!r} here or in its ancestors; there are {known}"
        )

    def label(self, column: str) -> Label:
        """Find a column that labels rows: a kept one, or a `key=value` folder of the source.

        Raises:
            StageError: there is none, or it holds neither strings nor whole numbers nor booleans.
        """
        if any(column in hive_columns(record.unit) for record in self.records):
            return Label(None, column)
        labels = self.holder(column)
        kind = labels.kind.value_type if pa.types.is_dictionary(labels.kind) else labels.kind
        if not any(
            test(kind)
            for test in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_integer,
                pa.types.is_boolean,
            )
        ):
            raise StageError(
                f"{labels.run.path}: column {column!r} holds {kind}, which labels no rows; name strings "
                "or whole numbers"
            )
        return Label(labels.run, column)

    def _holds_vectors(self, number: int, name: str) -> bool:
        return kind_of_type(self._schema(number).field(name).type) is not None

    def names(self, number: int) -> list[str]:
        """Name the columns of a run of the lineage that hold no vectors."""
        return (
            [name for name in self._schema(number).names if not self._holds_vectors(number, name)]
            if self.records
            else []
        )

    def kind(self, name: str) -> pa.DataType:
        """Give the type of a column that was kept."""
        return self._schema(len(self.lineage) - 1).field(name).type

    def _schema(self, number: int) -> pa.Schema:
        """Read the columns of a run of the lineage off its first data file."""
        if number not in self._schemas:
            if not self.records:
                raise StageError(
                    f"{self.root.path}: the run has no units: there is nothing to fit or to apply"
                )
            self._schemas[number] = open_unit(self.lineage[number][0], self.records[0].unit).schema_arrow
        return self._schemas[number]


_CLOSE = 2


def lineage_of(root: Location) -> list[tuple[Location, RunHeader]]:
    """List a run and its ancestors, each with its header; an `embed` run is the last."""
    runs: list[tuple[Location, RunHeader]] = []
    seen: set[str] = set()
    while True:
        header = RunDir(root).read_header()
        if header is None:
            child = f", the parent of {runs[-1][0].path}" if runs else ""
            raise RunError(f"{root.path}: no run here (run.json is missing){child}")
        if header.id in seen:
            # By id: a link may give the same run another path each time.
            raise RunError(
                f"{root.path}: is an ancestor of itself: `parent` in the run.json of {runs[-1][0].path} "
                "leads back to it; restore that file, or run the stage again"
            )
        seen.add(header.id)
        runs.append((root, header))
        if header.parent is None:
            return runs
        root = parent_of(root, header.parent)


def parent_of(root: Location, told: str) -> Location:
    """Find the parent of a stage's run from what its header tells.

    A path from there, or a whole one.
    """
    return (
        Location(root.fs, posixpath.normpath(f"{root.path}/{told}"))
        if told.startswith("..")
        else Location(root.fs, told)
    )


def told_parent(root: Location, parent: Location) -> str:
    """Say where a run's parent is.

    By a path from there where they lie close, so that they can be moved together.
    """
    told = posixpath.relpath(parent.path, root.path)
    return told if told.count("..") <= _CLOSE else parent.path
