"""Columns that name files of images: fetched once, a few at a time, and a bad one costs itself."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reading import images, rows, table, units, write

from embed_ops.sources import references
from embed_ops.sources import rows as rows_module
from embed_ops.storage.files import Location, locate


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
    found = images(tmp_path / "in", "parquet", column="image")
    assert rows(found) == wanted
    message = table(found).column("message").to_pylist()
    assert message[4] == "missing.jpg: there is no such file"
    write(
        tmp_path / "lines/x.jsonl", "\n".join(json.dumps({"image": str(absolute)}) for _ in range(3)).encode()
    )
    assert [value for _, value, _ in rows(images(tmp_path / "lines", "jsonl", column="image"))] == [b"B"] * 3


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
    beside, wanted = locate(str(tmp_path / "x.parquet")), np.ones(len(sizes) + 2, np.bool_)
    held: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        found = references.fetch(column, wanted, beside, 64 << 20, 48 << 20)
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
    column, beside = pa.chunked_array([[f"{number}.jpg" for number in range(4)]]), locate(str(tmp_path / "x"))
    assert [first for first, _ in references.fetch(column, np.ones(4, np.bool_), beside, 10, 2)] == [0, 1, 2]
    assert list(references.fetch(column[:0], np.ones(0, np.bool_), beside, 10, 2)) == [(0, [])]


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


def test_files_too_large_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that is too large is a reject."""
    monkeypatch.setattr(rows_module, "MAX_RECORD_BYTES", 3)
    write(tmp_path / "1.jpg", b"abcd")
    write(tmp_path / "x.parquet", pa.table({"image": ["1.jpg"]}))
    assert [reason for _, _, reason in rows(images(tmp_path, "parquet", column="image"))] == ["too_large"]
