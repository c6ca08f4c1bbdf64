"""The three steps of the job on one unit, without Ray."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models

import embed_ops
from embed_ops.embedding.job import Job
from embed_ops.embedding.message import read_meta
from embed_ops.embedding.retry import retry_work
from embed_ops.embedding.settings import resolve
from embed_ops.embedding.steps import Replica, read_and_prepare, write_unit
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import Record
from embed_ops.runs.work import Again, Work
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


def run(job: Job, works: list[Work], replica: Replica) -> list[dict[str, Any]]:
    """Take every unit through all steps: the records."""
    found = []
    for work in works:
        for prepared in read_and_prepare(pa.table({"work": [work.dump()]}), job):
            assert prepared.num_rows == 1
            found.append(json.loads(write_unit(replica(prepared), job).column("record")[0].as_py()))
    return found


def test_what_the_driver_gets_does_not_grow_with_rows(model: str, tmp_path: Path) -> None:
    """Law 6: the record of a unit of 5,000 rows is as small as that of one of 50.

    Statistics take a few numbers a dimension.
    """
    sizes = {}
    for rows in (50, 5000):
        job, works = job_of(model, tmp_path / str(rows), rows, f"a-{rows}-1")
        records = run(job, works, Replica(job))
        assert [record["rows"] for record in records] == [rows]
        sizes[rows] = len(json.dumps(records))
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
    """An error in any step becomes the unit's record.

    With its name, kind and traceback, and nothing is written.
    """
    job, works = job_of(model, tmp_path, 20, "a-20-2")
    replica = Replica(job)

    def broken(*_: object) -> None:
        raise SystemExit("native code left")

    monkeypatch.setattr(replica.encoder, "launch", broken)
    record = run(job, works, replica)[0]
    assert (record["kind"], record["unit"]) == ("SystemExit", "a.parquet.000000000000")
    assert "native code left" in record["error"]
    assert "Traceback" in record["traceback"]
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
    record = run(job, works, replica)[0]
    assert (record["rows"] + record["rejects"], record["rejects"] > 0) == (20, True)
    rejects = pq.read_table(tmp_path / "run" / "rejects" / record["reject_file"]).to_pylist()
    assert {row["reason"] for row in rejects} == {"non_finite"}
    kept = pq.read_table(tmp_path / "run" / "data" / "a.parquet.000000000000.parquet")
    assert np.isfinite(kept.column("embedding").combine_chunks().flatten().to_numpy()).all()
    assert sorted(kept.column("_row").to_pylist() + [row["_row"] for row in rejects]) == list(range(20))


def test_rows_that_memory_cannot_hold_are_rejects(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the forward pass runs out of memory, batches are halved and flagged.

    A row that never fits is a reject.
    """
    job, works = job_of(model, tmp_path, 20, "a-20-6")
    replica = Replica(job)
    launch = replica.encoder.launch
    longest = (
        read_meta(replica(next(read_and_prepare(pa.table({"work": [works[0].dump()]}), job))))["tokens"] // 20
        + 1
    )

    def short(batch: pa.Table) -> Any:
        tokens = [len(row) for row in batch.column("tokens").to_pylist()]
        if len(tokens) > 2 or max(tokens) >= longest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return launch(batch)

    monkeypatch.setattr(replica.encoder, "launch", short)
    record = run(job, works, replica)[0]
    rejects = pq.read_table(tmp_path / "run" / "rejects" / record["reject_file"]).to_pylist()
    assert {row["reason"] for row in rejects} == {"too_large"}
    assert record["rows"] + len(rejects) == 20
    assert record["rows"] > 0
    assert record["flags"] == ["halved"]


def test_a_deadline_lets_the_unit_in_hand_finish(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that is begun before the deadline is handed out, and no other is begun after it."""
    job, works = job_of(model, tmp_path, 40, "a-40-4")
    spec = job.spec.model_copy(update={"resources": job.spec.resources.model_copy(update={"unit_rows": 10})})
    timed = Job(spec, job.run, job.roots, job.columns, job.resolved, "f", "a-40-5", deadline=10.0)
    answers = iter([False, False, True])
    monkeypatch.setattr(Job, "late", lambda self: next(answers))
    units = [
        read_meta(unit)["unit"] for unit in read_and_prepare(pa.table({"work": [works[0].dump()]}), timed)
    ]
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
    first = Record.parse(run(job, [Work(span) for span in plan.spans], replica)[0])
    assert (first.rows, first.rejects) == (5, 2)
    source.write_text(good)
    works = retry_work(RunDir(job.run), plan, [first])
    message = replica(next(read_and_prepare(pa.table({"work": [works[0].dump()]}), job)))
    records = [json.loads(write_unit(message, job).column("record")[0].as_py()) for _ in range(2)]
    for record in records:
        assert (record["rows"], record["rejects"], record["flags"]) == (6, 1, ["retried"])
    assert records[0]["sha256"] == records[1]["sha256"]
    assert records[0]["tokens"] == 6 * first.tokens // 5
    rows = (
        pq.read_table(tmp_path / "run" / "data" / "a.jsonl.000000000000.parquet").column("_row").to_pylist()
    )
    assert rows == sorted(set(rows))
    assert len(list((tmp_path / "run" / "rejects").iterdir())) == 1


def test_a_retry_that_reaches_less_fails_whole(model: str, tmp_path: Path) -> None:
    """A file that reads worse than before fails the unit's retry and leaves its rejects alone."""
    job, works = job_of(model, tmp_path, 20, "a-20-7")
    again = Work(works[0].span, retry={"a.parquet": Again(frozenset({3, 99}))}, replaces="a")
    meta = read_meta(next(read_and_prepare(pa.table({"work": [again.dump()]}), job)))
    assert meta["kind"] == "StorageError"
    assert "row 99 can't be reached" in meta["error"]
