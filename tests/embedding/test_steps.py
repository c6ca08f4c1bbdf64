"""The three steps of the job on one unit, without Ray."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models

import embed_ops
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import dump_outcome, from_block, load_outcome, to_block
from embed_ops.embedding.replica import Replica
from embed_ops.embedding.retry import retry_work
from embed_ops.embedding.settings import resolve
from embed_ops.embedding.steps import read_and_prepare, write_unit
from embed_ops.embedding.unit import EmbeddedUnit, Failure, Outcome, PreparedUnit, Skipped, Unchanged, Written
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import HALVED, RETRIED, Record
from embed_ops.runs.work import Again, Work
from embed_ops.schema import Reason
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import locate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a seeded two-layer BERT."""
    return str(tiny_models.build("bert", tmp_path_factory.mktemp("model") / "bert"))


def job_of(model: str, folder: Path, rows: int, attempt: str) -> tuple[Job, list[Work]]:
    """Write a corpus of so many rows in one file, and make the job that embeds it."""
    (folder / "in").mkdir(parents=True)
    pq.write_table(
        pa.table({"text": [f"row {n} of some words" for n in range(rows)]}), folder / "in" / "a.parquet"
    )
    tree = {
        "source": {"path": str(folder / "in"), "column": "text"},
        "encoder": {"model": model},
        "sink": {"path": str(folder / "run")},
    }
    spec = Spec.parse(tree | {"parity": {"rows": 0}})
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    job = Job(spec, locate(spec.sink.path), corpus.roots, plan.columns, resolve(spec), "f", attempt)
    return job, [Work(span) for span in plan.spans]


def prepared(job: Job, work: Work) -> PreparedUnit:
    """Prepare the first unit of a work."""
    unit = next(read_and_prepare(job, work))
    assert isinstance(unit, PreparedUnit)
    return unit


def run(job: Job, works: list[Work], replica: Replica) -> list[Outcome]:
    """Take every unit through all steps."""
    outcomes: list[Outcome] = []
    for work in works:
        for unit in read_and_prepare(job, work):
            embedded = unit if isinstance(unit, Failure) else replica.embed(unit)
            outcomes.append(embedded if isinstance(embedded, Failure) else write_unit(embedded, job))
    return outcomes


def record_of(job: Job, works: list[Work], replica: Replica) -> Record:
    """Take the first unit through all steps: its record."""
    outcome = run(job, works, replica)[0]
    assert isinstance(outcome, Written)
    return outcome.record


def test_units_and_outcomes_travel_whole(model: str, tmp_path: Path) -> None:
    """A block gives back what it was made of, and JSON an outcome."""
    job, works = job_of(model, tmp_path, 20, "a-20-1")
    replica = Replica(job)
    unit = prepared(job, works[0])
    embedded = replica.embed(unit)
    assert isinstance(embedded, EmbeddedUnit)
    refused = replace(embedded, refused={3: Reason.TOO_LARGE})
    for message in (unit, embedded, refused):
        block = to_block(message)
        assert block.num_rows == 1
        assert from_block(block) == message
    name = unit.head.name
    failure = Failure.of(ValueError("broken"), name)
    for outcome in (
        write_unit(embedded, job),
        Unchanged(name),
        Skipped(name),
        failure,
        Failure.of(OSError(), None),
    ):
        assert load_outcome(dump_outcome(outcome)) == outcome
        assert from_block(to_block(outcome)) == outcome
    with pytest.raises(ValueError, match="PreparedUnit"):
        load_outcome(to_block(unit).column("meta")[0].as_py())


def test_what_the_driver_gets_does_not_grow_with_rows(model: str, tmp_path: Path) -> None:
    """Law 6: the record of a unit of 5,000 rows is as small as that of one of 50.

    Statistics take a few numbers a dimension.
    """
    sizes = {}
    for rows in (50, 5000):
        job, works = job_of(model, tmp_path / str(rows), rows, f"a-{rows}-1")
        outcomes = run(job, works, Replica(job))
        assert [outcome.record.rows for outcome in outcomes if isinstance(outcome, Written)] == [rows]
        sizes[rows] = sum(len(dump_outcome(outcome)) for outcome in outcomes)
    assert sizes[5000] < 1.1 * sizes[50] < 4000


