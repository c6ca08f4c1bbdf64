"""Types that mean the same are one type, whichever file comes first and however it is stored."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import corpus, table, texts, write

from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.type_names import parse_type
from embed_ops.sources.types import common_type, meaning, plain_column, stored_type

IDS = [uuid.UUID(int=number) for number in (7, 2**127)]

SAME = [
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())],
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_view(pa.string_view()),
        pa.list_(pa.null()),
    ],
    [pa.list_(pa.float32(), 2), pa.large_list(pa.float32()), pa.fixed_shape_tensor(pa.float32(), [2])],
    [pa.binary(16), pa.uuid()],
    [pa.string(), pa.json_()],
    [pa.struct([("a", pa.string_view())]), pa.struct([("a", pa.json_())])],
]


@pytest.mark.parametrize("kinds", SAME, ids=lambda kinds: str(kinds[0]))
def test_ways_of_storing_are_one_type(kinds: list[pa.DataType]) -> None:
    """In every order they have one type in common, which is plain."""
    found = {common_type(order) for order in itertools.permutations(kinds)}
    assert len(found) == 1
    assert found == {meaning(common_type(kinds))}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.string(), pa.binary(), None),
        (pa.int64(), pa.string(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.float64(), pa.decimal128(5, 2), None),
        (pa.decimal128(5, 2), pa.decimal128(10, 4), pa.decimal128(10, 4)),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.list_(pa.int64()), pa.list_(pa.uint64()), None),
        (pa.list_(pa.int32()), pa.list_view(pa.float64()), pa.list_(pa.float64())),
        (pa.null(), pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int8())),
        (
            pa.struct([("b", pa.int8())]),
            pa.struct([("a", pa.string()), ("b", pa.null())]),
            pa.struct([("a", pa.string()), ("b", pa.int8())]),
        ),
    ],
    ids=str,
)
def test_the_common_type_loses_nothing(
    one: pa.DataType, other: pa.DataType, common: pa.DataType | None
) -> None:
    """It is what Arrow unifies to where no value can be lost, and the same in both orders."""
    assert common_type([one, other]) == common_type([other, one]) == common


@pytest.mark.parametrize(
    "values",
    [
        pa.array([["a", None], None, []], pa.list_view(pa.string_view())),
        pa.array([[["a"]], None], pa.list_(pa.large_list_view(pa.string()))),
        pa.array([{"s": "x"}, None], pa.struct([("s", pa.string_view())])),
        pa.array([[b"x"]], pa.large_list(pa.binary_view())),
        pa.array(IDS, pa.uuid()).storage,
    ],
    ids=lambda values: str(values.type),
)
def test_plain_columns_hold_the_same_values(values: pa.Array) -> None:
    """Undoing views and dictionaries changes the type, and no value."""
    plain = plain_column(values)
    plain.validate(full=True)
    assert plain.to_pylist() == values.to_pylist()
    assert stored_type(plain.type) == plain.type or pa.types.is_large_list(plain.type)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_files_are_asked_before_a_type_is_believed(order: tuple[int, ...], tmp_path: Path) -> None:
    """A column of nulls fits every type, and int64 is read as double beside it, in any order."""
    columns = [pa.nulls(2), pa.array([1, None]), pa.array([0.5, float("inf")])]
    for name, place in enumerate(order):
        write(tmp_path / f"{name}.parquet", pa.table({"text": ["a", "b"], "n": columns[place]}))
    read = table(corpus("parquet", tmp_path, keep=["n"]))
    assert read.schema.field("n").type == pa.float64()
    assert set(read.column("n").to_pylist()) == {None, 1.0, 0.5, float("inf")}


def test_a_whole_number_that_a_double_does_not_hold_is_a_reject(tmp_path: Path) -> None:
    """Merging never rounds."""
    write(tmp_path / "1.parquet", pa.table({"text": ["a", "b"], "n": [2**53 + 1, 1]}))
    write(tmp_path / "2.parquet", pa.table({"text": ["c"], "n": [1.5]}))
    read = table(corpus("parquet", tmp_path, keep=["n"]))
    assert read.column("reason").to_pylist() == ["wrong_type", None, None]


def test_types_without_one_in_common_name_both_files_and_the_remedy(tmp_path: Path) -> None:
    """Ids below zero and above 2^63 fit no integer type; as text they are kept."""
    write(tmp_path / "1.parquet", pa.table({"text": ["a"], "id": pa.array([2**63], pa.uint64())}))
    write(tmp_path / "2.parquet", pa.table({"text": ["b"], "id": [-1]}))
    with pytest.raises(
        SourceError, match=r"2\.parquet: .* int64, but uint64 in 1\.parquet; .*source\.types\.id"
    ):
        corpus("parquet", tmp_path, keep=["id"]).plan()
    read = table(corpus("parquet", tmp_path, keep=["id"], types={"id": "string"}))
    assert read.column("id").to_pylist() == [str(2**63), "-1"]


def test_logical_types_of_other_writers(tmp_path: Path) -> None:
    """UUIDs and JSON as DuckDB writes them: kept, embedded, in a template, and asked by `where`."""
    made = "SELECT uuid() AS id, ('{\"n\": ' || i || '}')::JSON AS doc, 't' AS text FROM range(3) t(i)"
    duckdb.sql(f"COPY ({made}) TO '{tmp_path / 'a.parquet'}'")
    ids = [value for (value,) in duckdb.sql(f"SELECT id FROM '{tmp_path / 'a.parquet'}'").fetchall()]
    read = table(corpus("parquet", tmp_path, column="doc", keep=["id"], where="id IS NOT NULL"))
    assert read.column("_content").to_pylist() == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert read.column("id").to_pylist() == [value.bytes for value in ids]
    assert texts(corpus("parquet", tmp_path, template="{id}")) == [str(value) for value in ids]


def test_the_marker_of_hive_is_null_and_a_key_may_be_missing(tmp_path: Path) -> None:
    """As pyarrow reads them: no value, in `where` and in templates, in whichever file."""
    for folder, name in (
        ("lang=__HIVE_DEFAULT_PARTITION__", "a"),
        ("lang=d%65", "b"),
        ("zz", "c"),
        ("", "d"),
    ):
        write(tmp_path / folder / "x.parquet", pa.table({"text": [name]}))
    assert texts(corpus("parquet", tmp_path, where="lang IS NULL")) == ["a", "d", "c"]
    assert texts(corpus("parquet", tmp_path, where="lang = 'de'")) == ["b"]
    found = table(corpus("parquet", tmp_path, template="{lang}: {text}")).column("_content")
    assert sorted(found.drop_null().to_pylist()) == ["de: b"]
    assert found.null_count == 3


def test_a_key_that_is_a_column_too(tmp_path: Path) -> None:
    """It is not kept, since a reader would find it twice; in the text the file's value counts."""
    write(tmp_path / "year=2024" / "a.parquet", pa.table({"text": ["a"], "year": [7]}))
    with pytest.raises(
        SpecError, match=r"'year' is a column of the files and a key .*\(year=2024\).*leave it out"
    ):
        corpus("parquet", tmp_path, keep=["year"]).plan()
    assert texts(corpus("parquet", tmp_path, template="{year}")) == ["7"]
    write(tmp_path / "b.parquet", pa.table({"text": ["b"]}))
    write(tmp_path / "year=2025" / "c.parquet", pa.table({"text": ["c"]}))
    with pytest.raises(SourceError, match=r"column of year=2024/a\.parquet and a key of folders"):
        corpus("parquet", tmp_path, template="{year}").plan()


