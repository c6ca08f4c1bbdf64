"""What `verify` asks of a stage's run beside what it asks of any.

The units and rows of the run that it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from embed_ops.errors import RunError
from embed_ops.runs.columns import positions
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import RUN_JSON
from embed_ops.runs.made_of import require_current, stale_units, units_of
from embed_ops.runs.record import DATA, SUFFIX, Record
from embed_ops.runs.rows import lineage_of, parent_of
from embed_ops.runs.run import Run
from embed_ops.runs.verify.verification import Difference
from embed_ops.schema import ROW, SOURCE
from embed_ops.storage.location import Location

Places = list[tuple[str, int]]
"""Where rows come from, in order: the source file, and the position in it."""


def places_of(table: pa.Table) -> Places:
    """List where the rows of a table come from: source file and position."""
    return list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True))


def _parent(place: RunDir, run: Run) -> Location:
    """Find the run that a stage was made from; only the run of a stage has one."""
    return parent_of(place.root, run.header.parent or "")


def against_parent(place: RunDir, run: Run, units: Mapping[str, Record]) -> list[Difference]:
    """Compare a stage's units with those of the run that it was made from.

    The same ones, made of the data files that are there now.
    """
    parent = RunDir(_parent(place, run))
    if parent.read_header() is None:
        return [Difference(RUN_JSON, f"its parent {parent.root.path} is not there: it can't be compared")]
    theirs = units_of(parent.root)
    above: list[Difference] = []
    try:
        require_current(lineage_of(parent.root), theirs)
    except RunError as error:
        above.append(Difference(RUN_JSON, f"an ancestor is not as it was: {error}"))
    again = "run the stage's command again"
    return [
        *above,
        *(
            Difference(
                f"{DATA}/{unit}{SUFFIX}",
                f"was made of another state of this unit of its parent {parent.root.path}: {again}"
                if unit in theirs
                else f"its parent {parent.root.path} has no such unit: {again}",
            )
            for unit in stale_units(run.header, units, theirs)
        ),
        *(
            Difference(
                f"{DATA}/{unit}{SUFFIX}", f"its parent {parent.root.path} has this unit, it has none: {again}"
            )
            for unit in sorted(theirs.keys() - units.keys())
        ),
    ]


def positions_differ(place: RunDir, run: Run, places: Mapping[str, Places]) -> list[Difference]:
    """Compare where each row of a stage comes from with the same row of its parent."""
    parent = _parent(place, run)
    records = units_of(parent)
    differences: list[Difference] = []
    for unit, mine in places.items():
        theirs = places_of(positions(parent, unit, records[unit].rows))
        if sorted(theirs) != sorted(mine):
            what = "its rows do not stand where those of its parent do"
            differences.append(Difference(f"{DATA}/{unit}{SUFFIX}", what))
    return differences
