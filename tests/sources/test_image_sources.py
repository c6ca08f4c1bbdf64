"""Folders of images, WebDataset tars, and columns of images.

Every record once and in order, whatever is wrong with some.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import PACKINGS, corpus, images, rows, table, units, write

from embed_ops.errors import SourceError, SpecError, StorageError
from embed_ops.sources import base, webdataset
from embed_ops.sources.plan import UNIT_IMAGES, Limits, unit_limits
from embed_ops.spec.spec import Spec

IMAGE = b"\xff\xd8not really"
"""Sources do not look inside images."""


def member(name: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    """Make a member of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, io.BytesIO(content)


def tar(members: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, content in members:
            archive.addfile(*member(name, content))
    return target.getvalue()


def test_folder(tmp_path: Path) -> None:
    """Files of any depth are rows in the order of their names; others are left alone.

    The last folder is the label.
    """
    for name in (
        "b/cat/2.JPG",
        "b/cat/10.png",
        "b/dog/1.webp",
        "a.tiff",
        "b/cat/readme.txt",
        "c/z.gif",
        "c/ä b.bmp",
    ):
        write(tmp_path / name, name.encode())
    read = table(images(tmp_path, keep=["label", "path", "size"]))
    assert read.column("path").to_pylist() == [
        "a.tiff",
        "b/cat/10.png",
        "b/cat/2.JPG",
        "b/dog/1.webp",
        "c/z.gif",
        "c/ä b.bmp",
    ]
    assert read.column("label").to_pylist() == [None, "cat", "cat", "dog", "c", "c"]
    assert read.column("_content").to_pylist() == [name.encode() for name in read.column("path").to_pylist()]
    assert read.column("size").to_pylist() == [len(name.encode()) for name in read.column("path").to_pylist()]
    assert set(read.column("_row").to_pylist()) == {0}


def test_units_of_folders(tmp_path: Path) -> None:
    """Files of a folder share units whatever their size, and no unit reaches into another folder.

    Any unit can be jumped over.
    """
    for number in range(23):
        write(
            tmp_path / ("x" if number < 17 else "y") / f"{number:02d}.jpg",
            bytes([number]) * (1 + 1000 * (number % 3)),
        )
    found = images(tmp_path)
    plan = found.plan()
    assert [len(span.pieces) for span in plan.spans] == [17, 6]
    read = units(found, plan, rows=5, text=1 << 20)
    assert [len(unit.table) for unit in read] == [5, 5, 5, 2, 5, 1]
    assert [part.records for part in read[0].ranges] == [1] * 5
    done = {unit.name: unit.end for unit in read[1:3]}
    assert [unit.name for unit in units(found, plan, rows=5, done=done)] == [
        read[place].name for place in (0, 3, 4, 5)
    ]


def test_units_hold_few_images() -> None:
    """A unit has at most 512 images and 64 MiB of them, and fewer where less is asked for."""
    tree: dict[str, Any] = {
        "source": {"kind": "images", "path": "x"},
        "encoder": {"family": "image", "model": "m"},
        "sink": {"path": "o"},
    }
    assert unit_limits(Spec.parse(tree)) == Limits(UNIT_IMAGES, 64 << 20)
    assert unit_limits(Spec.parse({**tree, "resources": {"unit_rows": 7}})).rows == 7


def test_many_files_share_a_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader gets no more than some thousand files."""
    for number in range(10):
        write(tmp_path / f"{number}.jpg", b"x")
    found = images(tmp_path)
    monkeypatch.setattr(type(found.source), "sharing", type(found.source.sharing)(1 << 62, 1 << 40, 4))
    assert [len(span.pieces) for span in found.plan().spans] == [4, 4, 2]


def test_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large to hold is not read."""
    from embed_ops.sources import images as module

    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 10)
    write(tmp_path / "1.jpg", b"x" * 11)
    write(tmp_path / "2.jpg", b"y" * 10)
    assert rows(images(tmp_path)) == [(0, None, "too_large"), (0, b"y" * 10, None)]


