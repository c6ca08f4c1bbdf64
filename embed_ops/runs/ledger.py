"""The ledger: the plan against the units that are done. What is left is the work."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from embed_ops.runs.record import Record
from embed_ops.runs.work import Work
from embed_ops.sources.plan import Limits, Plan, Span, estimated_units, unit_name
from embed_ops.sources.units import UnitEnd

ANY_UNITS = Limits(1, 1 << 62)
"""Limits for those who do not ask how many units are left."""


@dataclass(frozen=True)
class Ledger:
    """What is done and what is left.

    Attributes:
        works: spans with something missing, each with its units that are done.
        done: records of units that belong to the plan, in its order.
        units_left: about how many units are missing.
        rows_left: about how many rows; None where only reading tells.
    """

    works: tuple[Work, ...]
    done: tuple[Record, ...]
    units_left: int
    rows_left: int | None


def take_stock(plan: Plan, records: Mapping[str, Record], limits: Limits) -> Ledger:
    """Compare the plan with the records.

    Args:
        plan: of the run.
        records: by the unit's name; those of units that the plan does not have are left out.
        limits: of units, by which missing ones are estimated.
    """
    of_span = _by_span(plan, records)
    works: list[Work] = []
    done: list[Record] = []
    units_left, rows_left = 0, 0
    known = True
    for span in plan.spans:
        mine = of_span.get(span.index, {})
        done += sorted(mine.values(), key=lambda record: _place(span, record))
        if not _complete(span, mine):
            works.append(
                Work(
                    span,
                    {
                        unit: UnitEnd(record.next_source, record.next_position)
                        for unit, record in mine.items()
                    },
                )
            )
            units_left += max(1, estimated_units(span, limits) - len(mine))
            counts = [piece.rows for piece in span.pieces]
            known = known and None not in counts
            rows_left += sum(count or 0 for count in counts) - sum(
                part["records"] for record in mine.values() for part in record.ranges
            )
    return Ledger(tuple(works), tuple(done), units_left, rows_left if known else None)


def chain(span: Span, records: Mapping[str, Record]) -> Iterator[Record | str]:
    """Walk the units of a span from its first to its last.

    A unit without a record is given by name and ends the walk.
    """
    unit: str | None = span.first_unit
    while unit is not None:
        record = records.get(unit)
        if record is None:
            yield unit
            return
        yield record
        following, position = record.next_source, record.next_position
        unit = None if following is None or position is None else unit_name(following, position)


def _complete(span: Span, records: Mapping[str, Record]) -> bool:
    return all(isinstance(item, Record) for item in chain(span, records))


def _by_span(plan: Plan, records: Mapping[str, Record]) -> dict[int, dict[str, Record]]:
    """Give every record to the span that covers where it begins."""
    starts: dict[str, list[tuple[int, int]]] = {}
    for span in plan.spans:
        for piece in span.pieces:
            starts.setdefault(piece.source, []).append((piece.begin, span.index))
    for places in starts.values():
        places.sort()
    of_span: dict[int, dict[str, Record]] = {}
    for unit, record in records.items():
        source, _, begin = unit.rpartition(".")
        place = (
            bisect.bisect_right(starts.get(source, []), (int(begin), len(plan.spans) + 1 << 32)) - 1
            if begin.isdigit()
            else -1
        )
        if place >= 0:
            of_span.setdefault(starts[source][place][1], {})[unit] = record
    return of_span


def _place(span: Span, record: Record) -> tuple[int, int]:
    source, _, begin = record.unit.rpartition(".")
    order = next(index for index, piece in enumerate(span.pieces) if piece.source == source)
    return order, int(begin)