def test_names_in_where_of_every_alphabet(tmp_path: Path) -> None:
    """DuckDB takes them without quotes."""
    write(
        tmp_path / "a.parquet",
        pa.table({"text": ["a", "b"], "größe": [1, 5], "日本": ["x", "y"], "a b": [1, 2]}),
    )
    for where in ("größe > 3", "日本 = 'y'", '"größe" > 3 AND "a b" = 2'):
        assert texts(corpus("parquet", tmp_path, where=where)) == ["b"]


@pytest.mark.parametrize(
    "where",
    ["text = ?", "(" * 2000 + "true" + ")" * 2000, "", "text = '\udcff'", "unnest([1])"],
)
def test_what_duckdb_refuses_is_one_sentence(where: str, tmp_path: Path) -> None:
    """None of its errors goes through as it is."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a"]}))
    with pytest.raises(SpecError, match=r"source\.where"):
        corpus("parquet", tmp_path, where=where).plan()


JSON_TYPES: list[tuple[str, list[Any], pa.DataType, list[Any]]] = [
    ("null, then numbers", [None, 3, 4.5], pa.float64(), [None, 3.0, 4.5]),
    ("some below zero", [1, -5, 7], pa.int64(), [1, -5, 7]),
    ("above 2^63", [1, 2**63, 2**64 - 1], pa.uint64(), [1, 2**63, 2**64 - 1]),
    ("lists", [[1, "x"], {"k": 1}, None], pa.string(), ['[1, "x"]', '{"k": 1}', None]),
]


@pytest.mark.parametrize(("name", "values", "kind", "kept"), JSON_TYPES, ids=[case[0] for case in JSON_TYPES])
def test_heads_of_several_files_tell_the_types_of_json(
    name: str, values: list[Any], kind: pa.DataType, kept: list[Any], tmp_path: Path
) -> None:
    """One record a file, in both orders."""
    for folder, order in (("ab", values), ("ba", values[::-1])):
        for number, value in enumerate(order):
            line = json.dumps({"text": "t", "v": value}).encode()
            write(tmp_path / folder / f"{number}.jsonl", line + b"\n")
        read = table(corpus("jsonl", tmp_path / folder, keep=["v"]))
        assert read.schema.field("v").type == kind
        assert read.column("reason").null_count == len(values)
        assert sorted(map(str, read.column("v").to_pylist())) == sorted(map(str, kept))


def test_a_reject_names_the_remedy_and_the_remedy_works(tmp_path: Path) -> None:
    """An id of 2^64 fits no integer; as a string all ids are kept, lists and structs too."""
    lines = [
        {"text": "a", "v": 2**64, "l": ["x"]},
        {"text": "b", "v": 1, "l": [1]},
        {"text": "c", "l": [None]},
    ]
    write(tmp_path / "a.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    read = table(corpus("jsonl", tmp_path, keep=["v"]))
    assert "source.types.v" in read.column("message")[0].as_py()
    read = table(corpus("jsonl", tmp_path, keep=["v", "l"], types={"v": "string", "l": "list<string>"}))
    assert read.column("v").to_pylist() == [str(2**64), "1", None]
    assert read.column("reason").to_pylist() == [None, "wrong_type", None]
    assert read.column("l").to_pylist() == [["x"], None, [None]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.list_(pa.string()),
        pa.list_(pa.list_(pa.float32())),
        pa.struct([("a", pa.int64()), ("größe", pa.list_(pa.string()))]),
        pa.map_(pa.string(), pa.decimal128(10, 2)),
        pa.timestamp("us", "Europe/Berlin"),
        pa.timestamp("ns"),
        pa.time32("s"),
        pa.date32(),
        pa.binary(16),
    ],
    ids=str,
)
def test_types_are_read_as_arrow_prints_them(kind: pa.DataType) -> None:
    """What a message shows can be written into the spec."""
    assert parse_type("x", str(kind)) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "list<",
        "list<string>>",
        "struct<a>",
        "foo",
        "decimal128(99,1)",
        "timestamp[us, tz=Mars/X]",
        "list<" * 99,
    ],
)
def test_what_is_no_type_is_said(text: str) -> None:
    """One sentence, with examples."""
    with pytest.raises(SpecError, match=r"source\.types\.x: .* is not an Arrow type, as int64"):
        parse_type("x", text)


def test_a_type_that_the_file_has_no_way_to(tmp_path: Path) -> None:
    """It is found while planning, in Parquet and in CSV, at any depth."""
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "v": pa.array([[1]])}))
    write(tmp_path / "b" / "b.csv", b"text,v\na,1\n")
    for kind, path, asked in (
        ("parquet", tmp_path / "a.parquet", "list<list<int8>>"),
        ("csv", tmp_path / "b", "list<string>"),
    ):
        with pytest.raises(SourceError, match=r"of which source\.types\.v = .* can't be made"):
            corpus(kind, path, keep=["v"], types={"v": asked}).plan()


def test_the_footer_is_the_schema_of_every_way_to_it(tmp_path: Path) -> None:
    """A file of an extension without Arrow's own schema is one file with one column."""
    at = write(
        tmp_path / "a.parquet",
        pa.table({"text": ["a"], "id": pa.array(IDS[:1], pa.uuid())}),
        store_schema=False,
    )
    found = corpus("parquet", at, keep=["id"])
    layout = found.source.inspect("a.parquet", found.place(found.files[0]), 1)
    assert layout.schema == pq.ParquetFile(at).schema_arrow
    assert found.plan().columns.field("id").type == pa.binary(16)
