"""What a stage's run was made of: the units of its parent, by name and sha256.

Rows of a run and of its ancestors stand at the same places, so they are joined by unit and place.
That holds only while each unit of an ancestor is the one that the stage has read.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from functools import cache

from embed_ops.errors import RunError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import RunHeader
from embed_ops.runs.ledger import ANY_UNITS, take_stock
from embed_ops.runs.record import Record
from embed_ops.storage.location import Location

INPUT = "input"
"""Entry of a stage's fingerprint: the content of its input as it was when the run was begun."""


def content_of(records: Iterable[Record]) -> str:
    """Digest what a run holds: names and checksums of its units, in the order of its plan."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.unit} {record.sha256}\n".encode())
    return digest.hexdigest()[:16]


def units_of(root: Location) -> dict[str, Record]:
    """Read the records of a run's units by name, in the order of its plan.

    Raises:
        RunError: it has no plan, or a part of its manifest can't be read.
    """
    place = RunDir(root)
    stock = take_stock(place.read_plan(), place.manifest.read(timed=False), ANY_UNITS)
    return {record.unit: record for record in stock.done}


def stale_units(header: RunHeader, mine: Mapping[str, Record], theirs: Mapping[str, Record]) -> list[str]:
    """Name the units of a stage's run that were made of another state of its parent.

    Args:
        header: of the stage's run.
        mine: its units.
        theirs: those of its parent as it is now, in the order of the plan.
    """

    @cache
    def unchanged() -> bool:
        # Units of earlier versions do not say what they were made of: the run as a whole does.
        return header.fingerprint.get(INPUT) == content_of(theirs.values())

    def current(record: Record) -> bool:
        parent = theirs.get(record.unit)
        if record.made_of is None:
            return parent is not None and unchanged()
        return parent is not None and parent.sha256 == record.made_of

    return sorted(unit for unit, record in mine.items() if not current(record))


def require_current(
    lineage: list[tuple[Location, RunHeader]], units: Mapping[str, Record], *, whole: bool = True
) -> None:
    """Refuse a run that was made of another state of one of its ancestors.

    Args:
        lineage: the run and its ancestors, nearest first, each with its header.
        units: of the run.
        whole: whether the run is to have all units of its parent; one that is not finished has not.

    Raises:
        RunError: names the run, its parent and a unit, and says what to do.
    """
    mine = units
    for (root, header), (above, _) in itertools.pairwise(lineage):
        theirs = units_of(above)
        lacking = sorted(theirs.keys() - mine.keys()) if whole or mine is not units else []
        changed = [*stale_units(header, mine, theirs), *lacking]
        if changed:
            raise RunError(
                f"{root.path}: {above.path} has changed since: {len(changed)} of its {len(theirs)} units are "
                f"not those that this run was made of, the first is {changed[0]}. Run the "
                f"`postprocess` command of {root.path} again: it computes what has changed"
            )
        mine = theirs
