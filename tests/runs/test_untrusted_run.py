"""A run directory that somebody else has made: no command writes or deletes outside of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import DIGEST, corpus_of, make, spec_of
from inline import open_inline
from made_run import make_run, mixture

from embed_ops import Run, Spec, embed, neighbors, postprocess, retry
from embed_ops.analysis.evaluate import save
from embed_ops.commands.evaluate import probe_folder
from embed_ops.errors import EmbedOpsError, RunError, SpecError
from embed_ops.runs.directory import FOLDERS, RunDir
from embed_ops.runs.models import load_model
from embed_ops.runs.parquet import encode, read_footer
from embed_ops.runs.record import REJECTS, Record
from embed_ops.runs.rows import RunRows
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage
from embed_ops.stages.classify import LinearProbe
from embed_ops.storage.files import create, locate, publish, remove, remove_folder

PRECIOUS = "somebody else's work"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Make a folder with files that no command may touch, one of them named like a reject file."""
    folder = tmp_path / "elsewhere"
    for name in ("notes.txt", "x.000000000000.01234567.parquet", "a=1/y.000000000000.parquet", "h-1-1/z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(PRECIOUS)
    return folder


def untouched(folder: Path) -> bool:
    """Tell whether the folder holds its files and no others."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files) == 4 and all(path.read_text() == PRECIOUS for path in files)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Describe a job over a table of word vectors, with a reject."""
    (tmp_path / "table.txt").write_text("red 1 0\nblue 0 1\ngreen 1 1\n")
    (tmp_path / "in").mkdir()
    for name in ("x", "y"):
        lines = ['{"text": "red blue"}', '{"text": null}', '{"text": "green"}']
        (tmp_path / "in" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return Spec.parse(
        {
            "source": {"kind": "jsonl", "path": str(tmp_path / "in"), "column": "text"},
            "encoder": {"family": "static", "model": str(tmp_path / "table.txt")},
            "sink": {"path": str(tmp_path / "run")},
            "parity": {"rows": 0},
            "resources": {"unit_rows": 2},
        }
    )


def manifest_of(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record of a manifest."""
    for part in (run / "manifest").iterdir():
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            change(row)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), part)


@pytest.mark.parametrize("state", ["new", "finished"])
def test_a_folder_that_is_a_link(state: str, spec: Spec, elsewhere: Path, tmp_path: Path) -> None:
    """`embed` refuses a run one of whose folders leads out of it, before it writes anything."""
    run = tmp_path / "run"
    run.mkdir()
    if state == "finished":
        embed(spec, session=open_inline)
    for folder in (*FOLDERS, "tmp"):
        if (run / folder).exists():
            (run / folder).rename(tmp_path / "aside")
        (run / folder).symlink_to(elsewhere)
        with pytest.raises(RunError, match=f"/{folder}/any: a link between it and .* leads to .*elsewhere"):
            embed(spec, session=open_inline)
        (run / folder).unlink()
        if (tmp_path / "aside").exists():
            (tmp_path / "aside").rename(run / folder)
    assert untouched(elsewhere)


def test_a_link_deeper_down(spec: Spec, elsewhere: Path, tmp_path: Path) -> None:
    """A partition that is a link is not written through; a link that stays inside is fine."""
    run = tmp_path / "run"
    (tmp_path / "in" / "a=1").mkdir()
    (tmp_path / "in" / "x.jsonl").rename(tmp_path / "in" / "a=1" / "x.jsonl")
    (run / "data").mkdir(parents=True)
    (run / "data" / "a=1").symlink_to(elsewhere / "a=1")
    with pytest.raises(EmbedOpsError):
        embed(spec, session=open_inline)
    assert untouched(elsewhere)
    shutil.rmtree(run)
    (run / "rejects").mkdir(parents=True)
    (run / "real").mkdir()
    (run / "data").symlink_to("real")
    linked = tmp_path / "by another name"
    linked.symlink_to(run)
    done = embed(
        spec.model_copy(update={"sink": spec.sink.model_copy(update={"path": str(linked)})}),
        session=open_inline,
    )
    assert verify(done.path).differences == []


def test_storage_stays_below_its_folder(elsewhere: Path, tmp_path: Path) -> None:
    """Nothing is written or deleted through a link; a file that is a link itself is replaced."""
    (tmp_path / "run").mkdir()
    root = locate(str(tmp_path / "run"))
    (tmp_path / "run" / "work").symlink_to(elsewhere)
    (tmp_path / "run" / "file").symlink_to(elsewhere / "notes.txt")
    acts: list[Callable[[], object]] = [
        lambda: publish(root, "work/notes.txt", b"x", "a-1-1"),
        lambda: create(root.child("work/new"), b"x"),
        lambda: remove(root.child("work/notes.txt")),
        lambda: remove(root.child("work").child("notes.txt")),
        lambda: remove_folder(root, "work"),
    ]
    for act in acts:
        with pytest.raises(RunError, match="a link between"):
            act()
    publish(root, "file", b"new", "a-1-1")
    (tmp_path / "run" / "gone").symlink_to(elsewhere / "notes.txt")
    remove(root.child("gone"))
    assert (tmp_path / "run" / "file").read_bytes() == b"new"
    assert untouched(elsewhere)
    for name in ("../elsewhere/notes.txt", "data/../../elsewhere/notes.txt", ".."):
        with pytest.raises(SpecError, match="leads out"):
            root.child(name)
    assert root.child("a..b/..c").path.endswith("run/a..b/..c")


def test_a_reject_file_elsewhere(spec: Spec, elsewhere: Path, tmp_path: Path) -> None:
    """A manifest that names a file which is not its unit's own is refused."""
    embed(spec, session=open_inline)
    changed = spec.model_copy(update={"source": spec.source.model_copy(update={"on_change": "re-embed"})})
    (tmp_path / "in" / "x.jsonl").write_text('{"text": "blue"}\n')
    for name in ("../../elsewhere/notes.txt", "/etc/passwd", "x", "a=1/../../../x", ""):
        manifest_of(tmp_path / "run", lambda row, name=name: row.update(reject_file=name))  # type: ignore[misc]
        with pytest.raises(RunError, match=r"not named after its unit|leads out"):
            embed(changed, session=open_inline)
    assert untouched(elsewhere)


@pytest.mark.parametrize("what", ["unit", "range", "plan"])
def test_names_that_lead_out(what: str, elsewhere: Path, tmp_path: Path) -> None:
    """Units and source files that lead out of their folder are refused, whoever reads them."""
    run = tmp_path / "run"
    make(spec_of(corpus_of(tmp_path / "in"), run))
    evil = "../../elsewhere/notes"
    if what == "unit":
        manifest_of(run, lambda row: row.update(unit=f"{evil}.000000000000", reject_file=None))
    elif what == "range":
        manifest_of(run, lambda row: row["ranges"][0].update(source=evil))
    else:
        table = pq.read_table(run / "plan.parquet")
        place = table.schema.get_field_index("source")
        evil_table = table.set_column(place, "source", pa.array([evil] * len(table)))
        pq.write_table(evil_table.replace_schema_metadata(table.schema.metadata), run / "plan.parquet")
    for command in (lambda: RunRows(locate(str(run))), lambda: verify(str(run))):
        with pytest.raises(RunError, match="leads out of its folder"):
            command()
    with pytest.raises(RunError, match="leads out of its folder"):
        postprocess(str(run), [parse_stage({"kind": "normalize"})], session=open_inline)
    assert not (run / "stages").exists()
    assert untouched(elsewhere)


def test_a_footer_that_names_a_foreign_reject_file(elsewhere: Path, tmp_path: Path) -> None:
    """A unit is computed again whose lost record names another's reject file in its footer."""
    run = tmp_path / "run"
    _, _, records = make(spec_of(corpus_of(tmp_path / "in"), run))
    file = next(iter(sorted((run / "data").rglob("*.parquet"))))
    footer = read_footer(pq.read_metadata(file))
    for name in ("../../elsewhere/notes.txt", 7, {"a": 1}, "", "other.000000000000.01234567.parquet"):
        table = pq.ParquetFile(file).read()
        file.write_bytes(encode(table, footer | {"reject_file": name}))
        shutil.rmtree(run / "manifest")
        known, broken = RunDir.at(str(run)).load_records(DIGEST, "b-2-2")
        assert broken == [footer["unit"]]
        assert len(known) == len(records) - 1
    assert untouched(elsewhere)


def test_only_names_of_our_own_are_deleted(tmp_path: Path) -> None:
    """What lies in a run's folders under another name stays there."""
    run, _, records = make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    folder = tmp_path / "run" / REJECTS
    kept = [folder / "notes.txt", folder / "a=1" / "backup.parquet", folder / "x.0123.parquet"]
    left_over = folder / "x.jsonl.000000000000.01234567.parquet"
    for file in (*kept, left_over):
        file.write_text(PRECIOUS)
    own = tmp_path / "run" / "data" / "a=1" / "x.jsonl.backup.parquet"
    own.write_text(PRECIOUS)
    run.remove_unnamed_rejects(records.values())
    run.remove_stale(frozenset({"a=1/x.jsonl"}), {}, "a-1-1")
    assert all(file.exists() for file in (*kept, own))
    assert not left_over.exists()
    assert [path.name for path in (tmp_path / "run" / "data" / "a=1").iterdir()] == [own.name]


@pytest.mark.parametrize("way", ["itself", "each other", "a link"])
def test_a_run_that_is_its_own_ancestor(way: str, tmp_path: Path) -> None:
    """A lineage that comes back to itself ends with a sentence."""
    make_run(str(tmp_path / "run"), [20], mixture(4, 2))
    postprocess(str(tmp_path / "run"), [parse_stage({"kind": "normalize"})], session=open_inline)
    stage = tmp_path / "run" / "stages" / "normalize"
    tree = json.loads((stage / "run.json").read_text())
    tree["parent"] = {"itself": str(stage), "each other": "../..", "a link": "../loop/normalize"}[way]
    if way == "each other":
        parent = json.loads((tmp_path / "run" / "run.json").read_text())
        (tmp_path / "run" / "run.json").write_text(json.dumps(parent | {"parent": str(stage)}))
    if way == "a link":
        (stage.parent / "loop").symlink_to(stage.parent)
    (stage / "run.json").write_text(json.dumps(tree))
    with pytest.raises(RunError, match="ancestor of itself"):
        RunRows(locate(str(stage)))


def test_stages_that_are_a_link(elsewhere: Path, tmp_path: Path) -> None:
    """A stage, and a probe, are not written through a link that stands in a run."""
    run = tmp_path / "run"
    make_run(
        str(run),
        [60],
        mixture(4, 2),
        keep=lambda first, end: {"label": pa.array([i % 2 for i in range(first, end)])},
    )
    (run / "stages").symlink_to(elsewhere)
    with pytest.raises(RunError, match="a link between"):
        postprocess(str(run), [parse_stage({"kind": "normalize"})], session=open_inline)
    (run / "probes").symlink_to(elsewhere)
    with pytest.raises(RunError, match="a link between"):
        probe_folder(str(run), "label")
    assert untouched(elsewhere)


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("../../x", "..%2F..%2Fx"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("/etc", "%2Fetc"),
        ("a%2Fb", "a%252Fb"),
        ("a\nb\x1b", "a%0Ab%1B"),
        ("class", "class"),
        ("größe 2", "größe 2"),
    ],
)
def test_a_label_is_a_name_of_a_folder(label: str, folder: str, tmp_path: Path) -> None:
    """A probe lies below `probes/`, whatever its column is called."""
    place = probe_folder(str(tmp_path / "run"), label)
    assert place == f"{tmp_path}/run/probes/{folder}"
    assert Path(os.path.normpath(place)).parent == tmp_path / "run" / "probes"


def test_a_probe_of_a_hostile_label(tmp_path: Path) -> None:
    """Such a probe can be written and read, and lies where it should."""
    zeros = np.zeros((2, 4))
    probe = LinearProbe(("0", "1"), zeros[0], zeros[0] + 1, zeros, zeros[:, 0], 9, "../../x")
    place = probe_folder(str(tmp_path / "run"), "../../x")
    save(place, probe, {})
    assert load_model(place).label == "../../x"
    assert [path.name for path in (tmp_path / "run" / "probes").iterdir()] == ["..%2F..%2Fx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_record_of_before_is_still_read(spec: Spec, tmp_path: Path) -> None:
    """The checks do not refuse what embed-ops writes itself: names with dots, blanks, two roots."""
    for folder in ("a..b", "c d"):
        (tmp_path / "in" / folder).mkdir()
        shutil.copy(tmp_path / "in" / "x.jsonl", tmp_path / "in" / folder / "x.. .jsonl")
    done = embed(spec, session=open_inline)
    records: dict[str, Record] = Run(done.path).records()
    assert "a..b/x.. .jsonl.000000000000" in records
    assert verify(done.path).differences == []
    assert replace(next(iter(records.values()))).reject_file is not None


def test_code_of_a_model_is_not_run_on_a_runs_word(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`neighbors` and `retry` load no model with code of its own because `run.json` says so."""
    embed(spec, session=open_inline)
    header = tmp_path / "run" / "run.json"
    tree = json.loads(header.read_text())
    tree["spec"]["encoder"]["trust_remote_code"] = True
    header.write_text(json.dumps(tree))
    for act in (lambda: neighbors(str(tmp_path / "run"), ["red"]), lambda: retry(str(tmp_path / "run"))):
        with pytest.raises(RunError, match="EMBED_OPS_TRUST_REMOTE_CODE=1"):
            act()
    monkeypatch.setenv("EMBED_OPS_TRUST_REMOTE_CODE", "1")
    assert neighbors(str(tmp_path / "run"), ["red"], 4, session=open_inline).ids.shape == (1, 4)