def test_nothing_asks_for_a_whole_dataset() -> None:
    """Law 6: no module calls what would bring a corpus to one machine."""
    forbidden = {"take_all", "to_pandas", "materialize", "to_arrow_refs", "to_numpy_refs", "to_torch"}
    calls = {
        (path.name, node.func.attr)
        for path in Path(embed_ops.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in forbidden
    }
    assert calls == set()


def test_a_failing_step_reaches_the_driver(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in any step becomes the unit's outcome.

    With its name, kind and traceback, and nothing is written.
    """
    job, works = job_of(model, tmp_path, 20, "a-20-2")
    replica = Replica(job)

    def broken(*_: object) -> None:
        raise SystemExit("native code left")

    monkeypatch.setattr(replica.encoder, "launch", broken)
    failure = run(job, works, replica)[0]
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.unit) == ("SystemExit", "a.parquet.000000000000")
    assert "native code left" in failure.error
    assert "Traceback" in failure.traceback
    assert not (tmp_path / "run" / "data").exists()


def test_non_finite_vectors_are_rejects(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector with NaN is never written: its row is a reject, and the others keep their places."""
    job, works = job_of(model, tmp_path, 20, "a-20-3")
    replica = Replica(job)
    launch = replica.encoder.launch

    def poisoned(batch: pa.Table) -> Callable[[], dict[str, np.ndarray]]:
        found = {name: vectors.copy() for name, vectors in launch(batch)().items()}
        for vectors in found.values():
            vectors[0, 3] = np.nan
        return lambda: found

    monkeypatch.setattr(replica.encoder, "launch", poisoned)
    record = record_of(job, works, replica)
    assert (record.rows + record.rejects, record.rejects > 0) == (20, True)
    rejects = pq.read_table(tmp_path / "run" / "rejects" / (record.reject_file or "")).to_pylist()
    assert {row["reason"] for row in rejects} == {"non_finite"}
    kept = pq.read_table(tmp_path / "run" / "data" / "a.parquet.000000000000.parquet")
    assert np.isfinite(kept.column("embedding").combine_chunks().flatten().to_numpy()).all()
    assert sorted(kept.column("_row").to_pylist() + [row["_row"] for row in rejects]) == list(range(20))


@pytest.mark.slow
def test_rows_that_memory_cannot_hold_are_rejects(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the forward pass runs out of memory, batches are halved and flagged.

    A row that never fits is a reject.
    """
    job, works = job_of(model, tmp_path, 20, "a-20-6")
    replica = Replica(job)
    launch = replica.encoder.launch
    embedded = replica.embed(prepared(job, works[0]))
    assert isinstance(embedded, EmbeddedUnit)
    longest = embedded.forward.tokens // 20 + 1

    def short(batch: pa.Table) -> Any:
        tokens = [len(row) for row in batch.column("tokens").to_pylist()]
        if len(tokens) > 2 or max(tokens) >= longest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return launch(batch)

    monkeypatch.setattr(replica.encoder, "launch", short)
    record = record_of(job, works, replica)
    rejects = pq.read_table(tmp_path / "run" / "rejects" / (record.reject_file or "")).to_pylist()
    assert {row["reason"] for row in rejects} == {"too_large"}
    assert record.rows + len(rejects) == 20
    assert record.rows > 0
    assert record.flags == (HALVED,)


def test_a_deadline_lets_the_unit_in_hand_finish(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that is begun before the deadline is handed out, and no other is begun after it."""
    job, works = job_of(model, tmp_path, 40, "a-40-4")
    spec = job.spec.model_copy(update={"resources": job.spec.resources.model_copy(update={"unit_rows": 10})})
    timed = Job(spec, job.run, job.roots, job.columns, job.resolved, "f", "a-40-5", deadline=10.0)
    answers = iter([False, False, True])
    monkeypatch.setattr(Job, "late", lambda self: next(answers))
    units = [unit.head.name for unit in read_and_prepare(timed, works[0]) if isinstance(unit, PreparedUnit)]
    assert units == ["a.parquet.000000000000", "a.parquet.000000000010"]


def test_writing_a_retried_unit_twice_changes_nothing(model: str, tmp_path: Path) -> None:
    """The engine may run a task again whose worker died after it had written.

    No row is doubled, none is lost.
    """
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.jsonl"
    lines = [json.dumps({"text": f"row {n} of some words"}) for n in range(6)]
    good = "\n".join([*lines, json.dumps({"text": None})])
    source.write_text(good.replace(lines[2], "x" * len(lines[2])))
    tree = {
        "source": {"kind": "jsonl", "path": str(tmp_path / "in"), "column": "text"},
        "encoder": {"model": model},
    }
    spec = Spec.parse(tree | {"sink": {"path": str(tmp_path / "run")}, "parity": {"rows": 0}})
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    job = Job(spec, locate(spec.sink.path), corpus.roots, plan.columns, resolve(spec), "f", "a-1-6")
    replica = Replica(job)
    first = record_of(job, [Work(span) for span in plan.spans], replica)
    assert (first.rows, first.rejects) == (5, 2)
    source.write_text(good)
    works = retry_work(RunDir(job.run), plan, [first])
    embedded = replica.embed(prepared(job, works[0]))
    assert isinstance(embedded, EmbeddedUnit)
    outcomes = [write_unit(embedded, job) for _ in range(2)]
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Written)]
    assert len(records) == 2
    for record in records:
        assert (record.rows, record.rejects, record.flags) == (6, 1, (RETRIED,))
    assert records[0].sha256 == records[1].sha256
    assert records[0].tokens == 6 * first.tokens // 5
    rows = (
        pq.read_table(tmp_path / "run" / "data" / "a.jsonl.000000000000.parquet").column("_row").to_pylist()
    )
    assert rows == sorted(set(rows))
    assert len(list((tmp_path / "run" / "rejects").iterdir())) == 1


def test_a_retry_that_reaches_less_fails_whole(model: str, tmp_path: Path) -> None:
    """A file that reads worse than before fails the unit's retry and leaves its rejects alone."""
    job, works = job_of(model, tmp_path, 20, "a-20-7")
    again = Work(works[0].span, retry={"a.parquet": Again(frozenset({3, 99}))}, replaces="a")
    failure = next(read_and_prepare(job, again))
    assert isinstance(failure, Failure)
    assert failure.kind == "StorageError"
    assert "row 99 can't be reached" in failure.error
