"""Laws of reading by spans and units: every record once, in order, wherever reading begins."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs as pafs
from reading import PACKINGS, compress, corpus, rows, table, texts, units, write

from embed_ops.errors import SpecError, StorageError
from embed_ops.sources import csv as csv_source
from embed_ops.sources import parquet, streams
from embed_ops.sources import plan as plan_module
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.lines import TextSource
from embed_ops.sources.plan import UNIT_TEXT_BYTES, Limits, Plan
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, Unit, read_units
from embed_ops.storage.files import Location

KINDS = ("text", "jsonl", "csv", "parquet")
ENDINGS = {"text": "txt", "jsonl": "jsonl", "csv": "csv", "parquet": "parquet"}
PACKED = [(kind, packing) for kind in KINDS for packing in PACKINGS if not (kind == "parquet" and packing)]


def content_of(kind: str, values: list[str | None]) -> bytes | pa.Table:
    """Write texts in a format; None is a blank line, which is a record in Parquet alone."""
    if kind == "parquet":
        return pa.table({"text": pa.array(values, pa.string())})
    if kind == "csv":
        return b"text,id\n" + b"".join(
            b"\n" if value is None else f'"{value}",1\n'.encode() for value in values
        )
    if kind == "text":
        return b"".join((value or "").encode() + b"\n" for value in values)
    return b"".join(
        b"\n" if value is None else json.dumps({"text": value}).encode() + b"\n" for value in values
    )


def expected(kind: str, values: list[str | None]) -> list[str | None]:
    """Give the texts that reading finds."""
    if kind == "text":
        return [value or "" for value in values]
    return values if kind == "parquet" else [value for value in values if value is not None]


def same(left: Unit, right: Unit) -> bool:
    """Tell whether two readings of a unit are the same in all but time."""
    return (left.name, left.span, left.ranges, left.end, left.filtered) == (
        right.name,
        right.span,
        right.ranges,
        right.end,
        right.filtered,
    ) and left.table.to_pylist() == right.table.to_pylist()


def check_chains(plan: Plan, found: list[Unit], most_rows: int, most_text: int) -> None:
    """Check that the units of each span form a chain, tile its pieces and keep the limits."""
    for span in plan.spans:
        mine = [unit for unit in found if unit.span == span.index]
        assert mine[0].name == span.first_unit
        for unit, following in itertools.pairwise(mine):
            assert unit.end.source is not None
            assert unit.end.position is not None
            assert plan_module.unit_name(unit.end.source, unit.end.position) == following.name
        assert mine[-1].end.source is None
        for piece in span.pieces:
            position = piece.begin
            for part in (part for unit in mine for part in unit.ranges if part.source == piece.source):
                assert part.begin == position
                position = part.end
            assert piece.end in (None, position)
        for unit in mine:
            assert len(unit.table) <= most_rows
            size = sum(len((text or "").encode()) for text in unit.table.column("_content").to_pylist())
            assert size <= most_text or len(unit.table) == 1
    assert len({unit.name for unit in found}) == len(found)


VALUES = st.lists(st.none() | st.text(alphabet="aé \u2028", max_size=9), max_size=40)


@settings(max_examples=200)
@given(
    st.sampled_from(PACKED),
    st.lists(VALUES, min_size=1, max_size=4),
    st.data(),
)
def test_spans_and_units_hold_every_record_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    format_: tuple[str, str],
    files: list[list[str | None]],
    data: st.DataObject,
) -> None:
    """However small spans, units, blocks and chunks are, the records are those of the files.

    Any subset of units can be jumped over.
    """
    kind, packing = format_
    folder = tmp_path_factory.mktemp("spans")
    for number, values in enumerate(files):
        options: dict[str, Any] = (
            {"row_group_size": data.draw(st.integers(1, 9))} if kind == "parquet" else {}
        )
        write(folder / f"{number}.{ENDINGS[kind]}{packing}", content_of(kind, values), **options)
    most_rows, most_text = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 60))
    with pytest.MonkeyPatch.context() as patch:
        span_bytes = data.draw(st.sampled_from([7, 40, 200, 1 << 20]))
        small_bytes = data.draw(st.sampled_from([0, 60, 1 << 20]))
        for module in (streams, parquet, plan_module):
            patch.setattr(module, "SPAN_BYTES", span_bytes)
        patch.setattr(streams, "BLOCK_BYTES", data.draw(st.sampled_from([5, 50, 1 << 20])))
        at_once = data.draw(st.sampled_from([1, 3, 4096]))
        for reader in (csv_source, streams, parquet):
            patch.setattr(reader, "RECORDS_PER_READ", at_once)
        found = corpus(kind, folder)
        patch.setattr(type(found.source), "sharing", plan_module.Sharing(small_bytes, span_bytes, 1 << 62))
        plan = found.plan() if any(expected(kind, values) for values in files) or kind == "text" else None
        if plan is None:
            return
        read = units(found, plan, most_rows, most_text)
        got = [text for unit in read for text in unit.table.column("_content").to_pylist()]
        assert got == [text for values in files for text in expected(kind, values)]
        check_chains(plan, read, most_rows, most_text)
        chosen = data.draw(st.lists(st.booleans(), min_size=len(read), max_size=len(read)))
        done = {unit.name: unit.end for unit, is_done in zip(read, chosen, strict=True) if is_done}
        left = [unit for unit, is_done in zip(read, chosen, strict=True) if not is_done]
        again = units(found, plan, most_rows, most_text, done)
        assert [unit.name for unit in again] == [unit.name for unit in left]
        assert all(same(one, other) for one, other in zip(again, left, strict=True))


def test_a_unit_ends_at_the_same_place_wherever_reading_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines between units belong to the earlier one, also where a chunk ends among them."""
    monkeypatch.setattr(streams, "RECORDS_PER_READ", 4)
    write(
        tmp_path / "a.jsonl",
        content_of("jsonl", ["a", "b", "c", None, None, "d", "e", None, None, "f", "g", None, "h"]),
    )
    found = corpus("jsonl", tmp_path)
    read = units(found, rows=3)
    for first in range(len(read)):
        done = {unit.name: unit.end for unit in read[:first]}
        assert all(
            same(one, other) for one, other in zip(units(found, rows=3, done=done), read[first:], strict=True)
        )


