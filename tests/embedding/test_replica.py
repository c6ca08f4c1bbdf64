"""A replica with two units in hand, as on a GPU: one at a time is on the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings

from embed_ops.embedding.forward import Batch
from embed_ops.embedding.job import Job
from embed_ops.embedding.replica import Replica, Turn
from embed_ops.embedding.settings import resolve
from embed_ops.embedding.steps import read_and_prepare
from embed_ops.embedding.unit import EmbeddedUnit, PreparedUnit
from embed_ops.runs.work import Work
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import locate


class Counting(Replica):
    """Counts the units that are on the device at once, and the batches of each."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.now = self.most = 0
        self.order: list[int] = []

    @contextmanager
    def take(self, turn: Turn) -> Iterator[None]:
        """Have the device."""
        with super().take(turn):
            self.now += 1
            self.most = max(self.most, self.now)
            yield
            self.now -= 1

    def before_batch(self, batch: Batch) -> None:
        """Note whose batch it is."""
        self.order.append(threading.get_ident())


@pytest.fixture
def job_and_units(tiny: str, tmp_path: Path) -> tuple[Job, list[PreparedUnit]]:
    """Prepare units of twenty docstrings."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": docstrings(160)}), tmp_path / "in" / "a.parquet")
    spec = Spec.parse(
        {
            "source": {"path": str(tmp_path / "in"), "column": "text"},
            "encoder": {"model": tiny},
            "sink": {"path": str(tmp_path / "run")},
            "resources": {"unit_rows": 20, "token_budget": 128},
        }
    )
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    job = Job(spec, locate(spec.sink.path), corpus.roots, plan.columns, resolve(spec), "f", "a-1-1")
    units = [unit for span in plan.spans for unit in read_and_prepare(job, Work(span))]
    assert len(units) == 8
    return job, [unit for unit in units if isinstance(unit, PreparedUnit)]


def test_two_units_in_hand(job_and_units: tuple[Job, list[PreparedUnit]]) -> None:
    """Batches of two units are never mixed, and vectors are those of one unit after the other."""
    job, units = job_and_units
    alone = Replica(job)
    expected = {unit.head.name: alone.embed(unit) for unit in units}
    replica = Counting(job)
    with ThreadPoolExecutor(2) as threads:
        embedded = list(threads.map(replica.embed, units))
    assert replica.most == 1
    for unit in embedded:
        assert isinstance(unit, EmbeddedUnit)
        other = expected[unit.head.name]
        assert isinstance(other, EmbeddedUnit)
        assert unit.vectors.equals(other.vectors)
        assert unit.forward.tokens == other.forward.tokens


def test_what_a_turn_measures(job_and_units: tuple[Job, list[PreparedUnit]]) -> None:
    """A CPU is busy all of its turn; what lies between two turns is idle, by cause."""
    job, units = job_and_units
    replica = Replica(job)
    first, second = (replica.embed(unit).forward for unit in units[:2])  # type: ignore[union-attr]
    assert first.busy == first.seconds > 0
    assert (first.idle_input, first.idle_output) == (0, 0)
    assert (first.device, first.device_memory) == ("cpu", 0)
    # All units were ready before: nothing was waited for.
    assert second.idle_input == 0
    assert second.idle_output >= 0
