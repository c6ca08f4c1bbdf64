"""A listing takes each file once, says what it leaves out, and refuses what would be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from reading import corpus, texts, write

from embed_ops.analysis.survey import look
from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.listing import list_sources
from embed_ops.storage.listing import list_files
from embed_ops.storage.location import full_address, locate


def touch(folder: Path, *names: str) -> None:
    """Make files of one line."""
    for name in names:
        write(folder / name, f"{name}\n".encode())


def names_of(path: Path | str) -> list[str]:
    """List the text files of an address."""
    return [file.name for file in list_sources((str(path),), (".txt",)).files]


def left_out(path: Path | str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Tell what a listing of text files leaves out."""
    return {item.why: (item.files, item.names) for item in list_sources((str(path),), (".txt",)).left_out}


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    """Other endings, hidden names that look like data, links to nowhere, pipes."""
    touch(
        tmp_path, "a.txt", "b.txt.xz", "c", "d.XZ", "_e.txt", ".f/g.txt", "_SUCCESS", ".DS_Store", "x/h.txt"
    )
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    assert names_of(tmp_path) == ["a.txt", "x/h.txt"]
    assert left_out(tmp_path) == {
        "names that begin with . or _": (2, (".f/g.txt", "_e.txt")),
        "links that lead nowhere": (1, ("gone.txt",)),
        "neither files nor folders": (1, ("pipe.txt",)),
        "ending in .xz": (2, ("b.txt.xz", "d.XZ")),
        "without an ending": (1, ("c",)),
    }
    assert names_of(tmp_path / "_*.txt") == ["_e.txt"]
    assert names_of(tmp_path / ".f" / "*.txt") == ["g.txt"]


def test_a_folder_of_hidden_files_alone(tmp_path: Path) -> None:
    """It is not said to be empty."""
    touch(tmp_path, "_DSC0003.txt")
    with pytest.raises(SourceError, match=r"left out: 1 names that begin with \. or _, as _DSC0003\.txt"):
        names_of(tmp_path)


def test_each_file_of_a_loop_is_listed_once(tmp_path: Path) -> None:
    """Links back, two of them, each to the other's folder, and out of the root and back again."""
    touch(tmp_path, "in/a/x.txt", "in/b/y.txt", "in/c/z.txt", "out/o.txt")
    for link, target in (("a/l1", "../a"), ("a/l2", ".."), ("a/to_b", "../b"), ("b/to_a", "../a")):
        (tmp_path / "in" / link).symlink_to(target)
    (tmp_path / "in" / "ext").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to("self")
    assert names_of(tmp_path / "in") == ["a/x.txt", "b/y.txt", "c/z.txt", "ext/o.txt"]
    told = left_out(tmp_path / "in")
    assert told["links that lead nowhere"] == (1, ("self",))
    assert told["links back to a folder that they are in"][0] >= 4
    # A link that is in no loop is followed as before, and one to a file is a file.
    (tmp_path / "in" / "latest").symlink_to("c")
    (tmp_path / "in" / "one.txt").symlink_to("c/z.txt")
    assert names_of(tmp_path / "in") == [
        "a/x.txt",
        "b/y.txt",
        "c/z.txt",
        "ext/o.txt",
        "latest/z.txt",
        "one.txt",
    ]


def test_a_hidden_link_to_everything_is_not_followed(tmp_path: Path) -> None:
    """As those of wine to the whole disk."""
    touch(tmp_path, "in/a.txt", "in/.wine/b", "big/c.txt")
    (tmp_path / "in" / ".wine" / "z").symlink_to(tmp_path / "big")
    assert left_out(tmp_path / "in") == {}


def test_sizes_and_times_are_those_of_arrow(tmp_path: Path) -> None:
    """Runs know their files by them."""
    touch(tmp_path, "a.txt", "x/b.txt")
    by_arrow = pafs.LocalFileSystem().get_file_info(pafs.FileSelector(str(tmp_path), recursive=True))
    expected = {info.path: (info.size, info.mtime_ns) for info in by_arrow if info.type == pafs.FileType.File}
    assert {i.path: (i.size, i.mtime_ns) for i in list_files(str(tmp_path)).files} == expected


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """One that would be read is refused by name, any other is one of another kind."""
    touch(tmp_path, "a.txt")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md"))).write_bytes(b"x")
    assert left_out(tmp_path) == {"ending in .md": (1, ("caf\\xe9.md",))}
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"the name of caf\\xe9\.txt is not UTF-8; rename it"):
        names_of(tmp_path)
    assert names_of(tmp_path / "a*.txt") == ["a.txt"]
    with pytest.raises(SpecError, match="not UTF-8"):
        locate(os.fsdecode(b"caf\xe9"))
    with pytest.raises(SpecError, match="without ~"):
        full_address("~nobody-of-this-name/x")


@pytest.mark.parametrize(
    ("log", "name"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("metadata/00000-3f0c1f0e-aaaa.metadata.json", "Iceberg"),
        ("metadata/v12.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_tables_of_other_systems_are_refused(log: str, name: str, tmp_path: Path) -> None:
    """As a folder, a part of one, around one, by a glob; files that are named are taken."""
    import pyarrow as pa

    write(tmp_path / "t" / "data" / "p=1" / "x.parquet", pa.table({"text": ["a"]}))
    write(tmp_path / "t" / log, b"{}")
    for path in ("", "t", "t/data", "t/data/p=1", "t/**/*.parquet", "t/data/p=1/*.parquet"):
        with pytest.raises(SourceError, match=f"is a table of {name} "):
            corpus("parquet", tmp_path / path)
    assert texts(corpus("parquet", tmp_path / "t/data/p=1/x.parquet")) == ["a"]
    touch(tmp_path / "plain", "metadata/notes.json", "metadata/a.metadata.json")
    write(tmp_path / "plain" / "x.parquet", pa.table({"text": ["b"]}))
    assert texts(corpus("parquet", tmp_path / "plain")) == ["b"]


@pytest.mark.parametrize("name", ["run [v2]", "what?", "s*r", "[1]", "a[!b]c"])
def test_what_is_there_is_no_pattern(name: str, tmp_path: Path) -> None:
    """Folders and files of such names are taken as they are, alone or below a glob."""
    touch(tmp_path, f"{name}/{name}.txt", "other/b.txt", "1/c.txt")
    assert names_of(tmp_path / name) == [f"{name}.txt"]
    assert names_of(tmp_path / name / f"{name}.txt") == [f"{name}.txt"]
    assert names_of(tmp_path / name / "*.txt") == [f"{name}.txt"]
    assert names_of(tmp_path / "[o]ther" / "*.txt") == ["other/b.txt"]


def test_init_keeps_no_key_of_folders(tmp_path: Path) -> None:
    """Its spec is one that embeds."""
    import pyarrow as pa

    write(tmp_path / "lang=de" / "a.parquet", pa.table({"text": ["a b c"], "lang": ["de"], "id": [1]}))
    assert look(str(tmp_path)).keep == ("id",)
