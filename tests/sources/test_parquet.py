"""Laws of Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import corpus, rows, table, texts, units, write

from embed_ops.errors import SourceError, SpecError
from embed_ops.sources import parquet

TEXTS = ["one", None, "", "zwölf\0", "x" * 300]


def bad_utf8(values: list[bytes | None]) -> pa.Array:
    """Make a string column without a check of its bytes."""
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options", [{}, {"row_group_size": 2}, {"store_schema": False}, {"use_dictionary": False}]
)
def test_text_is_read_from_every_string_type(
    kind: pa.DataType, options: dict[str, Any], tmp_path: Path
) -> None:
    """However text is stored, its rows and nulls are the same; positions are row indexes."""
    column = pa.array([None if text is None else text.encode() for text in TEXTS], pa.binary()).cast(
        pa.string()
    )
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
    write(tmp_path / "a.parquet", pa.table({"text": column}), **options)
    assert rows(corpus("parquet", tmp_path)) == [(row, text, None) for row, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()], ids=str
)
def test_bytes_that_are_no_utf8_cost_their_row(kind: pa.DataType, tmp_path: Path) -> None:
    """A text of bad bytes is one reject, in any type; its neighbours are read."""
    raw = bad_utf8([b"a", b"caf\xe9", None, b"b"])
    column = raw if kind == pa.string() else pa.array([b"a", b"caf\xe9", None, b"b"], pa.large_binary())
    if kind in (pa.large_string(), pa.large_binary()):
        column = column.view(kind)
    elif kind in (pa.binary(), pa.string_view()):
        column = raw.view(pa.binary())
        column = column.cast(pa.binary_view()).view(pa.string_view()) if kind == pa.string_view() else column
    write(tmp_path / "a.parquet", pa.table({"text": column}))
    assert rows(corpus("parquet", tmp_path)) == [
        (0, "a", None),
        (1, None, "invalid_utf8"),
        (2, None, None),
        (3, "b", None),
    ]


def test_kept_bytes_that_are_no_utf8_cost_their_row(tmp_path: Path) -> None:
    """A kept string column is checked too: what is written must be readable by everyone."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a", "b"], "s": bad_utf8([b"\xff", b"ok"])}))
    found = table(corpus("parquet", tmp_path, keep=["s"]))
    assert found.column("s").to_pylist() == [None, "ok"]
    assert found.column("reason").to_pylist() == ["invalid_utf8", None]


