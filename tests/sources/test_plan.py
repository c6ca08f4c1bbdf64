"""Laws of the plan: what is listed, what is kept, and what a later run finds changed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import corpus, texts, units, write

from embed_ops.errors import RunError, SourceError, SpecError, StorageError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.plan_table import plan_table
from embed_ops.sources import plan as plan_module
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.lines import JsonLinesSource
from embed_ops.sources.listing import inspect_files
from embed_ops.sources.plan import (
    UNIT_TEXT_BYTES,
    Limits,
    Piece,
    Sharing,
    SourceFile,
    Span,
    changes_between,
    estimated_units,
)
from embed_ops.storage.files import Location, list_files, locate, publish, read_bytes, remove, walk


def listed(address: Path | str) -> list[str]:
    """List the files of an address, below its root."""
    listing = list_files(str(address))
    return [listing.inside(info) for info in listing.files]


def touch(folder: Path, *names: str) -> None:
    """Make files of one line."""
    for name in names:
        write(folder / name, f"{name}\n".encode())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.txt", "b.csv", "x/a.txt", "x/y/c.txt", "x2/a.txt"]),
        ("/*", ["a.txt", "b.csv"]),
        ("/*.txt", ["a.txt"]),
        ("/**/*.txt", ["a.txt", "x/a.txt", "x/y/c.txt", "x2/a.txt"]),
        ("/x/**", ["a.txt", "y/c.txt"]),
        ("/x*/a.txt", ["x/a.txt", "x2/a.txt"]),
        ("/x?/a.txt", ["x2/a.txt"]),
        ("/[ab].*", ["a.txt", "b.csv"]),
        ("/x/a.txt", ["a.txt"]),
        ("/", ["a.txt", "b.csv", "x/a.txt", "x/y/c.txt", "x2/a.txt"]),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_an_address_lists_its_files_in_order(
    pattern: str, names: list[str], remote: bool, tmp_path: Path
) -> None:
    """A folder, a glob or a file is listed folder by folder; hidden parts are left out.

    Any file system serves.
    """
    made = [
        "a.txt",
        "b.csv",
        "x/a.txt",
        "x/y/c.txt",
        "x2/a.txt",
        ".hidden.txt",
        "_SUCCESS",
        "x/_tmp/a.txt",
        ".git/b.txt",
    ]
    if remote:
        base = f"memory://{uuid.uuid4().hex}"
        for name in made:
            fsspec.filesystem("memory").pipe(f"{base.removeprefix('memory:/')}/{name}", b"")
    else:
        base = str(tmp_path)
        touch(tmp_path, *made)
    assert listed(f"{base}{pattern}") == names
    if not remote:
        assert listed(f"file://{base}{pattern}") == names


def test_a_relative_glob_begins_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob without a folder is looked up in the working directory."""
    touch(tmp_path, "a.txt", "b.txt", "x/c.txt")
    monkeypatch.chdir(tmp_path)
    assert listed("*.txt") == ["a.txt", "b.txt"]
    assert listed("x/*.txt") == ["c.txt"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing path, a folder without a match and an unknown scheme are told apart.

    The message counts what is there.
    """
    touch(tmp_path, "a.txt", "b.txt", "c.md", "LICENSE")
    with pytest.raises(SourceError, match="nothing there"):
        corpus("text", tmp_path / "nope")
    with pytest.raises(
        SourceError, match=r"no file ends in .*\.parquet.*; found 4 files \(2 txt, 1 md, 1 no extension\)"
    ):
        corpus("parquet", tmp_path)
    with pytest.raises(SourceError, match=r"no file matches; \*, \? and \[ stand for"):
        corpus("text", tmp_path / "*.zip")
    with pytest.raises(SpecError, match="no file system for nope://"):
        corpus("text", "nope://x")


def test_a_lone_file_of_another_kind_is_no_corpus(tmp_path: Path) -> None:
    """A folder's files are chosen by their endings, also where there is one only.

    A file that is named is taken.
    """
    touch(tmp_path, "README")
    with pytest.raises(SourceError, match="found 1 files"):
        corpus("text", tmp_path)
    assert texts(corpus("text", tmp_path / "README")) == ["README"]
    assert texts(corpus("text", tmp_path / "READ*")) == ["README"]


def test_a_list_of_paths_is_read_in_its_order(tmp_path: Path) -> None:
    """Roots come in the order given, whatever they are."""
    touch(tmp_path, "b/1.txt", "a/2.txt", "3.txt")
    paths = (str(tmp_path / "b"), str(tmp_path / "*.txt"), str(tmp_path / "a" / "2.txt"))
    assert texts(corpus("text", paths)) == ["b/1.txt", "3.txt", "a/2.txt"]


@pytest.mark.parametrize("roots", [1, 2])
def test_a_plan_survives_its_table(roots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan read back is the plan written.

    Files, spans, columns, with positions that are known and those that are not.
    """
    monkeypatch.setattr(JsonLinesSource, "sharing", Sharing(30, 1 << 20, 100))
    for root in range(roots):
        write(tmp_path / f"{root}" / "k=ü v" / "a.jsonl", b'{"text": "a", "n": 1}\n' * 5)
        write(tmp_path / f"{root}" / "b.jsonl.gz", b'{"text": "a", "n": 1}\n')
        write(tmp_path / f"{root}" / "c.jsonl", b'{"text": "a"}\n')
    found = corpus("jsonl", tuple(str(tmp_path / f"{root}") for root in range(roots)), keep=["n"])
    plan = found.plan()
    assert {piece.end for span in plan.spans for piece in span.pieces} >= {None, 110}
    run = RunDir.at(str(tmp_path / "run"))
    run.write_plan(plan, "a-1-1")
    assert run.read_plan() == plan
    table = plan_table(plan)
    assert table.num_rows == sum(len(span.pieces) for span in plan.spans)
    if roots == 2:
        with pytest.raises(RunError, match="only 1 are given"):
            corpus("jsonl", str(tmp_path / "0"), keep=["n"]).update(run.read_plan())


def test_an_unreadable_plan_is_named(tmp_path: Path) -> None:
    """No plan, and a plan that is damaged, are RunErrors."""
    run = RunDir.at(str(tmp_path))
    with pytest.raises(RunError, match=r"has no plan\.parquet"):
        run.read_plan()
    (tmp_path / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"plan\.parquet: can't be read"):
        run.read_plan()


def test_estimates_follow_rows_or_bytes() -> None:
    """A span is guessed to have as many units as its rows or its bytes need, at least one."""
    assert estimated_units(Span(0, (Piece("a", 0, 0, 0, 0),)), Limits(10, UNIT_TEXT_BYTES)) == 1
    assert (
        estimated_units(
            Span(0, (Piece("a", 0, 25, 25, 0), Piece("b", 0, 6, 6, 0))), Limits(10, UNIT_TEXT_BYTES)
        )
        == 4
    )
    assert (
        estimated_units(Span(0, (Piece("a", 0, None, None, (8 << 20) + 1),)), Limits(10, UNIT_TEXT_BYTES))
        == 3
    )


def test_layouts_come_in_the_order_of_the_files() -> None:
    """Files are inspected at once, and answered in order."""
    files = [SourceFile(str(number), 0, number, 0) for number in range(100)]
    layouts = inspect_files(
        files, lambda file: plan_module.Layout((Piece(file.name, 0, None, None, file.size),))
    )
    assert [layout.pieces[0].source for layout in layouts] == [file.name for file in files]


def test_every_change_of_a_file_is_found(tmp_path: Path) -> None:
    """Grown, shortened, rewritten, removed and new files are told apart.

    What did not change is not named.
    """
    touch(tmp_path, "same.txt", "grown.txt", "short.txt", "again.txt", "gone.txt")
    plan = corpus("text", tmp_path).plan()
    (tmp_path / "grown.txt").write_bytes(b"grown.txt\nx\n")
    (tmp_path / "short.txt").write_bytes(b"s\n")
    os.utime(tmp_path / "again.txt", ns=(1, 1))
    (tmp_path / "gone.txt").unlink()
    touch(tmp_path, "new.txt")
    changes = changes_between(plan, corpus("text", tmp_path).files)
    assert changes.new == ("new.txt",)
    assert changes.changed == {
        "again.txt": "rewritten (same size, another time of change)",
        "gone.txt": "removed",
        "grown.txt": "grown from 10 to 12 bytes",
        "short.txt": "shortened from 10 to 2 bytes",
    }
    with pytest.raises(
        RunError, match=r"4 source files are not what this run planned: .*gone\.txt: removed.*re-embed"
    ):
        corpus("text", tmp_path).update(plan)


def test_nothing_changed_is_the_same_plan(tmp_path: Path) -> None:
    """Without a change the plan stays as it is."""
    touch(tmp_path, "a.txt")
    plan = corpus("text", tmp_path).plan()
    assert corpus("text", tmp_path).update(plan) == (plan, ())


def test_a_new_file_makes_new_spans_only(tmp_path: Path) -> None:
    """New files are added behind.

    Every span that was planned is left as it was, in the same folder too.
    """
    touch(tmp_path, "b.txt", "c.txt")
    plan = corpus("text", tmp_path).plan()
    touch(tmp_path, "a.txt", "x/d.txt")
    updated, stale = corpus("text", tmp_path).update(plan)
    assert stale == ()
    assert updated.spans[:1] == plan.spans
    assert [[piece.source for piece in span.pieces] for span in updated.spans[1:]] == [["a.txt"], ["x/d.txt"]]
    assert len({span.index for span in updated.spans}) == 3
    assert texts(corpus("text", tmp_path), plan=updated) == ["b.txt", "c.txt", "a.txt", "x/d.txt"]


def test_re_embedding_drops_the_spans_that_changed(tmp_path: Path) -> None:
    """A changed file is planned again with those that share its span; other spans are left alone.

    A removed one is gone.
    """
    touch(tmp_path, "x/a.txt", "x/b.txt", "y/c.txt", "y/d.txt", "z/e.txt")
    plan = corpus("text", tmp_path).plan()
    (tmp_path / "x" / "b.txt").write_bytes(b"changed\n")
    (tmp_path / "y" / "d.txt").unlink()
    updated, stale = corpus("text", tmp_path, on_change="re-embed").update(plan)
    assert sorted(stale) == ["x/a.txt", "x/b.txt", "y/c.txt", "y/d.txt"]
    assert [span for span in updated.spans if span in plan.spans] == [plan.spans[2]]
    assert sorted(texts(corpus("text", tmp_path), plan=updated)) == [
        "changed",
        "x/a.txt",
        "y/c.txt",
        "z/e.txt",
    ]
    assert {file.name for file in updated.files} == {"x/a.txt", "x/b.txt", "y/c.txt", "z/e.txt"}


def test_with_a_limit_new_files_stay_out(tmp_path: Path) -> None:
    """The first rows of a corpus do not move when a file is added; a change plans them again."""
    touch(tmp_path, "b.txt", "c.txt")
    plan = corpus("text", tmp_path, limit=1).plan()
    touch(tmp_path, "a.txt")
    assert corpus("text", tmp_path, limit=1).update(plan) == (plan, ())
    (tmp_path / "b.txt").write_bytes(b"other\n")
    updated, stale = corpus("text", tmp_path, limit=1, on_change="re-embed").update(plan)
    assert stale == ("b.txt",)
    assert texts(corpus("text", tmp_path), plan=updated) == ["a.txt"]


def memory(name: str = "") -> str:
    """Name a place in memory that no other test has."""
    return f"memory://{uuid.uuid4().hex}{name}"


def test_a_remote_corpus_is_read() -> None:
    """Files of an fsspec file system are listed, planned and read like local ones."""
    base = memory()
    storage = fsspec.filesystem("memory")
    storage.pipe(f"/{base.partition('//')[2]}/x=1/a.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["p"]}), sink)
    storage.pipe(f"/{base.partition('//')[2]}/b.parquet", sink.getvalue().to_pybytes())
    found = corpus("jsonl", base)
    assert found.files[0].name == "x=1/a.jsonl"
    assert [len(unit.table) for unit in units(found, rows=1)] == [1, 1]
    assert texts(corpus("parquet", f"{base}/*.parquet")) == ["p"]


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_published_is_read_back(remote: bool, tmp_path: Path) -> None:
    """A file appears whole, below new folders, and replaces one of its name.

    Walking finds it with its size.
    """
    root = locate(memory("/run") if remote else str(tmp_path / "run"))
    assert list(walk(root, "data")) == []
    assert read_bytes(root.child("data/x")) is None
    publish(root, "data/k=ü v/a.b", b"one", "a-1-1")
    publish(root, "data/k=ü v/a.b", pa.py_buffer(b"three"), "a-1-1")
    publish(root, "data/c", b"", "a-1-1")
    assert sorted(walk(root, "data")) == [("c", 0), ("k=ü v/a.b", 5)]
    assert read_bytes(root.child("data/k=ü v/a.b")) == b"three"
    remove(root.child("data/c"))
    remove(root.child("data/c"))
    assert sorted(walk(root, "data")) == [("k=ü v/a.b", 5)]
    assert list(walk(root, "tmp")) == []


def test_failing_to_publish_is_named_and_leaves_what_was(tmp_path: Path) -> None:
    """A file that can't be written is a StorageError; the earlier one stays."""
    root = Location(locate(str(tmp_path)).fs, str(tmp_path))
    publish(root, "a", b"old", "a-1-1")
    (tmp_path / "tmp" / "b-2-2").write_bytes(b"a file where the attempt's folder should be")
    with pytest.raises(StorageError, match=r"a: can't be written.*run the same command again"):
        publish(root, "a", b"new", "b-2-2")
    assert read_bytes(root.child("a")) == b"old"


def test_an_open_corpus_knows_its_places(tmp_path: Path) -> None:
    """`place` leads to the file that a name stands for."""
    touch(tmp_path, "x/a.txt")
    found = Corpus.open(corpus("text", tmp_path).spec)
    assert Path(found.place(found.files[0]).path) == tmp_path / "x" / "a.txt"