def test_file_that_vanished(tmp_path: Path) -> None:
    """A file that was planned and is gone is the storage's fault, not the file's."""
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / name, b"x")
    found = images(tmp_path)
    plan = found.plan()
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(StorageError, match=r"2\.jpg"):
        units(found, plan)


def test_several_roots(tmp_path: Path) -> None:
    """With several roots a label is still the folder's name, and null at the top."""
    write(tmp_path / "one/cat/1.jpg", b"1")
    write(tmp_path / "two/2.jpg", b"2")
    read = table(images((str(tmp_path / "one"), str(tmp_path / "two")), keep=["label", "path"]))
    assert read.column("label").to_pylist() == ["cat", None]
    assert read.column("path").to_pylist() == ["0/cat/1.jpg", "1/2.jpg"]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars(packing: str, form: int, tmp_path: Path) -> None:
    """Members of a key are one row, in any tar format and compression.

    JSON and text members are kept columns.
    """
    long = "" if form == tarfile.USTAR_FORMAT else "very/long/" * 20 + "ünicode/"
    members = [
        (f"{long}a.jpg", IMAGE),
        (f"{long}a.json", json.dumps({"caption": "one", "size": {"w": 3}, "n": 1}).encode()),
        (f"{long}a.cls", b"7"),
        ("folder/b.0.PNG", b"second"),
        ("folder/b.txt", "zwei ü".encode()),
        ("c.txt", b"no image"),
        ("d.jpeg", b"fourth"),
        ("d.json", b"{broken"),
        ("e.jpg", b"\xff\xfe"),
        ("e.txt", b"caf\xe9"),
    ]
    write(tmp_path / f"x.tar{packing}", tar(members, form))
    found = images(
        tmp_path,
        "webdataset",
        keep=["json.caption", "json.n", "cls", "txt", "__key__"],
        types={"json.n": "int64"},
    )
    read = table(found)
    assert read.column("_content").to_pylist() == [IMAGE, b"second", None, b"fourth", b"\xff\xfe"]
    assert read.column("json.caption").to_pylist() == ["one", None, None, None, None]
    assert read.column("json.n").to_pylist() == [1, None, None, None, None]
    assert read.column("cls").to_pylist() == ["7", None, None, None, None]
    assert read.column("__key__").to_pylist() == [f"{long}a", "folder/b", "c", "d", "e"]
    offsets = read.column("_row").to_pylist()
    assert offsets == sorted(set(offsets))
    text = corpus("webdataset", tmp_path, column="txt")
    assert [value for _, value, _ in rows(text)] == [None, "zwei ü", "no image", None, None]


