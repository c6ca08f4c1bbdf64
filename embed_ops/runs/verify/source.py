"""What `verify --source` asks: the rows of the run, and no others, stand in the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from embed_ops.runs.ledger import chain
from embed_ops.runs.record import DATA, SUFFIX, Record
from embed_ops.runs.verify.stage import Places
from embed_ops.runs.verify.verification import Difference, Verification
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Plan
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor


def compare_with_source(
    corpus: Corpus,
    plan: Plan,
    records: Mapping[str, Record],
    places: Mapping[str, Places],
    verification: Verification,
) -> None:
    """Read the source again and compare every position with the run.

    Args:
        corpus: the source as it is now.
        plan: of the run.
        records: of its units, by name.
        places: where the rows and rejects of each unit come from, as the run has it.
        verification: takes the differences.

    Raises:
        RunError: the plan has files below more roots than `source.path` names now.
    """
    changes = corpus.changes(plan)
    verification.differences += [
        Difference(name, f"source file {what}") for name, what in changes.changed.items()
    ]
    if corpus.spec.most_rows is None:
        verification.differences += [
            Difference(name, "source file is new: it is not in this run") for name in changes.new
        ]
    at = {file.name: corpus.place(file) for file in corpus.files}
    for span in plan.spans:
        if any(piece.source in changes.changed for piece in span.pieces):
            continue
        cursor = Cursor(corpus.source, Rows(corpus.spec, plan.columns), at, span)
        for item in chain(span, records):
            if isinstance(item, str) or item.unit not in places:
                break
            read, written = list(_positions(cursor, item)), places[item.unit]
            if read != written:
                verification.differences.append(
                    Difference(f"{DATA}/{item.unit}{SUFFIX}", _first_difference(read, written))
                )


def _positions(cursor: Cursor, record: Record) -> Iterator[tuple[str, int]]:
    """Read the positions of a unit's rows from the source.

    The cursor stands where the unit begins.
    """
    for part in record.ranges:
        while cursor.piece.source != part["source"]:
            cursor.next_piece()
        while (chunk := cursor.peek()) is not None:
            # The mark of an unreadable rest stands at the end of its range, and there the next unit
            # may begin.
            of_next = (record.next_source, record.next_position) == (part["source"], cursor.position)
            count = (
                int(np.searchsorted(chunk.positions, part["end"])) if chunk.is_record else int(not of_next)
            )
            if count == 0:
                break
            taken = cursor.take(count)
            for position in taken.positions[taken.kept].tolist():
                yield part["source"], position


def _first_difference(source: Places, run: Places) -> str:
    missing, extra = sorted(set(source) - set(run)), sorted(set(run) - set(source))
    parts = (
        [
            f"{len(missing)} rows of the source are not in it, the first is row {missing[0][1]} of "
            f"{missing[0][0]}"
        ]
        if missing
        else []
    )
    parts += (
        [f"{len(extra)} rows in it are not in the source, the first is row {extra[0][1]} of {extra[0][0]}"]
        if extra
        else []
    )
    return "; ".join(parts) or "the rows are in another order than in the source"