def test_a_text_too_long_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text above the limit is one reject."""
    monkeypatch.setattr(parquet, "MAX_RECORD_BYTES", 10)
    write(tmp_path / "a.parquet", pa.table({"text": ["a" * 10, "b" * 11, None]}))
    assert rows(corpus("parquet", tmp_path)) == [(0, "a" * 10, None), (1, None, "too_large"), (2, None, None)]


@pytest.mark.parametrize("kind", [pa.null(), pa.string()], ids=str)
def test_a_column_of_nulls_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    """An all-null column, of text or kept, is null in every row."""
    write(tmp_path / "a.parquet", pa.table({"text": pa.nulls(3, kind), "k": pa.nulls(3, kind)}))
    found = table(corpus("parquet", tmp_path, keep=["k"]))
    assert found.column("_content").null_count == found.column("k").null_count == 3
    assert found.schema.field("k").type == pa.string()


def test_fields_inside_structs_are_columns(tmp_path: Path) -> None:
    """A dotted name is a field of a struct, null where the struct is; a dot in a name is a name."""
    values = [{"text": "a", "d": {"n": 1}}, None, {"text": None, "d": None}]
    kind = pa.struct([("text", pa.string()), ("d", pa.struct([("n", pa.int64())])), ("other", pa.string())])
    write(tmp_path / "a.parquet", pa.table({"m": pa.array(values, kind), "x.y": ["p", "q", "r"]}))
    found = table(corpus("parquet", tmp_path, column="m.text", keep=["m.d.n", "x.y"]))
    assert found.column("_content").to_pylist() == ["a", None, None]
    assert found.column("m.d.n").to_pylist() == [1, None, None]
    assert found.column("x.y").to_pylist() == ["p", "q", "r"]
    with pytest.raises(SourceError, match=r"no column 'm\.nope'; columns: m, x\.y"):
        corpus("parquet", tmp_path, column="m.nope").plan()


def test_kept_columns_have_their_types(tmp_path: Path) -> None:
    """Kept columns come as stored.

    Dictionaries, views and fixed-size lists come as what they hold.
    """
    columns = {
        "n": pa.array([1, None], pa.int16()),
        "l": pa.array([[1, 2], None], pa.list_(pa.int64())),
        "d": pa.array(["a", "b"]).dictionary_encode(),
        "v": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        "w": pa.array(["s", None], pa.string_view()),
        "t": pa.array([1, 2], pa.timestamp("us", "UTC")),
    }
    write(tmp_path / "a.parquet", pa.table({"text": ["x", "y"], **columns}))
    found = table(corpus("parquet", tmp_path, keep=list(columns)))
    assert found.schema.field("v").type == pa.list_(pa.float32())
    assert found.schema.field("d").type == found.schema.field("w").type == pa.string()
    assert found.schema.field("t").type == pa.timestamp("us", "UTC")
    for name, column in columns.items():
        assert found.column(name).to_pylist() == column.to_pylist()


def test_a_template_takes_what_can_be_written_as_text(tmp_path: Path) -> None:
    """Numbers and dates stand in a template; a list can't, and the plan says so."""
    write(tmp_path / "a.parquet", pa.table({"t": ["a", None], "n": [1, 2], "f": [0.5, 1.0], "l": [[1], [2]]}))
    assert table(corpus("parquet", tmp_path, template="{t}-{n}-{f}")).column("_content").to_pylist() == [
        "a-1-0.5",
        None,
    ]
    with pytest.raises(SourceError, match=r"column 'l' is list<.*can't stand in source\.template"):
        corpus("parquet", tmp_path, template="{t} {l}").plan()
    with pytest.raises(SpecError, match=r"source\.template: .*brace"):
        corpus("parquet", tmp_path, template="{t} {").plan()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"body": ["a"], "n": [1]}, r"b\.parquet: no column 'text'; columns: body, n"),
        ({"text": [1], "n": [1]}, r"b\.parquet: column 'text' is int64; the text needs a string column"),
        ({"text": ["a"], "n": ["1"]}, r"b\.parquet: column 'n' is string, but int64 in a\.parquet"),
    ],
)
def test_a_second_file_with_other_columns_is_refused(
    second: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The plan finds a missing or different column of any file, and lists what is there."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "n": [1]}))
    write(tmp_path / "b.parquet", pa.table(second))
    with pytest.raises(SourceError, match=message):
        corpus("parquet", tmp_path, keep=["n"]).plan()


def test_a_new_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    """A file that comes later is held against the plan, although it is now the first."""
    write(tmp_path / "b.parquet", pa.table({"text": ["a"], "n": [1]}))
    plan = corpus("parquet", tmp_path, keep=["n"]).plan()
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "n": ["1"]}))
    with pytest.raises(SourceError, match=r"column 'n' is string, but this run reads it as int64"):
        corpus("parquet", tmp_path, keep=["n"]).update(plan)


