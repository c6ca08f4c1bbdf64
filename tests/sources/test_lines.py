"""Laws of JSONL and plain text."""

from __future__ import annotations

import bz2
import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import PACKINGS, compress, corpus, rows, table, texts, write

from embed_ops.errors import SourceError
from embed_ops.sources import base, lines, streams

packings = pytest.mark.parametrize("packing", PACKINGS)


def jsonl(*records: Any) -> bytes:
    """Write one JSON line a record."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@packings
def test_text_positions_are_byte_offsets(packing: str, tmp_path: Path) -> None:
    """Every line is a row at its offset in the decompressed bytes, an empty one too."""
    write(tmp_path / f"a.txt{packing}", "one\n\ntwö\r\nlast".encode())
    assert rows(corpus("text", tmp_path)) == [
        (0, "one", None),
        (4, "", None),
        (5, "twö", None),
        (11, "last", None),
    ]


@packings
def test_jsonl_positions_are_byte_offsets(packing: str, tmp_path: Path) -> None:
    """Every line that is not blank is a row at its offset in the decompressed bytes."""
    write(tmp_path / f"a.jsonl{packing}", b'\n{"text": "a"}\r\n  \n\r\n{"text": "b"}\n\n{"text": "c"}')
    assert rows(corpus("jsonl", tmp_path)) == [(1, "a", None), (21, "b", None), (36, "c", None)]


@packings
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_byte_order_mark_is_no_text(kind: str, packing: str, tmp_path: Path) -> None:
    """The mark is stripped; the first line still begins at 0.

    So that reading from there finds it.
    """
    content = b"\xef\xbb\xbf" + (b"a\nb\n" if kind == "text" else b'{"text": "a"}\n{"text": "b"}\n')
    write(tmp_path / f"a.{'txt' if kind == 'text' else 'jsonl'}{packing}", content)
    assert rows(corpus(kind, tmp_path)) == [
        (0, "a", None),
        (len(content) // 2 + 2 if kind == "text" else 17, "b", None),
    ]


@packings
@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n"])
def test_a_jsonl_file_without_records_has_no_rows(content: bytes, packing: str, tmp_path: Path) -> None:
    """An empty or blank file beside another one costs nothing."""
    write(tmp_path / f"a.jsonl{packing}", content)
    write(tmp_path / "b.jsonl", jsonl({"text": "x"}))
    assert rows(corpus("jsonl", tmp_path)) == [(0, "x", None)]


@packings
def test_an_empty_text_file_has_no_rows(packing: str, tmp_path: Path) -> None:
    """No byte, no line; one newline, one empty line."""
    write(tmp_path / f"a.txt{packing}", b"")
    write(tmp_path / f"b.txt{packing}", b"\n")
    assert rows(corpus("text", tmp_path)) == [(0, "", None)]


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{not json", "malformed"),
    (b"[1, 2]", "malformed"),
    (b"null", "malformed"),
    (b'"text"', "malformed"),
    (b'{"text": "a"} x', "malformed"),
    (b'{"text": "a\x00"}', "malformed"),
    (b'{"text": ' + b"1" * 5000 + b"}", "malformed"),
    (b'{"text": ' + b"[" * 100_000 + b"}", "malformed"),
    (b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}", "wrong_type"),
    (b'{"text": "caf\xe9"}', "invalid_utf8"),
    (b'{"text": "\\ud800"}', "invalid_utf8"),
    (b'{"text": 7}', "wrong_type"),
    (b'{"text": true}', "wrong_type"),
    (b'{"text": {"a": 1}}', "wrong_type"),
    (b'{"text": "x", "n": "seven"}', "wrong_type"),
    (b'{"text": "x", "n": true}', "wrong_type"),
    (b'{"text": "x", "n": 1.5}', "wrong_type"),
    (b'{"text": "x", "n": 9223372036854775808}', "wrong_type"),
    (b'{"text": "x", "n": ' + b"[" * 900 + b"]" * 900 + b"}", "wrong_type"),
    (b'{"text": "x", "s": "\\udfff"}', "invalid_utf8"),
    (b'{"text": "x", "s": 5}', "wrong_type"),
]


@pytest.mark.parametrize(
    ("line", "reason"), BAD_LINES, ids=[f"{reason}-{line[:22]!r}" for line, reason in BAD_LINES]
)
def test_a_bad_line_costs_itself(line: bytes, reason: str, tmp_path: Path) -> None:
    """A bad line is one reject at its place, and its neighbours are read."""
    good = b'{"text": "good", "n": 1, "s": "t"}\n'
    write(tmp_path / "a.jsonl", good * 3 + line + b"\n" + good)
    found = rows(corpus("jsonl", tmp_path, keep=["n", "s"], types={"n": "int64"}))
    start = 3 * len(good)
    assert found[3] == (start, None, reason)
    assert [row[1] for row in found] == ["good"] * 3 + [None, "good"]
    assert found[4][0] == start + len(line) + 1


def test_nesting_too_deep_to_be_written_costs_itself(tmp_path: Path) -> None:
    """Whatever can be parsed but not written again is a reject of its row.

    No depth breaks the file.
    """
    deep = [b'{"text": "x", "s": ' + b"[" * depth + b"]" * depth + b"}\n" for depth in range(900, 1000)]
    write(tmp_path / "a.jsonl", b'{"text": "first", "s": "t"}\n' + b"".join(deep) + b'{"text": "last"}\n')
    found = rows(corpus("jsonl", tmp_path, keep=["s"]))
    assert len(found) == 102
    assert {reason for _, _, reason in found} <= {None, "malformed", "wrong_type"}
    assert found[-1][1] == "last"


def test_a_missing_key_is_null(tmp_path: Path) -> None:
    """A missing text is null, as JSON null is; a missing kept column is null and costs nothing."""
    write(tmp_path / "a.jsonl", jsonl({"text": "a", "n": 1}, {"n": 2}, {"text": None, "n": 3}, {"text": "b"}))
    found = table(corpus("jsonl", tmp_path, keep=["n"]))
    assert found.column("_content").to_pylist() == ["a", None, None, "b"]
    assert found.column("n").to_pylist() == [1, 2, 3, None]
    assert found.column("reason").null_count == 4


def test_a_field_that_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that the first records lack is there where its type is given, in every file."""
    monkeypatch.setattr(lines, "_SAMPLE_RECORDS", 2)
    late = b'{"text": "a"}\n{"text": "b"}\n{"text": "c", "late": 7}\n{"text": "d", "late": "x"}\n'
    write(tmp_path / "x.jsonl", late)
    write(tmp_path / "y.jsonl", b'{"text": "e"}\n')
    with pytest.raises(SourceError, match=r"no column 'late'; .* give its type: source\.types\.late"):
        corpus("jsonl", tmp_path, keep=["late"]).plan()
    typed = table(corpus("jsonl", tmp_path, keep=["late"], types={"late": "int64"}))
    assert typed.column("late").to_pylist() == [None, None, 7, None, None]
    assert typed.column("reason").to_pylist() == [None, None, None, "wrong_type", None]
    texts = table(corpus("jsonl", tmp_path, keep=["late"], types={"late": "string"}))
    assert texts.column("late").to_pylist() == [None, None, "7", "x", None]


