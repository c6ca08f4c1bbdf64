"""Columns that name files of images: fetched once, a few at a time, and a bad one costs itself.

They lead no further than they may.
"""

from __future__ import annotations

import base64
import json
import os
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import images, rows, table, units, write

from embed_ops.errors import SpecError
from embed_ops.sources import references
from embed_ops.sources import rows as rows_module
from embed_ops.sources.reach import Reach, shown
from embed_ops.spec.source import ParquetSourceSpec
from embed_ops.storage.files import Location, locate


def reach(folder: Path, **fields: Any) -> Reach:
    """Say where the references of `x.parquet` in a folder may lead."""
    spec = ParquetSourceSpec(path=str(folder), column="image", modality="image", **fields)
    return Reach(spec, "x.parquet", locate(str(folder / "x.parquet")))


def test_columns_that_name_files(tmp_path: Path) -> None:
    """Paths beside the table, absolute ones and URIs are fetched.

    Those that are not there are rejects that name them.
    """
    write(tmp_path / "in/pictures/a b.jpg", b"A")
    absolute = write(tmp_path / "elsewhere.png", b"B")
    write(tmp_path / "in/empty.png", b"")
    names = [
        "pictures/a b.jpg",
        str(absolute),
        (tmp_path / "in/pictures/a b.jpg").as_uri(),
        None,
        "missing.jpg",
        "empty.png",
        "pictures",
        "no-such://x/y.jpg",
    ]
    found_there = [b"A", b"B", b"A", None, None, b"", None, None]
    reasons = [None, None, None, None, "missing", None, "missing", "missing"]
    wanted = list(zip(range(8), found_there, reasons, strict=True))
    write(tmp_path / "in/x.parquet", pa.table({"image": names}))
    found = images(tmp_path / "in", "parquet", column="image", outside_root=True)
    assert rows(found) == wanted
    message = table(found).column("message").to_pylist()
    assert message[4] == "missing.jpg: there is no such file"
    write(
        tmp_path / "lines/x.jsonl", "\n".join(json.dumps({"image": str(absolute)}) for _ in range(3)).encode()
    )
    lines = images(tmp_path / "lines", "jsonl", column="image", outside_root=True)
    assert [value for _, value, _ in rows(lines)] == [b"B"] * 3


