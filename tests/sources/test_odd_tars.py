"""Tars as people and attackers make them: each image is a row, a reject, or counted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import PACKINGS, images, rows, table, units, write

from embed_ops.errors import SourceError, SpecError
from embed_ops.sources import webdataset


def tar(members: list[tuple[str, bytes] | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar of files, and of headers alone."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for item in members:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
                continue
            info = tarfile.TarInfo(item[0])
            info.size = len(item[1])
            archive.addfile(info, io.BytesIO(item[1]))
    return target.getvalue()


def header(name: str, kind: bytes, size: int = 0, target: str = "") -> bytes:
    """Make a header alone, which may say anything."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(records: dict[str, str], of_all: bool = False) -> bytes:
    """Make an extended header of a member, or of all that follow."""
    body = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        body += str(length).encode() + record
    kind = tarfile.XGLTYPE if of_all else tarfile.XHDTYPE
    return header("x", kind, len(body)) + body + bytes(-len(body) % 512)


def read(folder: Path, content: bytes, packing: str = "", **fields: object) -> list[tuple[object, object]]:
    """Read a tar: what is embedded, and the reasons."""
    write(folder / f"x.tar{packing}", content)
    found = images(folder / f"x.tar{packing}", "webdataset", **fields)
    return [(value, reason) for _, value, reason in rows(found)]


END = bytes(1024)


