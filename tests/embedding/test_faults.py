"""Faults injected on purpose: each ends in a run that verifies, with the bytes of a quiet run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings
from fatal_model import POISON, FatalModel
from tiny_runs import contents, tiny_spec

from embed_ops import Run, Spec, embed
from embed_ops.embedding.driver import retry
from embed_ops.embedding.isolation import isolate
from embed_ops.embedding.job import Job
from embed_ops.embedding.settings import resolve
from embed_ops.embedding.unit import Written
from embed_ops.errors import EngineError, Stopped
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.record import ISOLATED
from embed_ops.runs.verify.run import verify
from embed_ops.runs.work import Work
from embed_ops.sources.corpus import Corpus
from embed_ops.storage.files import locate

pytestmark = pytest.mark.usefixtures("on")

ROWS = 60
POISONED = 27


@pytest.fixture
def fatal(tmp_path: Path) -> FatalModel:
    """Save a model that obeys orders."""
    return FatalModel(tmp_path)


def write_corpus(folder: Path, poisoned: tuple[int, ...] = (POISONED,), rows: int = ROWS) -> dict[str, Any]:
    """Write docstrings, some of them replaced by poison, in two files; gives the source."""
    texts = docstrings(rows)
    for row in poisoned:
        texts[row] = f"{POISON} {row}"
    folder.mkdir()
    for part, first in enumerate(range(0, rows, rows // 2)):
        share = texts[first : first + rows // 2]
        pq.write_table(
            pa.table({"text": share, "id": range(first, first + len(share))}), folder / f"{part}.parquet"
        )
    return {"path": str(folder), "column": "text", "keep": ["id"]}


def fatal_spec(fatal: FatalModel, source: dict[str, Any], run: Path, **fields: Any) -> Spec:
    """Make a spec that runs the model's own code, in units of ten rows."""
    given = {
        "encoder__trust_remote_code": True,
        "resources__unit_rows": 10,
        "max_reject_fraction": 1.0,
    } | fields
    return tiny_spec(str(fatal.path), source, run, **given)


def quiet(fatal: FatalModel, source: dict[str, Any], run: Path, **fields: Any) -> Run:
    """Embed without any order."""
    fatal.obey_nothing()
    return embed(fatal_spec(fatal, source, run, **fields))


def expect_all_but(run: Run, straight: Run, poisoned: tuple[int, ...], reason: str) -> None:
    """Hold a run against a quiet one.

    It verifies, the poisoned rows are rejects, all else has the same bits.
    """
    assert verify(run.path, source=True).differences == []
    rejects = run.rejects().to_table().to_pylist()
    assert {row["id"]: row["reason"] for row in rejects} == dict.fromkeys(poisoned, reason)
    whole = straight.open().to_table().sort_by("id")
    left = run.open().to_table().sort_by("id")
    assert left.equals(
        whole.filter(pa.array([row not in poisoned for row in whole.column("id").to_pylist()]))
    )
    units = {name: content for name, content in contents(Path(straight.path)).items()}
    mine = contents(Path(run.path))
    same = [name for name in units if mine.get(name) == units[name]]
    assert len(same) >= len(units) - len(poisoned), "a unit without poison has other bytes"


@pytest.mark.slow
def test_a_row_that_kills(fatal: FatalModel, tmp_path: Path) -> None:
    """A row on which native code dies each time becomes a reject `crashed`.

    Everything else is embedded and keeps its bits.
    """
    source = write_corpus(tmp_path / "corpus")
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order("SIGSEGV")
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    expect_all_but(run, straight, (POISONED,), "crashed")
    # A unit that waited for the replica when it died may be lost with it.
    assert run.report["isolated"] >= 1
    assert run.report["rejected"] == 1
    assert run.report["replica_deaths"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "exit"])
def test_rows_that_kill(how: str, fatal: FatalModel, tmp_path: Path) -> None:
    """Several such rows are found, whatever way the process goes.

    Two of them are in one unit, and one is the first of the corpus.
    """
    poisoned = (0, 23, 27, 45)
    source = write_corpus(tmp_path / "corpus", poisoned)
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order(how)
    run = embed(fatal_spec(fatal, source, tmp_path / "run", resources__replicas=2))
    expect_all_but(run, straight, poisoned, "crashed")
    again = embed(fatal_spec(fatal, source, tmp_path / "again"))
    assert contents(Path(again.path)) == contents(Path(run.path)), "isolation is not deterministic"


@pytest.mark.slow
def test_a_row_that_hangs(fatal: FatalModel, tmp_path: Path) -> None:
    """A row whose forward pass never ends becomes a reject `hung`."""
    source = write_corpus(tmp_path / "corpus")
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order("hang")
    run = embed(fatal_spec(fatal, source, tmp_path / "run", resources__hang_seconds=20))
    expect_all_but(run, straight, (POISONED,), "hung")


@pytest.mark.slow
def test_isolation_of_a_row_that_hangs(fatal: FatalModel, tmp_path: Path) -> None:
    """The last step of the same, without the replicas that hang before it.

    The row is `hung`, the others of its unit are embedded.
    """
    source = write_corpus(tmp_path / "corpus", (3,), rows=8)
    fields = {"resources__unit_rows": 4, "resources__hang_seconds": 5, "resources__token_budget": 1}
    spec = fatal_spec(fatal, source, tmp_path / "run", **fields)
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    job = Job(spec, locate(spec.sink.path), corpus.roots, plan.columns, resolve(spec), "f", new_attempt())
    fatal.order("hang")
    outcomes = [outcome for span in plan.spans for outcome in isolate(job, Work(span))]
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Written)]
    assert [(record.rows, record.rejects, record.flags) for record in records] == [
        (3, 1, (ISOLATED,)),
        (4, 0, (ISOLATED,)),
    ]
    rejects = pq.read_table(tmp_path / "run" / "rejects" / str(records[0].reject_file)).to_pylist()
    assert [(row["id"], row["reason"]) for row in rejects] == [(3, "hung")]