@pytest.mark.parametrize(("kind", "packing"), PACKED)
def test_a_condition_counts_what_it_leaves_out(kind: str, packing: str, tmp_path: Path) -> None:
    """Rows that `where` refuses, or can't decide on, are counted in `filtered`.

    Units fill with the others.
    """
    values: list[str | None] = [f"{'yes' if number % 3 == 0 else 'no'} {number}" for number in range(30)]
    write(tmp_path / f"a.{ENDINGS[kind]}{packing}", content_of(kind, values))
    found = corpus(kind, tmp_path, where="text LIKE 'yes%' -- all others go")
    read = units(found, rows=4)
    assert [len(unit.table) for unit in read] == [4, 4, 2]
    assert [unit.filtered for unit in read] == [8, 8, 4]
    assert sum(part.records for unit in read for part in unit.ranges) == 30
    check_chains(found.plan(), read, 4, 1 << 20)


def test_a_reject_passes_the_condition(tmp_path: Path) -> None:
    """A record that is bad already is a reject whatever `where` says.

    Nothing is known of its values.
    """
    write(tmp_path / "a.jsonl", b'{"text": "a", "n": 1}\n{bad\n{"text": "b", "n": 5}\n{"text": "c"}\n')
    read = units(corpus("jsonl", tmp_path, where="n > 3"))[0]
    assert read.table.column("_row").to_pylist() == [22, 27]
    assert read.filtered == 2


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("nope = 1", "nope"),
        ("n >", "syntax"),
        ("count(*) > 1", "one row"),
        ("text", "VARCHAR"),
        ("n + 1", "BIGINT"),
    ],
)
def test_a_condition_that_fails_is_a_mistake_of_the_spec(where: str, part: str, tmp_path: Path) -> None:
    """A condition that can't be evaluated on the columns, or is none, is a SpecError."""
    write(tmp_path / "a.jsonl", b'{"text": "a", "n": 1}\n')
    with pytest.raises(SpecError, match=r"source\.where") as caught:
        units(corpus("jsonl", tmp_path, where=where))
    assert part.lower() in str(caught.value).lower()


def test_a_condition_that_fails_on_a_value_costs_the_row(tmp_path: Path) -> None:
    """A row on which the condition can't be evaluated is a reject; others are chosen as ever."""
    write(tmp_path / "a.jsonl", b'{"text": "1"}\n{"text": "x"}\n{"text": "7"}\n')
    read = units(corpus("jsonl", tmp_path, where="CAST(text AS INTEGER) > 1"))[0]
    assert read.filtered == 1
    assert read.table.column("_content").to_pylist() == ["x", "7"]
    assert read.table.column("reason").to_pylist() == ["wrong_type", None]