def test_nul_characters_are_text(tmp_path: Path) -> None:
    """An escaped NUL in JSON and a NUL byte in text are characters like others."""
    write(tmp_path / "a.jsonl", b'{"text": "a\\u0000b"}\n')
    write(tmp_path / "a.txt", b"a\x00b\n")
    assert texts(corpus("jsonl", tmp_path)) == texts(corpus("text", tmp_path)) == ["a\0b"]


def test_a_dotted_column_is_a_field_inside(tmp_path: Path) -> None:
    """Text and kept columns are found inside objects; a key with a dot in its name comes first."""
    write(
        tmp_path / "a.jsonl",
        jsonl({"m": {"t": "x", "d": {"n": 1}}}, {"m": 3}, {"m.t": "key", "m": {"t": "no"}}),
    )
    found = table(corpus("jsonl", tmp_path, column="m.t", keep=["m.d.n"]))
    assert found.column("_content").to_pylist() == ["x", None, "key"]
    assert found.column("m.d.n").to_pylist() == [1, None, None]
    assert found.schema.field("m.d.n").type == pa.int64()


def test_nested_values_are_kept_as_json(tmp_path: Path) -> None:
    """A kept object or list becomes JSON text, with its characters as they are."""
    write(tmp_path / "a.jsonl", jsonl({"text": "a", "tags": ["é", 1]}, {"text": "b", "tags": {"k": None}}))
    assert table(corpus("jsonl", tmp_path, keep=["tags"])).column("tags").to_pylist() == [
        '["é", 1]',
        '{"k": null}',
    ]