def test_several_images_in_a_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first image of a sample is embedded, the others are counted, and that is said.

    Names with a decimal point make such samples too.
    """
    content = tar(
        [(f"{key}.{part}", part.encode()) for key in "ab" for part in ("mask.png", "RGB.jpg", "txt")]
    )
    write(tmp_path / "x.tar", content)
    found = images(tmp_path, "webdataset")
    (unit,) = units(found)
    assert unit.table.column("_content").to_pylist() == [b"mask.png"] * 2
    assert (unit.filtered, unit.ranges[0].records) == (2, 4)
    assert "several images (mask.png, rgb.jpg): the first is embedded" in caplog.text
    caplog.clear()
    (named,) = units(images(tmp_path, "webdataset", column="rgb.jpg"))
    assert (named.table.column("_content").to_pylist(), named.filtered) == ([b"RGB.jpg"] * 2, 0)
    assert not caplog.text
    frames = tar([(f"frame_{number / 4}.jpg", bytes([number])) for number in range(8)])
    write(tmp_path / "frames/x.tar", frames)
    (unit,) = units(images(tmp_path / "frames", "webdataset"))
    assert len(unit.table) + unit.filtered == 8


def test_hidden_members(tmp_path: Path) -> None:
    """What macOS adds is no member of a sample, wherever it stands, and is counted."""
    parts: list[tuple[str, bytes] | tarfile.TarInfo] = [("./.DS_Store", b"x")]
    for key in ("d/0", "d/1"):
        for ending in ("jpg", "txt"):
            parts += [(f"d/._{key[2:]}.{ending}", b"junk"), (f"{key}.{ending}", key.encode())]
    write(tmp_path / "x.tar", tar([*parts, ("d/._.DS_Store", b"x")]))
    (unit,) = units(images(tmp_path, "webdataset", keep=["txt", "__key__"]))
    assert unit.table.column("_content").to_pylist() == [b"d/0", b"d/1"]
    assert unit.table.column("txt").to_pylist() == ["d/0", "d/1"]
    assert (unit.filtered, unit.ranges[0].records) == (6, 8)


def test_links(tmp_path: Path) -> None:
    """A link, or a device, in the place of an image is a reject that says what to do."""
    for name in ("0.jpg", "1.jpg"):
        write(tmp_path / "in" / name, name.encode())
    os.link(tmp_path / "in/0.jpg", tmp_path / "in/2.jpg")
    (tmp_path / "in/3.jpg").symlink_to("1.jpg")
    (tmp_path / "in/readme").symlink_to("1.jpg")
    os.mkfifo(tmp_path / "in/4.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "in", "in")
    found = table(images(tmp_path, "webdataset", keep=["__key__"]))
    said = dict(zip(found.column("__key__").to_pylist(), found.column("message").to_pylist(), strict=True))
    assert len(said) == 5
    links = sorted(str(text) for text in said.values() if text is not None)
    assert len(links) == 3
    assert sum("is a link to" in text and "--hard-dereference" in text for text in links) == 2
    assert {reason for reason in found.column("reason").to_pylist() if reason} == {"missing"}


@pytest.mark.parametrize("packing", PACKINGS)
def test_tars_in_one_file(packing: str, tmp_path: Path) -> None:
    """Tars one behind the other are read to the last end marker; other bytes there are a reject."""
    first, second = tar([("0.jpg", b"0"), ("1.jpg", b"1")]), tar([("1.jpg", b"2"), ("3.jpg", b"3")])
    four = [(str(number).encode(), None) for number in range(4)]
    assert read(tmp_path, first + second, packing) == four
    assert read(tmp_path, first[:2048] + bytes(512) + second, packing) == four
    assert read(tmp_path, first + bytes(5 << 20) + second, packing) == four
    for junk in (b"\n", b"<html>", b"x" * 2000, second[512:]):
        assert read(tmp_path, first + junk, packing) == [*four[:2], (None, "unreadable")]
    assert read(tmp_path, first + second[:2000], packing)[-1] == (None, "unreadable")


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_holes(form: str, tmp_path: Path) -> None:
    """A member with holes has the bytes that tar gives."""
    content = b"BM" + bytes(200_000) + b"middle" + bytes(300_000) + b"end" + bytes(5000)
    (tmp_path / "in").mkdir()
    for name in ("0.bmp", "1.bmp"):
        with (tmp_path / "in" / name).open("wb") as file:
            for place in range(0, len(content), 4096):
                part = content[place : place + 4096]
                file.seek(place)
                if any(part):
                    file.write(part)
                else:
                    file.truncate(place + len(part))
    options = [
        "--sparse",
        f"--format={form}",
        "-cf",
        str(tmp_path / "x.tar"),
        "-C",
        str(tmp_path / "in"),
        ".",
    ]
    subprocess.run(["tar", *options], check=True)
    assert (tmp_path / "x.tar").stat().st_size < len(content)
    assert [value for _, value, _ in rows(images(tmp_path / "x.tar", "webdataset"))] == [content] * 2


GOOD = tar([("0.jpg", b"0"), ("1.jpg", b"1"), ("2.jpg", b"2")])[:3072]
LONG = header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 5) + b"3.jpg".ljust(512, b"\0")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(pax({"size": "-99"}) + header("3.jpg", tarfile.REGTYPE, 1), id="size below zero"),
        pytest.param(header("3.jpg", tarfile.REGTYPE, -99), id="size below zero in a header"),
        pytest.param(header("3.jpg", tarfile.REGTYPE, -(10**6)), id="size that leads back"),
        pytest.param(header("3.jpg", tarfile.REGTYPE, 10**15), id="size beyond the file"),
        pytest.param(pax({"size": "9" * 300}) + header("3.jpg", tarfile.REGTYPE, 1), id="digits"),
        pytest.param(header("x", tarfile.GNUTYPE_LONGNAME, -512), id="name below zero"),
        pytest.param(header("x", tarfile.XHDTYPE, 10**12), id="attributes beyond the file"),
        pytest.param(LONG * 2000 + header("3.jpg", tarfile.REGTYPE, 1), id="chained names"),
        pytest.param(pax({"a": "b"}) * 900 + header("3.jpg", tarfile.REGTYPE, 1), id="chained attributes"),
        pytest.param(pax({"a": "b"}, True) * 900 + header("3.jpg", tarfile.REGTYPE, 1), id="chained for all"),
        pytest.param(
            b"".join(pax({str(n): "v" * 300_000}, True) + header("d", tarfile.DIRTYPE) for n in range(9)),
            id="attributes for all that grow",
        ),
        pytest.param(pax({"GNU.sparse.map": "a,b"}) + header("3.jpg", tarfile.REGTYPE, 1), id="map of words"),
        pytest.param(
            pax({"GNU.sparse.map": "0,-5", "GNU.sparse.realsize": "9"}) + header("3.jpg", tarfile.REGTYPE, 1),
            id="piece below zero",
        ),
        pytest.param(
            pax({"GNU.sparse.map": "5,9", "GNU.sparse.realsize": "9"}) + header("3.jpg", tarfile.REGTYPE, 1),
            id="piece beyond its file",
        ),
        pytest.param(
            pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
            + header("3.jpg", tarfile.REGTYPE, 512)
            + b"999999999\n1\n".ljust(512, b"\0"),
            id="endless map",
        ),
        pytest.param(b"0 path=\n".ljust(512, b"\0"), id="no header"),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_hostile_headers(attack: bytes, packing: str, tmp_path: Path) -> None:
    """A header that lies ends its tar with one reject; what came before it is read.

    A sample is known to be whole once a header follows.
    """
    found = read(tmp_path, GOOD + attack + END, packing)
    assert found[:2] == [(b"0", None), (b"1", None)]
    assert found[2:] in ([(None, "unreadable")], [(b"2", None), (None, "unreadable")])
    # Standing first, it is what is said of the file.
    write(tmp_path / f"y.tar{packing}", attack + END)
    with pytest.raises(SourceError, match="none of 1 files can be read"):
        images(tmp_path / f"y.tar{packing}", "webdataset").plan()


def test_headers_are_held_in_bounds(tmp_path: Path) -> None:
    """Attributes of half a gigabyte are not read."""
    size = 500 << 20
    path = write(tmp_path / "x.tar", GOOD + header("x", tarfile.XHDTYPE, size))
    with path.open("ab") as file:
        file.truncate(size + 8192)
    tracemalloc.start()
    try:
        assert [reason for _, _, reason in rows(images(path, "webdataset"))] == [None, None, "unreadable"]
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_fields_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that the first samples lack is there where its type is given; text takes numbers."""
    monkeypatch.setattr(webdataset, "_SAMPLE_RECORDS", 2)
    values = [
        {"n": 1},
        {"n": 2},
        {"n": "many", "late": 7},
        {"n": [1], "late": "here"},
        {"n": 2.5, "late": {"a": 1}},
    ]
    parts: list[tuple[str, bytes] | tarfile.TarInfo] = []
    for number, value in enumerate(values):
        parts += [(f"{number}.jpg", b"i"), (f"{number}.json", json.dumps(value).encode())]
    write(tmp_path / "x.tar", tar(parts))
    keep = ["json.n", "json.late"]
    with pytest.raises(SourceError, match=r"no column 'json\.late'"):
        images(tmp_path, "webdataset", keep=keep).plan()
    found = table(
        images(tmp_path, "webdataset", keep=keep, types={"json.n": "string", "json.late": "string"})
    )
    assert found.column("json.n").to_pylist() == ["1", "2", "many", "[1]", "2.5"]
    assert found.column("json.late").to_pylist() == [None, None, "7", "here", '{"a": 1}']
    assert found.column("reason").null_count == 5
    typed = table(images(tmp_path, "webdataset", keep=keep, types={"json.late": "int64"}))
    assert typed.column("json.late").to_pylist() == [None, None, 7, None, None]
    assert typed.column("reason").to_pylist() == [None, None, *["wrong_type"] * 3]
    with pytest.raises(SpecError, match="is not an Arrow type"):
        images(tmp_path, "webdataset", keep=keep, types={"json.late": "no such"}).plan()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["image", "second", "text", "hidden", "store", "end", "link"]), max_size=30),
    st.integers(1, 4),
    st.data(),
)
def test_units_of_odd_tars(
    tmp_path_factory: pytest.TempPathFactory, shape: list[str], most: int, data: st.DataObject
) -> None:
    """Wherever reading begins, the same samples and counts come; every image is in one of them."""
    folder = tmp_path_factory.mktemp("tars")
    content, held = b"", 0
    names = {
        "image": "{}.jpg",
        "second": "{}.b.png",
        "text": "{}.txt",
        "hidden": "._{}.jpg",
        "store": ".DS_Store",
    }
    key = 0
    for kind in [*shape, "image"]:
        if kind == "end":
            content += END
        elif kind == "link":
            content += header(f"{key}.l.jpg", tarfile.SYMTYPE, target="x")
            held += 1
        else:
            key += kind == "image"
            name = names[kind].format(key)
            held += kind != "text"
            content += tar([(name, name.encode())])[:1024]
    packing = data.draw(st.sampled_from(["", ".gz"]))
    write(folder / f"x.tar{packing}", content + END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "_CHUNK_ROWS", data.draw(st.integers(1, 5)))
        found = images(folder, "webdataset")
        plan = found.plan()
        whole = units(found, plan, most)
        nulls = sum(
            value is None and reason is None
            for unit in whole
            for value, reason in zip(
                *(unit.table.column(n).to_pylist() for n in ("_content", "reason")), strict=True
            )
        )
        assert sum(part.records for unit in whole for part in unit.ranges) == held + nulls
        chosen = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
        done = {unit.name: unit.end for unit, skip in zip(whole, chosen, strict=True) if skip}
        again = units(found, plan, most, done=done)
        left = [unit for unit, skip in zip(whole, chosen, strict=True) if not skip]
        assert [
            (unit.name, unit.end, unit.ranges, unit.filtered, unit.table.to_pylist()) for unit in again
        ] == [(unit.name, unit.end, unit.ranges, unit.filtered, unit.table.to_pylist()) for unit in left]
