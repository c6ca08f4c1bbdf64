"""Laws of the ledger: what is done and what is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import contents, corpus_of, embed, make, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_ops.runs.ledger import chain, take_stock
from embed_ops.runs.record import Record
from embed_ops.runs.work import Again, Work
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import UNIT_TEXT_BYTES, Limits, Piece, Plan, Span
from embed_ops.sources.units import UnitEnd

FOUR = Limits(4, UNIT_TEXT_BYTES)


def test_a_new_run_has_everything_left(tmp_path: Path) -> None:
    """Without records every span is work, from its first unit."""
    plan = Corpus.open(spec_of(corpus_of(tmp_path / "in"), "run").source).plan()
    stock = take_stock(plan, {}, FOUR)
    assert [work.span for work in stock.works] == list(plan.spans)
    assert (stock.done, stock.units_left, stock.rows_left) == ((), 2, None)


def test_a_finished_run_has_nothing_left(tmp_path: Path) -> None:
    """With every record no work is left, and the records stand in the order of the plan."""
    _, plan, records = make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    stock = take_stock(plan, dict(reversed(records.items())), 4)
    assert (stock.works, stock.units_left, stock.rows_left) == ((), 0, 0)
    assert [record.unit for record in stock.done] == list(records)
    assert [item for span in plan.spans for item in chain(span, records)] == list(stock.done)


@settings(max_examples=20)
@given(st.sets(st.integers(0, 5)))
def test_any_units_that_are_lost_are_computed_again_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, lost: set[int]
) -> None:
    """Whatever units are missing, they alone are written again, with the bytes that they had."""
    folder = tmp_path_factory.mktemp("lost")
    spec = spec_of(corpus_of(folder / "in"), folder / "run")
    run, plan, records = make(spec)
    assert len(records) == 6
    before = contents(folder / "run")
    for index, record in enumerate(list(records.values())):
        if index in lost:
            run.remove_unit(record, "test")
            del records[record.unit]
    stock = take_stock(plan, records, FOUR)
    assert bool(stock.works) == bool(lost)
    assert len(stock.done) == 6 - len(lost)
    again = embed(spec, Corpus.open(spec.source), plan, records)
    assert contents(folder / "run") == before
    assert take_stock(plan, again, 4).works == ()


def test_known_rows_are_counted_down() -> None:
    """Where the plan knows the rows, those left are told, and units by them."""
    span = Span(0, (Piece("a", 0, 10, 10, 100),))
    part = {"source": "a", "begin": 0, "end": 4, "records": 4}
    record = Record("a.000000000000", "x-1-1", [part], "a", 4, 4, 0, 0, 0, 1, "")
    stock = take_stock(Plan((), (span,), None), {record.unit: record}, FOUR)
    assert (stock.rows_left, stock.units_left) == (6, 2)
    assert stock.works == (Work(span, {record.unit: UnitEnd("a", 4)}),)
    assert list(chain(span, {record.unit: record})) == [record, "a.000000000004"]


def test_records_of_no_planned_file_are_left_out() -> None:
    """A record whose file is not planned, or that begins before its span, is not counted.

    Names with dots are no trouble.
    """
    span = Span(7, (Piece("a.1.b", 50, 100, None, 50),))
    names = ["a.1.b.000000000010", "a.1.000000000050", "b.000000000050", "a.1.b.000000000050", "nonsense"]
    records = {name: Record(name, "x-1-1", [], None, None, 1, 0, 0, 0, 1, "") for name in names}
    stock = take_stock(Plan((), (span,), None), records, 4)
    assert [record.unit for record in stock.done] == ["a.1.b.000000000050"]
    assert stock.works == ()


def test_work_travels_as_json() -> None:
    """A work is the same after the way to a worker."""
    span = Span(3, (Piece('ü"b/c.jsonl', 5, None, None, 9), Piece("d", 0, 4, 4, 1)))
    for work in (
        Work(span),
        Work(span, {"u": UnitEnd("d", 2), "v": UnitEnd()}),
        Work(span, {}, {"d": Again(frozenset({1, 3}), 4)}),
    ):
        assert Work.load(work.dump()) == work
    again = Again(frozenset({1, 3}), 7)
    assert [row for row in range(10) if again.has(row)] == [1, 3, 7, 8, 9]


def test_a_record_belongs_to_the_span_that_covers_its_begin() -> None:
    """Spans of one file share its records by where they begin, whatever the order of the spans."""
    spans = (Span(0, (Piece("a", 50, 100, None, 50),)), Span(1, (Piece("a", 0, 50, None, 50),)))
    late, early = (
        Record(f"a.{begin:012d}", "x-1-1", [], None, None, 1, 0, 0, 0, 1, "") for begin in (60, 10)
    )
    stock = take_stock(Plan((), spans, None), {late.unit: late, early.unit: early}, FOUR)
    assert [work.done for work in stock.works] == [{late.unit: UnitEnd()}, {early.unit: UnitEnd()}]
