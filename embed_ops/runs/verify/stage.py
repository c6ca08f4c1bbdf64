"""What `verify` asks of a stage's run beside what it asks of any.

The units and rows of the run that it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from embed_ops.runs.columns import positions
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import DATA, SUFFIX, Record
from embed_ops.runs.rows import parent_of
from embed_ops.runs.run import Run
from embed_ops.schema import ROW, SOURCE

Places = list[tuple[str, int]]


def places_of(table: pa.Table) -> Places:
    """List where the rows of a table come from: source file and position."""
    return list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True))


def against_parent(place: RunDir, run: Run, records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Compare a stage's units with those of the run that it was made from.

    The same ones, with as many rows.
    """
    parent = RunDir(parent_of(place.root, run.header["parent"]))
    if parent.read_header() is None:
        return [("run.json", f"its parent {parent.root.path} is not there: it can't be compared")]
    of_parent = {name: record.rows for name, record in parent.read_manifest(timed=False).items()}
    of_stage = {name: record.rows for name, record in records.items()}
    return [
        (
            f"{DATA}/{unit}{SUFFIX}",
            f"has {of_stage.get(unit, 'no')} rows, its parent {of_parent.get(unit, 'no such unit')}",
        )
        for unit in sorted({*of_parent, *of_stage})
        if of_parent.get(unit) != of_stage.get(unit)
    ]


def positions_differ(place: RunDir, run: Run, places: Mapping[str, Places]) -> list[tuple[str, str]]:
    """Compare where each row of a stage comes from with the same row of its parent."""
    parent = parent_of(place.root, run.header["parent"])
    found: list[tuple[str, str]] = []
    for unit, mine in places.items():
        theirs = places_of(positions(parent, unit))
        if sorted(theirs) != sorted(mine):
            found.append((f"{DATA}/{unit}{SUFFIX}", "its rows do not stand where those of its parent do"))
    return found