@pytest.mark.parametrize(("kind", "packing"), PACKED)
@pytest.mark.parametrize("limit", [1, 5, 9, 10, 11, 20, 99])
def test_a_limit_cuts_exactly(
    kind: str, packing: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit takes the first rows of the corpus, across spans and files, before any condition."""
    for module in (streams, parquet, plan_module):
        monkeypatch.setattr(module, "SPAN_BYTES", 50)
    values: list[str | None] = [f"text {number}" for number in range(20)]
    write(
        tmp_path / f"a.{ENDINGS[kind]}{packing}",
        content_of(kind, values[:10]),
        **({"row_group_size": 3} if kind == "parquet" else {}),
    )
    write(tmp_path / f"b.{ENDINGS[kind]}{packing}", content_of(kind, values[10:]))
    found = corpus(kind, tmp_path, limit=limit)
    plan = found.plan()
    assert plan.rows == min(limit, 20)
    assert len(plan.files) == (1 if limit <= 10 else 2)
    assert texts(found) == values[:limit]
    odd = corpus(kind, tmp_path, limit=limit, where="text LIKE '%1' OR text LIKE '%9'")
    assert texts(odd) == [text for text in values[:limit] if text is not None and text[-1] in "19"]


def test_a_limit_behind_a_break_does_not_hide_it(tmp_path: Path) -> None:
    """A file that breaks off before the limit keeps its reject; the next file makes up for it."""
    packed = compress(b"".join(f"{number}\n".encode() for number in range(30_000)), ".gz")
    (tmp_path / "a.txt.gz").write_bytes(packed[: len(packed) // 2])
    write(tmp_path / "b.txt", b"".join(f"b{number}\n".encode() for number in range(30_000)))
    found = rows(corpus("text", tmp_path, limit=25_000))
    assert sum(reason is None for _, _, reason in found) == 25_000
    assert [reason for _, _, reason in found if reason] == ["unreadable"]


def test_small_files_of_a_folder_share_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours share; a large file stands alone and parts its neighbours; folders never share.

    A span is not endless.
    """
    monkeypatch.setattr(TextSource, "sharing", plan_module.Sharing(50, 60, 100))
    sizes = {
        "a/1": 20,
        "a/2": 20,
        "a/3": 20,
        "a/4": 20,
        "b/1": 20,
        "b/2": 51,
        "b/3": 20,
        "b/c/1": 20,
        "b/d": 20,
    }
    for name, size in sizes.items():
        write(tmp_path / f"{name}.txt", b"x" * (size - 1) + b"\n")
    found = corpus("text", tmp_path)
    names = [[piece.source.removesuffix(".txt") for piece in span.pieces] for span in found.plan().spans]
    assert names == [["a/1", "a/2", "a/3"], ["a/4"], ["b/1"], ["b/2"], ["b/3"], ["b/c/1"], ["b/d"]]
    assert [part.source for part in units(found)[0].ranges] == ["a/1.txt", "a/2.txt", "a/3.txt"]


NAMES = [
    "a b.jsonl",
    "100%.jsonl",
    "%41.jsonl",
    "größe 漢.jsonl",
    "a.b.c.jsonl",
    "a.jsonl",
    "a.jsonl.gz",
    "x=1/a.jsonl",
    "x=%20/ü.jsonl.zst",
]


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    """Files of any name are read once each, and no two units share a name."""
    for name in [*NAMES, "a.txt", "b.parquet"]:
        write(
            tmp_path / name,
            pa.table({"text": ["p"]}) if name.endswith("parquet") else content_of("jsonl", [name]),
        )
    found = corpus("jsonl", tmp_path)
    read = units(found, rows=1)
    assert sorted(text for unit in read for text in unit.table.column("_content").to_pylist()) == sorted(
        NAMES
    )
    assert all(
        unit.table.column("_source").to_pylist() == unit.table.column("_content").to_pylist()
        for unit in read
        if len(unit.table)
    )
    assert len({unit.name for unit in read}) == len(read)
    assert texts(corpus("parquet", tmp_path)) == ["p"]


def test_equal_names_below_several_roots_are_told_apart(tmp_path: Path) -> None:
    """With several roots the number of the root stands in front of the name."""
    for root in ("one", "two"):
        write(tmp_path / root / "x=1" / "a.jsonl", content_of("jsonl", [root]))
    found = corpus("jsonl", (str(tmp_path / "two"), str(tmp_path / "one")), template="{x} {text}")
    read = table(found)
    assert read.column("_source").to_pylist() == ["0/x=1/a.jsonl", "1/x=1/a.jsonl"]
    assert read.column("_content").to_pylist() == ["1 two", "1 one"]


def test_damage_in_one_of_several_files_leaves_the_others(tmp_path: Path) -> None:
    """A unit over small files holds the rows of the good ones and one reject for the bad one.

    Its chain goes on.
    """
    for name, values in {"a": ["a1", "a2"], "c": ["c1", "c2", "c3"]}.items():
        write(tmp_path / f"{name}.parquet", content_of("parquet", list(values)))
    write(tmp_path / "b.parquet", b"PAR1 no parquet")
    found = corpus("parquet", tmp_path)
    read = units(found, rows=3)
    assert [unit.table.column("_content").to_pylist() for unit in read] == [
        ["a1", "a2", None],
        ["c1", "c2", "c3"],
    ]
    assert read[0].table.column("reason").to_pylist() == [None, None, "unreadable"]
    assert "an unknown number of rows not read" in read[0].table.column("message").to_pylist()[2]
    done = {read[0].name: read[0].end}
    assert [unit.name for unit in units(found, rows=3, done=done)] == [read[1].name]


class Flaky(LocalFileSystem):  # type: ignore[misc]
    """Local files whose reading fails from some byte on, as often as is asked."""

    protocol = "flaky"
    cachable = False

    def __init__(self, good_bytes: int, failures: int) -> None:
        super().__init__()
        self.good_bytes, self.failures = good_bytes, failures

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        storage, read = self, file.read

        class Failing:
            def read(self, size: int = -1) -> bytes:
                if (
                    storage.failures > 0
                    and file.tell() + (size if size >= 0 else 1 << 60) > storage.good_bytes
                ):
                    storage.failures -= 1
                    raise OSError("the disk is gone")
                content: bytes = read(size)
                return content

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return Failing()


def flaky(found: Corpus, good_bytes: int, failures: int) -> Cursor:
    """Read the first span of a corpus through failing storage."""
    plan = found.plan()
    storage = pafs.PyFileSystem(pafs.FSSpecHandler(Flaky(good_bytes, failures)))
    places = {file.name: Location(storage, found.place(file).path) for file in plan.files}
    return Cursor(found.source, Rows(found.spec, plan.columns), places, plan.spans[0])


@pytest.mark.parametrize(("kind", "packing"), PACKED)
def test_failing_storage_is_no_reject(kind: str, packing: str, tmp_path: Path) -> None:
    """Where the bytes can't be read, reading raises and no row is lost as a reject."""
    values: list[str | None] = [f"text {number * 7919 % 100_003}" for number in range(3000)]
    path = write(tmp_path / f"a.{ENDINGS[kind]}{packing}", content_of(kind, values))
    cursor = flaky(corpus(kind, tmp_path), path.stat().st_size // 2, 1 << 30)
    with pytest.raises(
        StorageError, match=r"the disk is gone; mend the storage and run the same command again"
    ):
        list(read_units(cursor, {}, Limits(100, UNIT_TEXT_BYTES)))


@pytest.mark.parametrize(("kind", "packing"), PACKED)
def test_storage_that_fails_once_costs_nothing(kind: str, packing: str, tmp_path: Path) -> None:
    """A fault that is gone on a fresh read leaves no trace."""
    values: list[str | None] = [f"text {number * 7919 % 100_003}" for number in range(3000)]
    path = write(tmp_path / f"a.{ENDINGS[kind]}{packing}", content_of(kind, values))
    cursor = flaky(corpus(kind, tmp_path), path.stat().st_size // 2, 1)
    read = [
        text
        for unit in read_units(cursor, {}, Limits(100, UNIT_TEXT_BYTES))
        for text in unit.table.column("_content").to_pylist()
    ]
    assert read == values


def test_a_file_that_vanishes_is_failing_storage(tmp_path: Path) -> None:
    """A planned file that is gone when it is read is no reject."""
    write(tmp_path / "a.txt", b"a\n")
    found = corpus("text", tmp_path)
    plan = found.plan()
    (tmp_path / "a.txt").unlink()
    with pytest.raises(StorageError, match=r"a\.txt: can't be read"):
        units(found, plan)


def test_want_of_memory_is_no_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is out of memory stops: the file is not to blame."""
    write(tmp_path / "a.txt", b"a\n")
    found = corpus("text", tmp_path)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Rows, "complete", full)
    with pytest.raises(MemoryError):
        units(found)


def test_the_head_is_the_first_good_texts(tmp_path: Path) -> None:
    """The texts for the parity check are those of the first rows that are no rejects.

    Across files and conditions.
    """
    write(tmp_path / "a.jsonl", b'{"text": "a"}\n{bad\n{"text": null}\n{"text": "b"}\n')
    write(tmp_path / "b.jsonl", b'{"text": "c"}\n{"text": "d"}\n')
    found = corpus("jsonl", tmp_path, where="text <> 'b'")
    assert [found.head(found.plan(), count) for count in (0, 1, 2, 9)] == [
        [],
        ["a"],
        ["a", "c"],
        ["a", "c", "d"],
    ]


def test_many_row_groups_are_read_group_by_group(tmp_path: Path) -> None:
    """Positions run on over row groups, whatever their sizes are."""
    path = tmp_path / "a.parquet"
    sizes = [1, 0, 5000, 3, 4096, 1]
    numbers = iter(range(sum(sizes)))
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for size in sizes:
            writer.write_table(
                pa.table(
                    {
                        "text": pa.array(
                            [str(number) for number in itertools.islice(numbers, size)], pa.string()
                        )
                    }
                )
            )
    assert rows(corpus("parquet", tmp_path), rows=1000) == [
        (row, str(row), None) for row in range(sum(sizes))
    ]