def test_structs_of_bytes_and_path(tmp_path: Path) -> None:
    """Hugging Face's struct: the bytes win, a path alone is fetched."""
    write(tmp_path / "p.jpg", b"P")
    values = [
        {"bytes": b"1", "path": "p.jpg"},
        {"bytes": None, "path": "p.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    values.append({"bytes": b"", "path": "x"})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    write(tmp_path / "x.parquet", pa.table({"image": pa.array(values, kind)}))
    assert [value for _, value, _ in rows(images(tmp_path, "parquet", column="image"))] == [
        b"1",
        b"P",
        None,
        None,
        b"",
    ]
    nested = pa.table({"row": pa.array([{"image": value} for value in values], pa.struct({"image": kind}))})
    write(tmp_path / "nested/x.parquet", nested)
    assert (
        next(value for _, value, _ in rows(images(tmp_path / "nested", "parquet", column="row.image")))
        == b"1"
    )


def test_only_wanted_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of rows that `where` leaves out are not asked for.

    Each of the others is asked for its size once, and for its content once.
    """
    for number in range(10):
        write(tmp_path / f"{number}.jpg", bytes([number]))
    write(
        tmp_path / "x.parquet",
        pa.table({"image": [f"{number}.jpg" for number in range(10)] + ["gone.jpg"], "n": range(11)}),
    )
    asked: list[tuple[str, str]] = []

    def counted(act: Any) -> Any:
        def call(at: Location) -> Any:
            asked.append((act.__name__, at.path.rpartition("/")[2]))
            return act(at)

        return call

    for act in (references.file_info, references.read_bytes):
        monkeypatch.setattr(references, act.__name__, counted(act))
    found = images(tmp_path, "parquet", column="image", where="n < 10 AND n % 2 = 0")
    assert [value for _, value, _ in rows(found)] == [bytes([number]) for number in range(0, 10, 2)]
    assert sorted(asked) == sorted(
        (act, f"{number}.jpg") for act in ("file_info", "read_bytes") for number in range(0, 10, 2)
    )


def test_fetched_files_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    """Portions hold no more bytes than they may, but for a single file that has more.

    None outlives the fetching of the next one.
    """
    sizes = [20, 20, 20, 3, 5, 70, 1, 0, 20, 20, 20, 20]
    for number, size in enumerate(sizes):
        with (tmp_path / f"{number}.jpg").open("wb") as file:
            file.truncate(size << 20)
    column = pa.chunked_array([[*(f"{number}.jpg" for number in range(len(sizes))), None, "gone.jpg"]])
    wanted = np.ones(len(sizes) + 2, np.bool_)
    held: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        found = references.fetch(column, wanted, reach(tmp_path), 48 << 20)
        held += map(
            lambda part: (
                part[0],
                sum(len(content) for content in part[1] if isinstance(content, bytes)) >> 20,
            ),
            found,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The file of 70 MiB is too large for anything, and was not read.
    assert held == [(0, 40), (2, 48 - 19), (8, 40), (10, 40)]
    assert peak < 52 << 20


def test_one_file_may_be_larger_than_a_portion(tmp_path: Path) -> None:
    """A file of more bytes than a portion may have is one of its own; no rows are one portion."""
    for number, size in enumerate([1, 9, 1, 1]):
        write(tmp_path / f"{number}.jpg", bytes(size))
    column, given = pa.chunked_array([[f"{number}.jpg" for number in range(4)]]), reach(tmp_path)
    assert [first for first, _ in references.fetch(column, np.ones(4, np.bool_), given, 2)] == [0, 1, 2]
    assert list(references.fetch(column[:0], np.ones(0, np.bool_), given, 2)) == [(0, [])]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_portions_change_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few files are held, units are the same, wherever reading begins.

    They are cut by rows and bytes alone.
    """
    random = np.random.default_rng(0)
    names: list[str | None] = [f"{number}.jpg" for number in range(150)]
    for name in names[:140]:
        write(tmp_path / str(name), random.bytes(int(random.integers(0, 3000))))
    names[7::31] = [None] * len(names[7::31])
    numbers = list(range(150))
    if kind == "parquet":
        write(tmp_path / "x.parquet", pa.table({"image": names, "n": numbers}))
    else:
        lines = [
            json.dumps({"image": name, "n": number}) for name, number in zip(names, numbers, strict=True)
        ]
        # More than a block of blank lines gives records of no row.
        write(tmp_path / "x.jsonl.gz", "\n".join([*lines, *[" " * 4000] * 600]).encode())
    found = images(tmp_path, kind, column="image", keep=["n"], where="n % 5 != 3")
    plan = found.plan()

    def read(held: int, done: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        monkeypatch.setattr(rows_module, "HELD_BYTES", held)
        parts = units(found, plan, rows=16, text=20_000, done=done)
        return [(unit.name, unit.end, unit.ranges, unit.filtered, unit.table.to_pylist()) for unit in parts]

    wanted = read(1 << 40)
    assert len(wanted) > 8
    assert [row["_content"] is not None for unit in wanted for row in unit[4]].count(True) > 100
    for held in (1, 2000, 5000, 60_000):
        assert read(held) == wanted
        assert read(held, {unit[0]: unit[1] for unit in wanted[::3]}) == [
            unit for place, unit in enumerate(wanted) if place % 3
        ]
        assert read(held, {unit[0]: unit[1] for unit in wanted[:-1]}) == wanted[-1:]


def test_files_too_large_to_fetch(tmp_path: Path) -> None:
    """A named file that is too large is a reject."""
    write(tmp_path / "1.jpg", b"abcd")
    write(tmp_path / "x.parquet", pa.table({"image": ["1.jpg"]}))
    found = images(tmp_path, "parquet", column="image", fetch_bytes=3)
    assert [reason for _, _, reason in rows(found)] == ["too_large"]


PICTURE = b"\xff\xd8\xff" + bytes(range(200))
"""Sources look no further than at the beginning."""


def fetched(folder: Path, references_: list[str | None], **fields: Any) -> list[tuple[Any, str | None]]:
    """Read what references beside `x.parquet` hold: bytes and reasons."""
    write(folder / "x.parquet", pa.table({"image": pa.array(references_, pa.string())}))
    return [
        (value, reason)
        for _, value, reason in rows(images(folder / "x.parquet", "parquet", column="image", **fields))
    ]


def messages(folder: Path, references_: list[str | None], **fields: Any) -> list[str]:
    """Read what is said of references that can't be had."""
    write(folder / "x.parquet", pa.table({"image": pa.array(references_, pa.string())}))
    found = table(images(folder / "x.parquet", "parquet", column="image", **fields))
    return [str(message) for message in found.column("message").to_pylist()]


def test_odd_references(tmp_path: Path) -> None:
    """Whatever a row holds instead of a reference is a reject of it, and short to read."""
    write(tmp_path / "here.jpg", b"H")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    odd: list[str | None] = [
        *("nul\0byte.jpg", "\0", "x" * 300 + ".jpg", "x" * 5000, "a/" * 3000 + "b.jpg", "here.jpg/below.jpg"),
        *("", " ", ".", "..", "/", "here.jpg\n", "~/a.jpg", "C:\\photos\\a.jpg", "pipe.jpg", "loop.jpg"),
        *("foo://bucket/a.jpg", "s3:/typo/a.jpg", "://", "http://", "http:///a.jpg", "HTTP://[::1/a.jpg"),
        *("http://" + "h" * 300 + "/a.jpg", "file://elsewhere/here.jpg", "file://", "FILE:///here.jpg"),
        *("simplecache::file:///etc/passwd", "zip://a.jpg::http://127.0.0.1/x.zip", "\x1b[31mred.jpg"),
        *(
            "http://127.0.0.1:99999/a.jpg",
            "http://a b/c.jpg",
            "http://ex\r\nample/a.jpg",
            "%00.jpg",
            "\ud7ff",
        ),
    ]
    for fields in ({}, {"schemes": ["file", "http", "foo"]}):
        found = fetched(tmp_path, [*odd, "here.jpg"], **fields)
        assert found[-1] == (b"H", None)
        assert {reason for _, reason in found[:-1]} == {"missing"}
        said = messages(tmp_path, odd, **fields)
        assert max(map(len, said)) < 600
        assert not any(sign in "".join(said) for sign in "\0\x1b\n\r")


def test_messages_do_not_sign(tmp_path: Path) -> None:
    """What signs an address, or names a user, stays out of messages."""
    address = "https://me:secret@127.0.0.1/a.jpg?X-Amz-Signature=abc"
    (said,) = messages(tmp_path, [address], schemes=["https"])
    assert said.startswith("https://127.0.0.1/a.jpg: leads into a network of its own (127.0.0.1)")
    assert shown("x" * 1000) == "x" * 200 + "... (1000 characters)"


def test_files_in_the_row(tmp_path: Path) -> None:
    """A `data:` address and bare base64 of an image are decoded, as transformers decodes them."""
    encoded = base64.b64encode(PICTURE).decode()
    urlsafe = base64.urlsafe_b64encode(PICTURE).decode().rstrip("=")
    lines = "\n".join(encoded[place : place + 60] for place in range(0, len(encoded), 60))
    same = [
        *(f"data:image/jpeg;base64,{encoded}", f"DATA:;BASE64,{encoded}", encoded, urlsafe, lines),
        f"data:image/jpeg;base64,{quote(encoded, safe='')}",
        f"data:image/jpeg,{quote(PICTURE)}",
    ]
    assert fetched(tmp_path, [*same]) == [(PICTURE, None)] * len(same)
    large = "data:image/jpeg;base64," + base64.b64encode(bytes(65 << 20)).decode()
    bad: list[str | None] = ["data:image/png;base64,%%%", "data:", "data:image/png;base64,AAAAA", large]
    assert [reason for _, reason in fetched(tmp_path, bad)] == ["undecodable"] * 3 + ["too_large"]
    assert max(map(len, messages(tmp_path, bad))) < 300
    # A name that could be base64 of anything else stays a name.
    assert fetched(tmp_path, ["photos/" + "a" * 60]) == [(None, "missing")]
    write(tmp_path / "/".join(["9j", "4AAQSkZJRgABAQAAAQABAAD"]) / "a", b"F")
    assert fetched(tmp_path, ["9j/4AAQSkZJRgABAQAAAQABAAD/a"]) == [(b"F", None)]


def test_references_stay_below_the_root(tmp_path: Path) -> None:
    """By default rows name files below `source.path` only, however they write it."""
    write(tmp_path / "in/own.jpg", b"O")
    secret = write(tmp_path / "secret.jpg", b"S")
    write(tmp_path / "inside/other.jpg", b"S")
    (tmp_path / "in/link.jpg").symlink_to(secret)
    (tmp_path / "in/folder").symlink_to(tmp_path)
    (tmp_path / "root").symlink_to(tmp_path / "in")
    out: list[str | None] = [
        *(str(secret), secret.as_uri(), "../secret.jpg", "x/../../secret.jpg", "link.jpg"),
        *("folder/secret.jpg", "folder/in/../secret.jpg", "../inside/other.jpg", "file:///etc/passwd"),
        *(f"file://localhost{secret}", f"FILE://{tmp_path}/in/%2e%2e/secret.jpg", "/proc/self/environ"),
    ]
    within: list[str | None] = ["own.jpg", "./x/../own.jpg", str(tmp_path / "in/own.jpg"), "../in/own.jpg"]
    assert fetched(tmp_path / "in", out) == [(None, "missing")] * len(out)
    said = messages(tmp_path / "in", out)
    assert all("lies outside of source.path; source.outside_root = true allows that" in text for text in said)
    assert fetched(tmp_path / "in", within) == [(b"O", None)] * len(within)
    assert fetched(tmp_path / "root", ["own.jpg", "../in/own.jpg"]) == [(b"O", None)] * 2
    opened = fetched(tmp_path / "in", out[:5], outside_root=True)
    assert opened == [(b"S", None)] * 5
    # Of several roots, each file has its own.
    write(tmp_path / "many/1/own.jpg", b"O")
    for root, name in (("1", "own.jpg"), ("2", "../1/own.jpg")):
        write(tmp_path / "many" / root / "x.parquet", pa.table({"image": [name]}))
    roots = (str(tmp_path / "many/1"), str(tmp_path / "many/2"))
    found = rows(images(roots, "parquet", column="image"))
    assert [(value, reason) for _, value, reason in found] == [(b"O", None), (None, "missing")]


def test_schemes(tmp_path: Path) -> None:
    """Only the schemes that are named are followed, by default that of the source."""
    write(tmp_path / "a.jpg", b"A")
    with fsspec.open("memory://box/a.jpg", "wb") as file:
        file.write(b"M")
    mixed: list[str | None] = ["a.jpg", "memory://box/a.jpg"]
    assert fetched(tmp_path, mixed) == [(b"A", None), (None, "missing")]
    assert fetched(tmp_path, mixed, schemes=["file", "memory"]) == [(b"A", None), (b"M", None)]
    assert fetched(tmp_path, mixed, schemes=["memory"]) == [(None, "missing"), (b"M", None)]
    assert "source.schemes allows file" in messages(tmp_path, mixed)[1]
    with pytest.raises(SpecError, match="write the word before ://"):
        fetched(tmp_path, mixed, schemes=["http://"])


def test_references_of_a_store(tmp_path: Path) -> None:
    """In a store too, rows name what is below the root, in its bucket or another one."""
    files = fsspec.filesystem("memory")
    target = BytesIO()
    names = [
        "a.jpg",
        "../box2/a.jpg",
        "memory://box2/a.jpg",
        "memory://box/in/a.jpg",
        str(tmp_path / "l.jpg"),
    ]
    write(tmp_path / "l.jpg", b"L")
    pq.write_table(pa.table({"image": [*names, (tmp_path / "l.jpg").as_uri()]}), target)
    for name, content in (
        ("/box/in/a.jpg", b"A"),
        ("/box2/a.jpg", b"B"),
        ("/box/in/x.parquet", target.getvalue()),
    ):
        files.pipe_file(name, content)
    found = [
        (value, reason) for _, value, reason in rows(images("memory://box/in", "parquet", column="image"))
    ]
    gone = (None, "missing")
    assert found == [(b"A", None), gone, gone, (b"A", None), gone, gone]
    opened = rows(images("memory://box/in", "parquet", column="image", outside_root=True))
    assert [value for _, value, _ in opened][2] == b"B"