def test_a_template_joins_columns(tmp_path: Path) -> None:
    """A template takes text as it is and other values as JSON; a null in it makes the text null."""
    write(tmp_path / "a.jsonl", jsonl({"t": "x", "n": 1, "l": ["é"]}, {"t": "y", "n": None, "l": []}))
    found = table(corpus("jsonl", tmp_path, template="{{{t}}} {n}: {l}"))
    assert found.column("_content").to_pylist() == ['{x} 1: ["é"]', None]


@pytest.mark.parametrize("name", ["message", "reason", "_content", "_source", "_row"])
def test_the_text_column_may_have_any_name(name: str, tmp_path: Path) -> None:
    """A source column that is named as one of ours is read like any other, and can be tested."""
    write(tmp_path / "a.jsonl", jsonl({name: "hello"}, {name: "bye"}, {name: 3}))
    assert rows(corpus("jsonl", tmp_path, column=name, where=f"\"{name}\" = 'hello'"))[0] == (
        0,
        "hello",
        None,
    )
    assert [row[2] for row in rows(corpus("jsonl", tmp_path, column=name))] == [None, None, "wrong_type"]


@packings
@pytest.mark.parametrize("kind", ["text", "jsonl"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_a_line_too_long_costs_itself(
    kind: str, ending: bytes, packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line above the limit is one reject.

    The next one is found behind it, wherever blocks end.
    """
    for module in (lines, streams):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 100)
    make = (lambda text: text) if kind == "text" else (lambda text: b'{"text": "' + text + b'"}')
    for block in (7, 64, 101, 1000):
        monkeypatch.setattr(streams, "BLOCK_BYTES", block)
        for size in (100, 101, 102, 300, 5000):
            filler = size - len(make(b""))
            content = make(b"a") + b"\n" + make(b"x" * filler) + ending
            behind = len(content)
            content += make(b"b") if ending else b""
            path = write(
                tmp_path / f"{block}-{size}" / f"a.{'txt' if kind == 'text' else 'jsonl'}{packing}", content
            )
            second = (
                (len(make(b"a")) + 1, None, "too_large")
                if size > 100
                else (len(make(b"a")) + 1, "x" * filler, None)
            )
            expected = [(0, "a", None), second] + ([(behind, "b", None)] if ending else [])
            assert rows(corpus(kind, path)) == expected


def test_a_carriage_return_where_a_long_line_is_cut_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of a long line stays too long, whatever its bytes are."""
    for module in (lines, streams):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 150)
    write(tmp_path / "a.txt", b"\r" * 1000 + b"\nb\n")
    assert rows(corpus("text", tmp_path)) == [(0, None, "too_large"), (1001, "b", None)]


def test_the_limit_of_a_line_is_64_mib() -> None:
    """The limit that the tests lower is the one that is documented."""
    assert lines.MAX_RECORD_BYTES == base.MAX_RECORD_BYTES == 64 << 20


@pytest.mark.parametrize("packing", PACKINGS[1:])
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_truncated_file_gives_all_that_can_be_decoded(kind: str, packing: str, tmp_path: Path) -> None:
    """Every whole line before the cut is a row; the rest is one file-level reject behind them."""
    good = [f"line {number} {number * 7919 % 1000}" for number in range(3000)]
    content = b"".join(text.encode() + b"\n" if kind == "text" else jsonl({"text": text}) for text in good)
    packed = compress(content, packing)
    for cut in (3, len(packed) // 2, len(packed) - 1):
        folder = tmp_path / str(cut)
        name = f"a.{'txt' if kind == 'text' else 'jsonl'}"
        write(folder / f"{name}{packing}.raw", packed[:cut]).rename(folder / f"{name}{packing}")
        write(folder / name.replace("a.", "b."), content[: content.index(b"\n") + 1])
        found = rows(corpus(kind, folder))
        read = [text for _, text, reason in found if reason is None]
        assert read == good[: len(read) - 1] + good[:1]
        assert [reason for _, _, reason in found if reason] == ["unreadable"]
        assert found[-2] == (
            sum(len(line) + 1 for line in content.split(b"\n")[: len(read) - 1]),
            None,
            "unreadable",
        )
        decoder = {".gz": zlib.decompressobj(31), ".bz2": bz2.BZ2Decompressor()}.get(packing)
        if decoder is not None:
            assert len(read) - 1 == decoder.decompress(packed[:cut]).count(b"\n")


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_a_lone_truncated_file_is_read(packing: str, tmp_path: Path) -> None:
    """The columns of a corpus are found although its only file breaks off early."""
    packed = compress(b"".join(jsonl({"text": f"line {number}"}) for number in range(20_000)), packing)
    (tmp_path / f"a.jsonl{packing}").write_bytes(packed[: len(packed) - 2])
    found = rows(corpus("jsonl", tmp_path))
    assert found[:400] == [(row, f"line {number}", None) for number, (row, _, _) in enumerate(found[:400])]
    assert [reason for _, _, reason in found[-1:]] == ["unreadable"]


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_damage_in_the_middle_is_one_file_level_reject(packing: str, tmp_path: Path) -> None:
    """Rows before damaged bytes are read as they were; the file ends in one reject."""
    good = [f"line {number * 7919 % 10_007} {number}" for number in range(60_000)]
    packed = bytearray(compress("\n".join(good).encode(), packing))
    middle = len(packed) // 2
    packed[middle : middle + len(packed) // 4] = b"\xff" * (len(packed) // 4)
    (tmp_path / f"a.txt{packing}").write_bytes(packed)
    found = rows(corpus("text", tmp_path))
    assert found[-1][2] == "unreadable"
    assert [row[2] for row in found[:-1] if row[2] not in (None, "invalid_utf8")] == []
    if packing == ".bz2":
        # Only bzip2 checks each block before it gives it.
        assert [text for _, text, _ in found[:-1]] == good[: len(found) - 1]


def test_a_corpus_without_a_readable_file_is_refused(tmp_path: Path) -> None:
    """Where no file can be read there are no columns: the message says why."""
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(SourceError, match="none of 1 files can be read"):
        corpus("jsonl", tmp_path).plan()


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.booleans(),
    st.sampled_from([1, 2, 3, 5, 64]),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_ranges_cut_anywhere_share_no_line_and_miss_none(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], final: bool, block: int, cuts: list[int]
) -> None:
    """Reading by byte ranges gives each line once, at the same place as reading at once."""
    whole = b"\n".join(content) + (b"\n" if final and content else b"")
    path = write(tmp_path_factory.mktemp("cut") / "a.txt", whole)
    at = corpus("text", path).place(corpus("text", path).files[0])
    ends = sorted({cut for cut in cuts if 0 < cut < len(whole)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        by_range: list[tuple[int, bytes]] = []
        for begin, end in zip([0, *ends], [*ends, None], strict=True):
            for found, offsets, _ in streams.read_lines(at, begin, end, lambda head: None):
                by_range += zip(offsets.tolist(), found, strict=True)
    expected, place = [], 0
    split = whole.split(b"\n")
    for number, line in enumerate(split):
        if number < len(split) - 1 or line:
            bare = line.removeprefix(b"\xef\xbb\xbf") if place == 0 else line
            expected.append((place, bare.removesuffix(b"\r")))
        place += len(line) + 1
    assert by_range == expected
