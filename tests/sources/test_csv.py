"""Laws of CSV and TSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import PACKINGS, compress, corpus, rows, table, texts, units, write

from embed_ops.errors import SourceError
from embed_ops.sources import csv as csv_source
from embed_ops.sources.plan import Plan

packings = pytest.mark.parametrize("packing", PACKINGS)


@packings
def test_positions_are_record_indexes(packing: str, tmp_path: Path) -> None:
    """Records are counted behind the header; blank lines are none, quoted newlines end none."""
    content = 'id,text\r\n1,one\r\n\r\n2,"two\r\nlines, and ""quotes"""\r\n3,\n4,"last"'
    write(tmp_path / f"a.csv{packing}", content.encode())
    assert rows(corpus("csv", tmp_path)) == [
        (0, "one", None),
        (1, 'two\r\nlines, and "quotes"', None),
        (2, "", None),
        (3, "last", None),
    ]


@packings
def test_a_byte_order_mark_is_no_name(packing: str, tmp_path: Path) -> None:
    """The mark is no part of the first column's name."""
    write(tmp_path / f"a.csv{packing}", b"\xef\xbb\xbftext,id\nx,1\n")
    assert rows(corpus("csv", tmp_path)) == [(0, "x", None)]


@packings
@pytest.mark.parametrize("content", [b"", b"\n\n", b"text,id", b"text,id\r\n"])
def test_a_file_without_records_has_no_rows(content: bytes, packing: str, tmp_path: Path) -> None:
    """An empty file and a lone header cost nothing beside another file."""
    write(tmp_path / f"a.csv{packing}", content)
    write(tmp_path / "b.csv", b"id,text\n1,x\n")
    assert rows(corpus("csv", tmp_path)) == [(0, "x", None)]


@pytest.mark.parametrize(
    ("name", "delimiter", "given_delimiter"),
    [("a.tsv", "\t", None), ("a.TAB", "\t", None), ("a.csv", ";", ";")],
)
def test_the_delimiter_is_the_names_or_the_specs(
    name: str, delimiter: str, given_delimiter: str | None, tmp_path: Path
) -> None:
    """TSV is known by its name; any other delimiter is given."""
    write(tmp_path / name, f"id{delimiter}text\n1{delimiter}a, b\n".encode())
    assert texts(corpus("csv", tmp_path, delimiter=given_delimiter)) == ["a, b"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1", "malformed"),
        (b"1,x,2", "malformed"),
        (b"1,caf\xe9", "invalid_utf8"),
        (b"x,text", "wrong_type"),
        (b"1.5,text", "wrong_type"),
        (b"9223372036854775808,text", "wrong_type"),
    ],
)
def test_a_bad_record_costs_itself(record: bytes, reason: str, tmp_path: Path) -> None:
    """A ragged, badly encoded or badly typed record is one reject at its place."""
    write(tmp_path / "a.csv", b"n,text\n1,a\n" + record + b"\n2,b\n")
    assert rows(corpus("csv", tmp_path, keep=["n"], types={"n": "int64"})) == [
        (0, "a", None),
        (1, None, reason),
        (2, "b", None),
    ]


def test_an_empty_number_is_null(tmp_path: Path) -> None:
    """An empty field of a typed column has no value; of a string column, the empty one."""
    write(tmp_path / "a.csv", b"n,s,text\n,,a\n2,x,b\n")
    found = table(corpus("csv", tmp_path, keep=["n", "s"], types={"n": "int64"}))
    assert found.select(["n", "s", "_content"]).to_pylist() == [
        {"n": None, "s": "", "_content": "a"},
        {"n": 2, "s": "x", "_content": "b"},
    ]


@packings
def test_a_quote_never_closed_is_a_file_level_reject(packing: str, tmp_path: Path) -> None:
    """What an open quote swallows is never embedded as one text.

    The file ends there in one reject.
    """
    write(tmp_path / f"a.csv{packing}", b'id,text\n1,a\n2,"open\n3,c\n4,d\n')
    assert rows(corpus("csv", tmp_path)) == [(0, "a", None), (1, None, "unreadable")]


def test_a_field_too_long_is_a_file_level_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a field above the limit nothing is read.

    Whether it was inside quotes can't be told.
    """
    monkeypatch.setattr(csv_source, "MAX_RECORD_BYTES", 100)
    write(tmp_path / "a.csv", b"text\na\n" + b"x" * 101 + b"\nb\n")
    assert rows(corpus("csv", tmp_path)) == [(0, "a", None), (1, None, "unreadable")]


def test_nul_is_text(tmp_path: Path) -> None:
    """A NUL byte is a character like others."""
    write(tmp_path / "a.csv", b"text\na\x00b\n")
    assert texts(corpus("csv", tmp_path)) == ["a\0b"]


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    """Which one is meant can't be told; a second name for another column does no harm."""
    write(tmp_path / "a.csv", b"text,n,n\na,1,2\n")
    assert texts(corpus("csv", tmp_path)) == ["a"]
    with pytest.raises(SourceError, match=r"a\.csv: column 'n' is there twice"):
        corpus("csv", tmp_path, keep=["n"]).plan()
    write(tmp_path / "b.csv", b"text,text,n\na,b,2\n")
    assert rows(corpus("csv", tmp_path))[-1] == (0, None, "unreadable")


def test_a_later_file_without_the_column_is_a_file_level_reject(tmp_path: Path) -> None:
    """Headers of later files are met on reading; columns are found by name, in any order."""
    write(tmp_path / "a.csv", b"id,text\n1,a\n")
    write(tmp_path / "b.csv", b"id,body\n1,b\n")
    write(tmp_path / "c.csv", b"text,id\nc,1\n")
    assert rows(corpus("csv", tmp_path)) == [(0, "a", None), (0, None, "unreadable"), (0, "c", None)]


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_a_truncated_file_gives_its_whole_records(packing: str, tmp_path: Path) -> None:
    """Records before the cut are rows, the rest is one file-level reject."""
    good = [f"line {number * 7919 % 10_007}" for number in range(20_000)]
    packed = compress(
        b"text,id\n" + b"".join(f"{text},{number}\n".encode() for number, text in enumerate(good)), packing
    )
    (tmp_path / f"a.csv{packing}").write_bytes(packed[: len(packed) - 1])
    found = rows(corpus("csv", tmp_path))
    assert len(found) > 5000
    assert found == [(number, good[number], None) for number in range(len(found) - 1)] + [
        (len(found) - 1, None, "unreadable")
    ]


@given(
    st.lists(st.text(max_size=6), max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 7),
    st.integers(0, 40),
)
def test_whatever_python_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: list[str], ending: str, unit_rows: int, skip: int
) -> None:
    """Any text comes back, in units of any size, and the rest of the units alone too."""
    text = io.StringIO()
    # Where lines end in \n, Python leaves a lone \r bare, and no reader takes that for text.
    bare = ending == "\n" and any("\r" in value for value in written)
    quoting = csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator=ending, quoting=quoting)
    writer.writerows([["id", "text"], *([number, value] for number, value in enumerate(written))])
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", text.getvalue().encode("utf-8", "surrogatepass"))
    found = corpus("csv", path)
    plan: Plan = found.plan()
    all_units = units(found, plan, rows=unit_rows)
    read = pa.concat_tables([unit.table for unit in all_units])
    assert read.column("_content").to_pylist() == written
    assert read.column("_row").to_pylist() == list(range(len(written)))
    done = {unit.name: unit.end for unit in all_units[:skip]}
    assert [unit.name for unit in units(found, plan, rows=unit_rows, done=done)] == [
        unit.name for unit in all_units[skip:]
    ]
