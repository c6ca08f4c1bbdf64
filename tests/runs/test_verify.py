"""Laws of verify: a good run passes, and whatever is wrong is found and named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import contents, corpus_of, make, spec_of, table_of
from reading import PACKINGS, compress, write

from embed_ops.errors import RunError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.parquet import encode, read_footer, vector_column
from embed_ops.runs.record import Record
from embed_ops.runs.run import Run
from embed_ops.runs.verify.run import verify
from embed_ops.runs.verify.verification import Verification


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a finished run of six units, with rejects."""
    make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    return tmp_path / "run"


def found(folder: Path, *, source: bool = False) -> list[tuple[str, str]]:
    """List the differences as (file, what)."""
    return [(item.file, item.what) for item in verify(str(folder), source=source).differences]


def nth(folder: Path, index: int, **fields: Any) -> Record:
    """Give a record of the run, with other fields."""
    records = sorted(RunDir.at(str(folder)).manifest.read().values(), key=lambda record: record.unit)
    return replace(records[index], **fields)


def rewrite(folder: Path, record: Record, change: Callable[[pa.Table], pa.Table], **footer: Any) -> None:
    """Change the rows of a unit, and let size and hash in the manifest be those of the new file."""
    path = folder / "data" / f"{record.unit}.parquet"
    old = read_footer(pq.read_metadata(path))
    content = encode(change(table_of(path)), old | footer)
    path.write_bytes(content)
    run = RunDir.at(str(folder))
    run.manifest.read()
    run.manifest.append(
        [replace(record, bytes=content.size, sha256=hashlib.sha256(content).hexdigest())], "a-1-1"
    )


def test_a_good_run_passes(folder: Path) -> None:
    """Nothing is found, and everything is counted, from the run alone and with its source."""
    for source in (False, True):
        assert verify(str(folder), source=source) == Verification(
            units=6, rows=18, rejects=4, filtered=2, records=24, source=source
        )


def test_the_source_is_not_needed(folder: Path) -> None:
    """Without `source` the corpus may be gone."""
    shutil.rmtree(folder.parent / "in")
    assert verify(str(folder)).ok


def test_every_flipped_byte_is_found(folder: Path) -> None:
    """One byte of any data or reject file, anywhere, is found and the file is named."""
    for name, content in contents(folder).items():
        for place in {0, 5, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 1}:
            changed = bytearray(content)
            changed[place] ^= 0x10
            (folder / name).write_bytes(changed)
            differences = found(folder)
            assert differences
            unit = name.removeprefix("data/").removeprefix("rejects/").split(".jsonl.")[0]
            assert all(unit in file for file, _ in differences)
            assert any("changed since it was written" in what for _, what in differences)
        (folder / name).write_bytes(content)
    assert found(folder) == []


@pytest.mark.parametrize("index", range(6))
def test_a_missing_data_file_is_found(index: int, folder: Path) -> None:
    """A unit whose file is gone is named, wherever it stands in its span."""
    unit = nth(folder, index).unit
    (folder / "data" / f"{unit}.parquet").unlink()
    assert found(folder) == [(f"data/{unit}.parquet", "missing: the file is not there")]


def test_a_missing_reject_file_is_found(folder: Path) -> None:
    """A reject file that is gone is found by the unit that names it."""
    record = nth(folder, 0)
    (folder / "rejects" / str(record.reject_file)).unlink()
    assert found(folder) == [(f"data/{record.unit}.parquet", "can't be read: the file is not there")]


@pytest.mark.parametrize("index", range(6))
def test_a_unit_without_a_record_is_found(index: int, folder: Path) -> None:
    """A unit missing with its record breaks its chain; units behind it are not called foreign."""
    run = RunDir.at(str(folder))
    records = run.manifest.read()
    lost = records.pop(nth(folder, index).unit)
    shutil.rmtree(folder / "manifest")
    (folder / "data" / f"{lost.unit}.parquet").unlink()
    run.manifest.append(records.values(), "a-1-1")
    assert found(folder) == [(f"data/{lost.unit}.parquet", "missing: no record of this unit")]