def test_a_second_file_of_another_string_type_is_read(tmp_path: Path) -> None:
    """String types are one; a column of nulls fits everywhere."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "k": ["x"]}))
    write(tmp_path / "b.parquet", pa.table({"text": pa.array(["b"], pa.large_string()), "k": pa.nulls(1)}))
    write(
        tmp_path / "c.parquet",
        pa.table({"text": pa.array(["c"]).dictionary_encode(), "k": pa.array(["y"], pa.large_string())}),
    )
    found = table(corpus("parquet", tmp_path, keep=["k"]))
    assert found.select(["_content", "k"]).to_pylist() == [
        {"_content": "a", "k": "x"},
        {"_content": "b", "k": None},
        {"_content": "c", "k": "y"},
    ]


def test_files_without_rows_have_no_rows(tmp_path: Path) -> None:
    """Zero rows and zero row groups are fine, and give a unit each folder all the same."""
    empty = pa.table({"text": pa.array([], pa.string())})
    write(tmp_path / "a.parquet", empty)
    pq.ParquetWriter(tmp_path / "b.parquet", empty.schema).close()
    found = corpus("parquet", tmp_path)
    assert found.plan().rows == 0
    assert [(len(unit.table), unit.end.source) for unit in units(found)] == [(0, None)]


def test_hive_folders_are_columns(tmp_path: Path) -> None:
    """A `key=value` folder stands in a template and in a condition.

    A column of that name comes first.
    """
    write(tmp_path / "lang=en" / "a.parquet", pa.table({"text": ["a", "b"]}))
    write(tmp_path / "lang=de" / "a.parquet", pa.table({"text": ["c"]}))
    assert texts(corpus("parquet", tmp_path, template="{lang}: {text}")) == ["de: c", "en: a", "en: b"]
    assert texts(corpus("parquet", tmp_path, where="lang = 'en' AND text <> 'a'")) == ["b"]
    write(tmp_path / "lang=en" / "a.parquet", pa.table({"text": ["a"], "lang": ["own"]}))
    write(tmp_path / "lang=de" / "a.parquet", pa.table({"text": ["c"], "lang": ["eigen"]}))
    assert texts(corpus("parquet", tmp_path, template="{lang}: {text}")) == ["eigen: c", "own: a"]


def test_a_broken_page_ends_its_file(tmp_path: Path) -> None:
    """Rows before a broken page are read; the rest is one reject with the number of rows lost.

    Other files are whole.
    """
    good = [f"text {row * 7919 % 100_003} {row}" for row in range(40_000)]
    path = write(
        tmp_path / "a.parquet",
        pa.table({"text": good}),
        compression="zstd",
        use_dictionary=False,
        row_group_size=20_000,
    )
    write(tmp_path / "b.parquet", pa.table({"text": ["whole"]}))
    chunk = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    found = rows(corpus("parquet", tmp_path))
    assert found[-2:] == [(len(found) - 2, None, "unreadable"), (0, "whole", None)]
    assert 20_000 <= len(found) - 2 < 40_000
    assert found[:-2] == [(row, good[row], None) for row in range(len(found) - 2)]
    message = table(corpus("parquet", tmp_path)).column("message").to_pylist()[-2]
    assert f"{40_000 - (len(found) - 2)} rows not read" in message


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100, b"\xff" * 64 + b"\x10\0\0\0PAR1"])
def test_a_broken_footer_is_a_file_level_reject(content: bytes, tmp_path: Path) -> None:
    """A file that can't be opened costs itself, unless it is the only one."""
    write(tmp_path / "a.parquet", content)
    with pytest.raises(SourceError, match="none of 1 files can be read"):
        corpus("parquet", tmp_path).plan()
    write(tmp_path / "b.parquet", pa.table({"text": ["whole"]}))
    assert rows(corpus("parquet", tmp_path)) == [(0, None, "unreadable"), (0, "whole", None)]


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    """Which one is meant can't be told."""
    write(tmp_path / "a.parquet", pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]))
    with pytest.raises(SourceError, match="column 'text' is there twice"):
        corpus("parquet", tmp_path).plan()


def test_a_value_that_does_not_fit_costs_its_row(tmp_path: Path) -> None:
    """With `types`, a value that can't be converted is one reject; the rest of the file is read."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a", "b", "c"], "n": [1, 1 << 40, 3]}))
    read = table(corpus("parquet", tmp_path, keep=["n"], types={"n": "int32"}))
    assert read.column("n").to_pylist() == [1, None, 3]
    assert read.column("reason").to_pylist() == [None, "wrong_type", None]
