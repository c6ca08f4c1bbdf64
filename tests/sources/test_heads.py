"""A file of another encoding or shape than its kind is one fault of the file, not one a line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from pathlib import Path

import pytest
from reading import corpus, rows, table, texts, write

from embed_ops.errors import SourceError
from embed_ops.sources import base, csv, streams

LINES = b"".join(json.dumps({"id": number, "text": f"row {number}"}).encode() + b"\n" for number in range(5))
CHINESE = ('{"id": 1, "text": "' + "\u4e2d\u6587" * 40 + '"}\n').encode("utf-16-le")

FOREIGN = [
    ("utf-16 with a mark", LINES.decode().encode("utf-16"), "UTF-16"),
    ("utf-16-be with a mark", b"\xfe\xff" + LINES.decode().encode("utf-16-be"), "UTF-16"),
    ("utf-16 without one", LINES.decode().encode("utf-16-le"), "UTF-16"),
    ("utf-16 of Chinese", CHINESE, "UTF-16"),
    ("utf-32", LINES.decode().encode("utf-32"), "UTF-32"),
    ("zeros", bytes(4096), "NUL"),
    ("an array", json.dumps([{"text": "a"}] * 9).encode(), "JSON array"),
    ("a longer array than the head", json.dumps([{"text": "a" * 99}] * 2000).encode(), "JSON array"),
    ("an array of a line each", b'[\n{"text": "a"},\n{"text": "b"}\n]\n', "JSON array"),
    ("an array with commas first", b'[{"text": "a"}\n,{"text": "b"}\n]\n', "JSON array"),
    ("an array, indented", json.dumps([{"text": "a"}], indent=2).encode(), "JSON array"),
    (
        "an object, indented",
        json.dumps({"text": "a", "x": [1]}, indent=2).encode(),
        "JSON over several lines",
    ),
    ("Parquet", b"PAR1\x15\x04\xff\xfe" + bytes(range(256)), "a Parquet file"),
    ("gzip", gzip.compress(LINES), "compressed by gzip"),
    ("xz", lzma.compress(LINES), "compressed by xz"),
]


@pytest.mark.parametrize(("name", "content", "told"), FOREIGN, ids=[case[0] for case in FOREIGN])
def test_a_foreign_file_is_one_fault(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    """Alone it is refused before the start; beside others it is one reject of the file."""
    write(tmp_path / "a.jsonl", content)
    with pytest.raises(SourceError, match=rf"a\.jsonl: the file is .*{told}|a\.jsonl: .*{told}"):
        corpus("jsonl", tmp_path).plan()
    write(tmp_path / "b.jsonl", LINES)
    read = rows(corpus("jsonl", tmp_path))
    assert [reason for _, _, reason in read] == ["unreadable", *[None] * 5]
    if not name.startswith("utf") and "JSON" not in told:
        write(tmp_path / "c" / "c.csv", content)
        with pytest.raises(SourceError, match=told):
            corpus("csv", tmp_path / "c").plan()


@pytest.mark.parametrize(
    "first",
    [
        b"[INFO] up",
        b"[1, 2]",
        b'[{"text": 1}]',
        b"[",
        b"{",
        b"PAR1",
        b"BZh!",
        b"a\x00b",
        b'{"text": "a", "x": [',
    ],
)
def test_a_bad_first_line_costs_itself(first: bytes, tmp_path: Path) -> None:
    """Lines that are whole objects behind it are read."""
    write(tmp_path / "a.jsonl", first + b"\n" + LINES)
    assert [reason for _, _, reason in rows(corpus("jsonl", tmp_path))] == ["malformed", *[None] * 5]


def test_every_piece_of_a_foreign_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that begin in the middle look at the head too."""
    monkeypatch.setattr(streams, "SPAN_BYTES", 100)
    write(tmp_path / "a.jsonl", json.dumps([{"text": "a"}] * 20).encode())
    write(tmp_path / "b.jsonl", LINES)
    read = table(corpus("jsonl", tmp_path))
    of_a = [
        reason
        for name, reason in zip(*(read.column(c).to_pylist() for c in ("_source", "reason")), strict=True)
        if name == "a.jsonl"
    ]
    assert len(of_a) > 1
    assert set(of_a) == {"unreadable"}


def test_a_header_of_another_encoding(tmp_path: Path) -> None:
    """Columns of plain letters are read; that the others can't be asked for is said."""
    write(tmp_path / "a.csv", "id,text,größe\n1,hello,3\n2,ä,4\n".encode("latin-1"))
    assert rows(corpus("csv", tmp_path)) == [(0, "hello", None), (1, None, "invalid_utf8")]
    with pytest.raises(SourceError, match=r"no column 'größe'.*the header is not UTF-8"):
        corpus("csv", tmp_path, column="größe").plan()


def test_half_a_character_in_a_key_that_nobody_asked_for(tmp_path: Path) -> None:
    """It stops nothing, and costs no row."""
    write(
        tmp_path / "a.jsonl",
        b'{"text": "a", "\\ud83d": 1}\n{"text": "b", "m": {"\\udcb2": 1}}\n{"text": "c"}\n',
    )
    assert texts(corpus("jsonl", tmp_path)) == ["a", "b", "c"]
    assert table(corpus("jsonl", tmp_path, keep=["m"])).column("reason").to_pylist() == [
        None,
        "invalid_utf8",
        None,
    ]


@pytest.mark.parametrize("depth", [500, 100_000])
def test_values_nested_deeply(depth: int, tmp_path: Path) -> None:
    """They cost their row at most, kept or as words."""
    deep = b"[" * depth + b"]" * depth
    write(tmp_path / "a.jsonl", b'{"text": ["a"], "m": 1}\n{"text": ' + deep + b', "m": ' + deep + b"}\n")
    read = table(corpus("jsonl", tmp_path, modality="words", keep=["m"]))
    assert read.column("reason").to_pylist() in ([None, "wrong_type"], [None, "malformed"])


@pytest.mark.parametrize("zeros", [1, 3, 512, 3 << 20])
@pytest.mark.parametrize("packing", ["gz", "bz2"])
def test_zeros_behind_the_last_member_are_no_data(packing: str, zeros: int, tmp_path: Path) -> None:
    """As gzip and bzip2 read it, also behind several members and where the last bytes are zeros."""
    pack = gzip.compress if packing == "gz" else bz2.compress
    (tmp_path / f"a.jsonl.{packing}").write_bytes(pack(LINES) + pack(LINES) + bytes(zeros))
    assert [reason for _, _, reason in rows(corpus("jsonl", tmp_path))] == [None] * 10
    (tmp_path / f"b.jsonl.{packing}").write_bytes(pack(LINES) + bytes(zeros) + b"x")
    assert [reason for _, _, reason in rows(corpus("jsonl", tmp_path))] == [None] * 15 + ["unreadable"]


def test_a_record_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes unpack to more than a reader may hold: the file is cut off there, not read in."""
    for module in (base, csv, streams):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1 << 20)
    endings = {"line": b"2,", "quoted": b'2,"'}
    for name, last in endings.items():
        packed = zlib.compressobj(9, wbits=31)
        content = [
            packed.compress(b"id,text\n1,ok\n" + last),
            packed.compress(b"a" * (8 << 20)),
            packed.flush(),
        ]
        write(tmp_path / name / "a.csv.gz", b"").write_bytes(b"".join(content))
        read = table(corpus("csv", tmp_path / name))
        assert read.column("_content").to_pylist() == ["ok", None]
        assert read.column("reason").to_pylist() == [None, "unreadable"]
        assert "a record is longer than" in read.column("message")[1].as_py()