def test_a_foreign_file_is_found(folder: Path) -> None:
    """A file in the data folder that is no unit's is named."""
    write(folder / "data" / "a=1" / "more.parquet", pa.table({"x": [1]}))
    assert found(folder) == [("data/a=1/more.parquet", "no unit of the plan has this file")]


def test_a_unit_off_its_chain_is_found(folder: Path) -> None:
    """A unit that no other leads to holds rows twice: it is named although it has a record."""
    record = nth(folder, 1)
    name = record.unit[:-12] + f"{int(record.unit[-12:]) + 1:012d}"
    shutil.copy(folder / "data" / f"{record.unit}.parquet", folder / "data" / f"{name}.parquet")
    run = RunDir.at(str(folder))
    run.manifest.read()
    run.manifest.append([replace(record, unit=name, reject_file=None)], "a-1-1")
    assert (f"data/{name}.parquet", "no unit of the plan has this file") in found(folder)


def test_a_dropped_row_is_found(folder: Path) -> None:
    """A row taken out is found, whatever the footer says, though the manifest has the new hash."""
    record = nth(folder, 1)
    name = f"data/{record.unit}.parquet"
    rewrite(folder, record, lambda table: table.slice(1))
    assert (name, "has 2 rows, its record 3") in found(folder)
    rewrite(folder, replace(record, rows=2), lambda table: table, rows=2)
    assert found(folder) == [(name, "5 records were read, but rows + rejects + filtered = 4")]


def test_rows_out_of_place_are_found(folder: Path) -> None:
    """Rows that are swapped, doubled, moved to another place or another file are found."""
    record, name = nth(folder, 1), f"data/{nth(folder, 1).unit}.parquet"

    def moved(column: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(
            table.schema.get_field_index(column), column, pa.array(values, table.schema.field(column).type)
        )

    path = folder / name
    content, table = path.read_bytes(), table_of(path)
    rows, sources = table.column("_row").to_pylist(), table.column("_source").to_pylist()
    for column, values, what in (
        ("_row", [rows[1], rows[0], *rows[2:]], "not in source order"),
        ("_row", [rows[0], rows[0], *rows[2:]], "one stands twice"),
        ("_row", [*rows[:2], 10**6], "row 1000000 of a=1/x.jsonl does not belong to this unit"),
        ("_source", [*sources[:2], "a=2/y.jsonl"], "of a=2/y.jsonl does not belong to this unit"),
    ):
        rewrite(folder, record, moved(column, values))
        assert any(file == name and what in text for file, text in found(folder))
        path.write_bytes(content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_found(value: float, folder: Path) -> None:
    """One NaN or infinity is found, and the row named."""
    record = nth(folder, 2)

    def spoil(table: pa.Table) -> pa.Table:
        values = (
            table.column("embedding").combine_chunks().flatten().to_numpy().copy().reshape(len(table), -1)
        )
        values[1, 2] = value
        return table.set_column(
            table.schema.get_field_index("embedding"), "embedding", vector_column(values, "float32")
        )

    rewrite(folder, record, spoil)
    assert found(folder) == [
        (f"data/{record.unit}.parquet", "column 'embedding' is not finite in 1 rows, the first is row 1")
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unit", "other"),
        ("fingerprint", "0" * 16),
        ("reject_file", "other"),
        ("rows", 99),
        ("outputs", {"embedding": {"dim": 4, "kind": "lists"}}),
    ],
)
def test_a_wrong_footer_is_found(key: str, value: object, folder: Path) -> None:
    """A footer that says something else than the record is found."""
    record = nth(folder, 0)
    rewrite(folder, record, lambda table: table, **{key: value})
    assert [what.startswith(f"footer says {key} = {value!r}") for _, what in found(folder)] == [True]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"begin": 1}, "the units jump from"),
        ({"end": 1}, "the units"),
    ],
)
def test_ranges_that_do_not_tile_are_found(change: dict[str, int], what: str, folder: Path) -> None:
    """A gap or an overlap between the ranges of units is found."""
    record = nth(folder, 1)
    run = RunDir.at(str(folder))
    run.manifest.read()
    run.manifest.append([replace(record, ranges=[record.ranges[0] | change])], "a-1-1")
    assert any(file == "a=1/x.jsonl" and text.startswith(what) for file, text in found(folder))