def test_same_member_twice(tmp_path: Path) -> None:
    """A name that comes twice is two rows, side by side or apart."""
    write(
        tmp_path / "x.tar",
        tar([("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4"), ("a.txt", b"t")]),
    )
    assert [value for _, value, _ in rows(images(tmp_path, "webdataset"))] == [b"1", b"2", b"3", b"4"]


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=25),
    st.integers(1, 6),
    st.integers(1, 3000),
    st.data(),
)
def test_units_of_tars(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[int, bool]], most: int, text: int, data: Any
) -> None:
    """However units and chunks are cut, plain and packed tars give every sample once, in order.

    Units can be jumped over.
    """
    folder = tmp_path_factory.mktemp("tars")
    members = []
    for number, (size, more) in enumerate(shape):
        members.append((f"{number:04d}.jpg", bytes([number]) * size))
        members += [(f"{number:04d}.txt", b"words")] if more else []
    packing = data.draw(st.sampled_from(PACKINGS))
    write(folder / f"x.tar{packing}", tar([*members, ("end.jpg", b"end")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "_CHUNK_ROWS", data.draw(st.integers(1, 9)))
        found = images(folder, "webdataset", keep=["txt"] if any(more for _, more in shape) else [])
        plan = found.plan()
        read = units(found, plan, most, text)
        got = list(itertools.chain.from_iterable(unit.table.column("_content").to_pylist() for unit in read))
        assert got == [*(bytes([number]) * size for number, (size, _) in enumerate(shape)), b"end"]
        chosen = data.draw(st.lists(st.booleans(), min_size=len(read), max_size=len(read)))
        done = {unit.name: unit.end for unit, skip in zip(read, chosen, strict=True) if skip}
        again = units(found, plan, most, text, done)
        left = [unit for unit, skip in zip(read, chosen, strict=True) if not skip]
        assert [(unit.name, unit.end, unit.ranges, unit.table.to_pylist()) for unit in again] == [
            (unit.name, unit.end, unit.ranges, unit.table.to_pylist()) for unit in left
        ]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_cut_tars(packing: str, tmp_path: Path) -> None:
    """However a tar is cut, whole samples before the cut are rows and the rest is one reject.

    It is file-level: nothing is lost silently.
    """
    whole = tar([(f"{number}.jpg", bytes([number]) * 700) for number in range(6)])
    ends = [1536 * number for number in range(7)]
    for cut in (1, 512, 900, 1536, 2000, 3072 + 511, 4608, 9000, 9216, len(whole) - 10_000):
        path = write(tmp_path / f"{cut}{packing.replace('.', '')}" / f"x.tar{packing}", whole[:cut])
        # A sample is known to be whole once another one's header follows.
        fine = max((number for number, end in enumerate(ends) if end + 512 <= cut), default=0)
        if fine == 0:
            with pytest.raises(SourceError, match="none of 1 files can be read"):
                images(path.parent, "webdataset").plan()
            continue
        found = rows(images(path.parent, "webdataset"))
        assert [value for _, value, reason in found if reason is None] == [
            bytes([number]) * 700 for number in range(fine)
        ]
        assert [reason for _, _, reason in found if reason is not None] == ["unreadable"]


def test_broken_header(tmp_path: Path) -> None:
    """A header that is overwritten ends the tar with a reject.

    Python's own reader would end it silently.
    """
    whole = bytearray(tar([(f"{number}.jpg", bytes([number]) * 700) for number in range(6)]))
    whole[1536 * 3 : 1536 * 3 + 300] = b"\x07" * 300
    write(tmp_path / "x.tar", bytes(whole))
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert len(archive.getnames()) == 3
    assert [reason for _, _, reason in rows(images(tmp_path, "webdataset"))] == [None, None, "unreadable"]


def test_large_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member too large to hold costs its own sample, and is not read."""
    monkeypatch.setattr(webdataset, "MAX_RECORD_BYTES", 100)
    write(
        tmp_path / "x.tar",
        tar(
            [
                ("a.jpg", b"1"),
                ("b.jpg", b"2" * 101),
                ("c.jpg", b"3" * 60),
                ("c.txt", b"4" * 60),
                ("d.jpg", b"5"),
                ("d.txt", b"6"),
            ]
        ),
    )
    found = images(tmp_path, "webdataset", keep=["txt"])
    assert [reason for _, _, reason in rows(found)] == [None, "too_large", "too_large", None]


def test_columns_of_bytes(tmp_path: Path) -> None:
    """Bytes in a Parquet column, of any binary type; null ones stay null."""
    values = [b"one", None, b"", b"four"]
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        write(tmp_path / str(kind) / "x.parquet", pa.table({"image": pa.array(values, kind), "id": range(4)}))
        read = table(images(tmp_path / str(kind), "parquet", column="image", keep=["id"]))
        assert read.column("_content").to_pylist() == values
        assert read.column("id").to_pylist() == [0, 1, 2, 3]


def test_wrong_columns(tmp_path: Path) -> None:
    """A column that holds no images is named with its type."""
    write(tmp_path / "x.parquet", pa.table({"image": [1, 2], "text": ["a", "b"]}))
    with pytest.raises(
        SourceError, match="column 'image' is int64; images are bytes, paths, URIs, or a struct"
    ):
        images(tmp_path, "parquet", column="image").plan()
    write(tmp_path / "tars/x.tar", tar([("a.txt", b"1")]))
    with pytest.raises(SourceError, match="no column 'image'; columns: "):
        images(tmp_path / "tars", "webdataset").plan()
    with pytest.raises(SourceError, match=r"no file ends in \.jpg"):
        images(tmp_path / "tars")


@pytest.mark.parametrize(
    ("source", "encoder", "words"),
    [
        (
            {"kind": "images", "column": "x"},
            {"family": "image"},
            "with kind = 'images' (an image file is one image)",
        ),
        ({"kind": "images"}, {"family": "text"}, "these are images, and the encoder embeds texts"),
        ({"kind": "webdataset"}, {"family": "text"}, "these are images, and the encoder embeds texts"),
        (
            {"kind": "parquet", "column": "x"},
            {"family": "clip"},
            'say which the column holds, "image" or "text"',
        ),
        ({"kind": "webdataset", "column": "txt"}, {"family": "clip"}, "say which the column holds"),
        (
            {"kind": "parquet", "column": "x", "modality": "text"},
            {"family": "image"},
            "family 'image' embeds no such thing",
        ),
        (
            {"kind": "text", "modality": "image"},
            {"family": "clip"},
            "no images in templates and lines of text",
        ),
        ({"kind": "images"}, {"family": "image", "prompt": "x"}, "with family = 'image' (it reads no texts)"),
        (
            {"kind": "images"},
            {"family": "image", "outputs": [{"pooling": "last"}]},
            "pooling 'last' is none of family 'image': auto, cls",
        ),
        (
            {"kind": "images"},
            {"family": "clip", "outputs": [{"pooling": "cls"}]},
            "pooling 'cls' is none of family 'clip': auto",
        ),
        ({"column": "x"}, {"outputs": [{"pooling": "pooler"}]}, "pooling 'pooler' is none of family 'text'"),
        ({"kind": "images"}, {"family": "clip", "outputs": [{"layer": 3}]}, "clip has one vector"),
    ],
)
def test_specs_that_make_no_sense(source: dict[str, Any], encoder: dict[str, Any], words: str) -> None:
    """A spec that can't be meant is refused before anything is read."""
    with pytest.raises(SpecError, match=re.escape(words)):
        Spec.parse(
            {"source": {"path": "x", **source}, "encoder": {"model": "m", **encoder}, "sink": {"path": "out"}}
        )


@pytest.mark.parametrize(
    ("source", "family", "modality"),
    [
        ({"kind": "images"}, "image", "image"),
        ({"kind": "images"}, "clip", "image"),
        ({"kind": "webdataset"}, "clip", "image"),
        ({"column": "x"}, "image", "image"),
        ({"column": "x"}, "text", "text"),
        ({"column": "x", "modality": "text"}, "clip", "text"),
    ],
)
def test_modality_follows_the_encoder(source: dict[str, Any], family: str, modality: str) -> None:
    """What a column holds follows from what is to embed it, and survives being written and read."""
    spec = Spec.parse(
        {
            "source": {"path": "x", **source},
            "encoder": {"model": "m", "family": family},
            "sink": {"path": "out"},
        }
    )
    assert spec.source.modality == modality
    assert Spec.parse(spec.model_dump(mode="json")) == spec


def test_records_are_not_held_whole(tmp_path: Path) -> None:
    """A tar is handed on in chunks of some megabytes."""
    write(tmp_path / "x.tar", tar([(f"{number:03d}.jpg", bytes(1 << 20)) for number in range(40)]))
    found = images(tmp_path, "webdataset")
    plan = found.plan()
    [span] = plan.spans
    sizes = [
        sum(len(value) for value in read.table.column("image").to_pylist())
        for read in found.source.read(found.place(plan.files[0]), span.pieces[0], 0, plan.columns)
    ]
    assert max(sizes) <= 17 << 20
    assert np.sum(sizes) == 40 << 20
    assert base.MAX_RECORD_BYTES == 64 << 20
