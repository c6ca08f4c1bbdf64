"""Verify: law 1 and the checksums, proved from the run's files.

With the source at hand, recounted there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from embed_ops.runs.digests import PLAN
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of
from embed_ops.runs.header import FINISHED, RUN_JSON
from embed_ops.runs.ledger import ANY_UNITS, Ledger, chain, take_stock
from embed_ops.runs.record import DATA, MANIFEST, REJECTS, SUFFIX, Record
from embed_ops.runs.run import Run
from embed_ops.runs.verify.digests import against_digests
from embed_ops.runs.verify.source import compare_with_source
from embed_ops.runs.verify.stage import Places, against_parent, positions_differ
from embed_ops.runs.verify.unit import check_unit
from embed_ops.runs.verify.vectors import lists_of
from embed_ops.runs.verify.verification import Difference, Verification
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Piece, Plan
from embed_ops.storage.files import walk

_THREADS = 4


def verify(path: str, *, source: bool = False) -> Verification:
    """Check a run: every planned row once, in order, in files that are what their records say.

    Args:
        path: run directory.
        source: also read the source again and compare every row position. Without it the source is
            not looked at and may be gone.

    Raises:
        RunError: there is no run at `path`.
    """
    run, place = Run(path), RunDir.at(path)
    verification = Verification(source=source)
    verification.differences += against_digests(place.root, run.header)
    if any(item.file == PLAN or item.file.startswith(f"{MANIFEST}/") for item in verification.differences):
        # What they say of the rest can't be believed.
        return verification
    corpus = Corpus.open(run.spec.source) if source and not run.is_stage else None
    plan, records = place.read_plan(), place.manifest.read()
    if run.status != FINISHED:
        verification.differences.append(Difference(RUN_JSON, f"the run is {run.status}, not finished"))
    listed = {name for name, _ in walk(place.root, DATA)}
    stock = take_stock(plan, records, ANY_UNITS)
    if run.is_stage:
        units = {record.unit: record for record in stock.done}
        verification.differences += against_parent(place, run, units)
    chained, broken = _check_chains(plan, records, listed, verification)
    # Behind a missing unit of a chain the others still count: they are met once it is computed
    # again.
    planned = {
        f"{record.unit}{SUFFIX}"
        for record in stock.done
        if record.unit in chained or record.unit.rpartition(".")[0] in broken
    }
    verification.differences += _unplanned(place, stock, listed - planned)
    there = [record for record in stock.done if f"{record.unit}{SUFFIX}" in listed]
    places = _check_units(run, place, there, verification)
    if run.is_stage and source:
        verification.differences += positions_differ(place, run, places)
    if corpus is not None:
        compare_with_source(corpus, plan, records, places, verification)
    return verification


def _unplanned(place: RunDir, stock: Ledger, unplanned: set[str]) -> list[Difference]:
    """List the data files that no unit of the plan has, and the rejects that no data file names."""
    named = {record.reject_file for record in stock.done}
    # Where units are missing, their reject files may stand already: they are written first.
    unnamed = [] if stock.works else [name for name, _ in walk(place.root, REJECTS) if name not in named]
    return [
        *(Difference(f"{DATA}/{name}", "no unit of the plan has this file") for name in sorted(unplanned)),
        *(Difference(f"{REJECTS}/{name}", "no data file names this reject file") for name in sorted(unnamed)),
    ]


def _check_units(
    run: Run, place: RunDir, records: Iterable[Record], verification: Verification
) -> dict[str, Places]:
    """Check the files of these units, and count what is in them.

    Returns:
        where the rows and rejects of each unit come from, for a comparison with the source; else
        nothing, since it is a pair for every row of the run.
    """
    places: dict[str, Places] = {}
    digest = digest_of(run.header.fingerprint)
    lists = () if run.is_stage else lists_of(run.spec.encoder)

    def check(record: Record) -> tuple[Record, list[Difference], Places]:
        return (record, *check_unit(place, record, digest, lists))

    with ThreadPoolExecutor(_THREADS) as pool:
        for record, differences, rows in pool.map(check, records):
            verification.differences += differences
            verification.units += 1
            verification.rows += record.rows
            verification.rejects += record.rejects + record.file_rejects
            verification.filtered += record.filtered
            verification.records += sum(part["records"] for part in record.ranges)
            if verification.source:
                places[record.unit] = rows
    return places


def _check_chains(
    plan: Plan, records: Mapping[str, Record], listed: set[str], verification: Verification
) -> tuple[set[str], set[str]]:
    """Follow every span from unit to unit: none is missing, and their ranges tile the pieces.

    Returns:
        the units met, and the source files whose chain breaks.
    """
    met: set[str] = set()
    broken: set[str] = set()
    for span in plan.spans:
        ranges: list[dict[str, Any]] = []
        file_rejects = 0
        for item in chain(span, records):
            unit = item if isinstance(item, str) else item.unit
            if isinstance(item, str):
                verification.differences.append(
                    Difference(f"{DATA}/{unit}{SUFFIX}", "missing: no record of this unit")
                )
                broken |= {piece.source for piece in span.pieces}
                break
            met.add(unit)
            if f"{unit}{SUFFIX}" not in listed:
                verification.differences.append(
                    Difference(f"{DATA}/{unit}{SUFFIX}", "missing: the file is not there")
                )
            ranges += item.ranges
            file_rejects += item.file_rejects
        else:
            for piece in span.pieces:
                mine = [part for part in ranges if part["source"] == piece.source]
                fault = _untiled(piece, mine, file_rejects > 0)
                if fault:
                    verification.differences.append(Difference(piece.source, fault))
    return met, broken


def _untiled(piece: Piece, ranges: list[dict[str, Any]], unreadable: bool) -> str | None:
    """Say where the ranges of the units leave a gap in a piece or overlap.

    None where they tile it.
    """
    position = piece.begin
    for part in ranges:
        if part["begin"] != position:
            return f"the units jump from {position} to {part['begin']}"
        position = part["end"]
    if piece.end is not None and position != piece.end:
        return f"the units end at {position}, the plan at {piece.end}"
    counted = sum(part["records"] for part in ranges)
    if piece.rows is not None and counted != piece.rows and not unreadable:
        return f"the units hold {counted} records, the plan {piece.rows}"
    return None