def test_a_changed_source_is_found(folder: Path) -> None:
    """With `source`, grown, removed and new files are named, and other files are still compared."""
    source = folder.parent / "in"
    with (source / "a=1" / "x.jsonl").open("a") as file:
        file.write('{"text": "more", "n": 1}\n')
    write(source / "a=3" / "z.jsonl", b"{}\n")
    (source / "a=2" / "y.jsonl").unlink()
    assert [file for file, _ in found(folder, source=True)] == ["a=1/x.jsonl", "a=2/y.jsonl", "a=3/z.jsonl"]
    assert found(folder) == []


def test_a_row_that_the_source_has_beside_is_found(folder: Path) -> None:
    """With `source`, a missing row is found although all counts and hashes of the run agree."""
    record = nth(folder, 1)
    part = record.ranges[0] | {"records": record.ranges[0]["records"] - 1}
    rewrite(
        folder, replace(record, rows=2, ranges=[part]), lambda table: table.slice(1), rows=2, ranges=[part]
    )
    assert found(folder) == []
    assert [(file, what[:38]) for file, what in found(folder, source=True)] == [
        (f"data/{record.unit}.parquet", "1 rows of the source are not in it, th")
    ]


@pytest.mark.parametrize("packing", PACKINGS[1:])
@pytest.mark.parametrize("unit_rows", [1, 4, 5, 1000])
def test_a_run_over_a_truncated_file_passes(packing: str, unit_rows: int, tmp_path: Path) -> None:
    """A file-level reject is counted once and found again in the source, wherever units end."""
    packed = compress(b"".join(f"line {number}\n".encode() for number in range(12)), packing)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.txt{packing}").write_bytes(packed[: len(packed) - 1])
    write(tmp_path / "in" / "b.txt", b"b\n")
    make(spec_of({"kind": "text", "path": str(tmp_path / "in")}, tmp_path / "run", unit_rows))
    result = verify(str(tmp_path / "run"), source=True)
    assert result.differences == []
    assert result.rejects == 1
    assert result.records == result.rows


def test_a_run_of_parquet_with_a_broken_file_passes(tmp_path: Path) -> None:
    """A file that can't be opened is one reject, found again in the source."""
    write(tmp_path / "in" / "a.parquet", pa.table({"text": [str(number) for number in range(9)]}))
    write(tmp_path / "in" / "b.parquet", b"PAR1")
    make(spec_of({"kind": "parquet", "column": "text", "path": str(tmp_path / "in")}, tmp_path / "run"))
    result = verify(str(tmp_path / "run"), source=True)
    assert (result.differences, result.rows, result.rejects) == ([], 9, 1)


def test_a_run_that_was_stopped_is_not_whole(tmp_path: Path) -> None:
    """Missing units of every span are named by where they begin; so is the status."""
    run, _, _ = make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"), most_units=1)
    header = run.read_header()
    assert header is not None
    run.write_header(replace(header, status="stopped"), "a-1-1")
    files = [file for file, _ in found(tmp_path / "run")]
    assert files[0] == "run.json"
    assert len(files) == 3
    assert "data/a=2/y.jsonl.000000000000.parquet" in files


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """Verify needs a run, and can read its manifest."""
    with pytest.raises(RunError):
        verify(str(tmp_path))
    make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    part = next((tmp_path / "run" / "manifest").iterdir())
    part.write_bytes(b"PAR1")
    with pytest.raises(RunError, match="can't be read"):
        verify(str(tmp_path / "run"))
    assert Run(str(tmp_path / "run")).status == "finished"