def test_a_worker_that_hangs_ends_itself() -> None:
    """It does so from native code, and says what it was doing."""
    code = "import time; from embed_ops.engine.guard import call_guarded; call_guarded(0.5, time.sleep, 600)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "call_guarded" in done.stderr


@pytest.mark.slow
def test_a_row_that_kills_the_tokenizer(fatal: FatalModel, tmp_path: Path) -> None:
    """A row on which the reading worker dies is found as well.

    The units behind it are embedded.
    """
    source = write_corpus(tmp_path / "corpus")
    fatal.let_the_tokenizer_kill()
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order()
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert verify(run.path, source=True).differences == []
    assert {row["id"]: row["reason"] for row in run.rejects().to_table().to_pylist()} == {POISONED: "crashed"}
    # The row is a reject before batches are formed: the others of its unit meet other batches, and
    # are held to law 4.
    assert run.open().count_rows() == straight.open().count_rows() - 1


@pytest.mark.slow
def test_poison_among_the_compared_rows(fatal: FatalModel, tmp_path: Path) -> None:
    """Where the comparison with the reference dies on its rows, others are compared.

    Isolation deals with the row.
    """
    source = write_corpus(tmp_path / "corpus", (3,))
    straight = quiet(fatal, source, tmp_path / "straight", parity={"rows": 16})
    fatal.order("exit")
    run = embed(fatal_spec(fatal, source, tmp_path / "run", parity={"rows": 16}))
    expect_all_but(run, straight, (3,), "crashed")
    assert run.report["parity"][0]["rows"] == 16


@pytest.mark.slow
def test_retry_of_a_row_that_killed(
    fatal: FatalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry of a crashed row dies on it again and leaves the run as it was.

    Once the cause is mended it comes back.
    """
    monkeypatch.setenv("EMBED_OPS_TRUST_REMOTE_CODE", "1")
    source = write_corpus(tmp_path / "corpus")
    fatal.order("exit")
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    before = contents(Path(run.path))
    assert retry(run.path).report["rejected"] == 1
    assert contents(Path(run.path)) == before
    fatal.obey_nothing()
    assert retry(run.path).report["rejected"] == 0
    assert verify(run.path, source=True).differences == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "lost"])
def test_replicas_that_die_now_and_then(how: str, fatal: FatalModel, tmp_path: Path) -> None:
    """A replica that dies once, while it loads or at a unit, costs nothing but time.

    After an error behind which each further call of a GPU fails too ("lost"), it leaves by itself.
    """
    source = write_corpus(tmp_path / "corpus", ())
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order(how, times=1, everywhere=True)
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert contents(Path(run.path)) == contents(Path(straight.path))
    assert run.report["replica_deaths"] == 1
    assert verify(run.path, source=True).differences == []


@pytest.mark.slow
@pytest.mark.parametrize(("times", "loading"), [(1, True), (2, True), (3, False)])
def test_replicas_that_die_more_often(times: int, loading: bool, fatal: FatalModel, tmp_path: Path) -> None:
    """The same more often, and while the model loads."""
    source = write_corpus(tmp_path / "corpus", ())
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order("SIGKILL", times=times, everywhere=True, loading=loading)
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert contents(Path(run.path)) == contents(Path(straight.path))
    assert verify(run.path, source=True).differences == []


def test_every_unit_fails(fatal: FatalModel, tmp_path: Path) -> None:
    """Where every unit fails, the job says so after a few of them, with the first cause.

    It does not go on for a night.
    """
    source = write_corpus(tmp_path / "corpus", (), rows=200)
    fatal.order("raise", everywhere=True)
    with pytest.raises(
        Stopped, match=r"10 units failed and none came through, the first .* this model can't"
    ):
        embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert Run(str(tmp_path / "run")).status == "stopped"


@pytest.mark.slow
def test_every_unit_kills(on: str, fatal: FatalModel, tmp_path: Path) -> None:
    """Where replicas die on whatever they are given, the job ends with the cause.

    It resumes when that is mended.
    """
    source = write_corpus(tmp_path / "corpus", (), rows=200)
    straight = quiet(fatal, source, tmp_path / "straight")
    fatal.order("exit", everywhere=True)
    words = {
        "local": "none came through.*every row that was tried ends its worker process",
        "ray": r"replicas died \d+ times and no unit came through; the first: Actor",
    }
    with pytest.raises((EngineError, Stopped), match=words[on]):
        embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert Run(str(tmp_path / "run")).status == "stopped"
    fatal.obey_nothing()
    run = embed(fatal_spec(fatal, source, tmp_path / "run"))
    assert contents(Path(run.path)) == contents(Path(straight.path))


@pytest.mark.slow
def test_a_model_that_never_loads(on: str, fatal: FatalModel, tmp_path: Path) -> None:
    """A model whose loading kills its process ends the job with the reason.

    Not with an empty success.
    """
    source = write_corpus(tmp_path / "corpus", ())
    fatal.order("SIGSEGV", loading=True)
    words = {"local": "killed by SIGSEGV at this step: loading the model", "ray": "died"}
    with pytest.raises((EngineError, Stopped), match=words[on]):
        embed(fatal_spec(fatal, source, tmp_path / "run"))
    with pytest.raises(
        EngineError, match=r"comparing the first rows: a worker process (died|was killed by SIGSEGV)"
    ):
        embed(fatal_spec(fatal, source, tmp_path / "compared", parity={"rows": 4}))
    assert not (tmp_path / "compared").exists()
