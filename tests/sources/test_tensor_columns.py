"""Columns of tensors: what is read of Parquet and JSONL files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from reading import corpus, rows, table, units, write

from embed_ops.errors import SourceError, SpecError
from embed_ops.schema import Reason
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec, parse_source


def tensors(kind: str, path: Path) -> Corpus:
    """Open a corpus of tensors."""
    return corpus(kind, path, modality="tensor")


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.uint8(), pa.int64()])
def test_lists_of_every_layout(tmp_path: Path, kind: pa.DataType) -> None:
    """Lists of every layout are read as lists of their own numbers, and nulls stay."""
    given = [[1, 2], None, [3, 4]]
    for number, layout in enumerate((pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2))):
        column = pa.array(given, pa.list_(pa.uint8())).cast(pa.list_(kind))
        write(tmp_path / str(number) / "a.parquet", pa.table({"text": pa.array(column.to_pylist(), layout)}))
        opened = tensors("parquet", tmp_path / str(number))
        assert [numbers for _, numbers, _ in rows(opened)] == given
        assert table(opened).schema.field("_content").type == pa.list_(kind)


def test_nested_lists_and_arrows_own_tensors(tmp_path: Path) -> None:
    """Lists in lists stay so; Arrow's tensors are the lists that they are stored as."""
    nested = pa.array([[[1.0, 2.0], [3.0, 4.0]], None, [[], [5.0]]])
    write(tmp_path / "nested" / "a.parquet", pa.table({"text": nested}))
    assert [numbers for _, numbers, _ in rows(tensors("parquet", tmp_path / "nested"))] == nested.to_pylist()
    own = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    write(tmp_path / "own" / "a.parquet", pa.table({"text": own}))
    read = [numbers for _, numbers, _ in rows(tensors("parquet", tmp_path / "own"))]
    assert read == [list(range(6)), list(range(6, 12))]


def test_files_of_several_widths(tmp_path: Path) -> None:
    """Integers beside floats are doubles, and a file of nulls fits every other."""
    write(tmp_path / "a.parquet", pa.table({"text": pa.array([None], pa.list_(pa.null()))}))
    write(tmp_path / "b.parquet", pa.table({"text": pa.array([[1, 2]], pa.list_(pa.int32()))}))
    write(tmp_path / "c.parquet", pa.table({"text": pa.array([[0.5]], pa.list_(pa.float32()))}))
    opened = tensors("parquet", tmp_path)
    assert [numbers for _, numbers, _ in rows(opened)] == [None, [1.0, 2.0], [0.5]]
    assert table(opened).schema.field("_content").type == pa.list_(pa.float64())


def test_units_are_cut_by_the_bytes_of_the_numbers(tmp_path: Path) -> None:
    """A unit holds no more bytes of numbers than it may, nested or not; nulls weigh nothing."""
    flat = pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0]], pa.list_(pa.float32()))
    write(tmp_path / "flat" / "a.parquet", pa.table({"text": flat}))
    assert [len(unit.table) for unit in units(tensors("parquet", tmp_path / "flat"), text=12)] == [2, 2]
    nested = pa.array([[[1], [2, 3]], [[4, 5, 6]], [[]], None], pa.list_(pa.list_(pa.int64())))
    write(tmp_path / "nested" / "a.parquet", pa.table({"text": nested}))
    assert [len(unit.table) for unit in units(tensors("parquet", tmp_path / "nested"), text=24)] == [1, 3]


def test_arrays_of_jsonl(tmp_path: Path) -> None:
    """Numbers of JSON are doubles; lines whose value is no array of numbers are rejects."""
    given = [[1, 2.5], [3], None, "a", [True], ["1"], [1 << 60 | 1], [None, 1.0]]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": value}) for value in given).encode())
    wrong = (None, Reason.WRONG_TYPE)
    read = [(numbers, reason) for _, numbers, reason in rows(tensors("jsonl", tmp_path))]
    fine = [([1.0, 2.5], None), ([3.0], None), (None, None)]
    assert read == [*fine, wrong, wrong, wrong, wrong, ([None, 1.0], None)]


def test_nested_arrays_of_jsonl(tmp_path: Path) -> None:
    """Arrays in arrays are as deep as the deepest; an empty one says nothing."""
    given = [[], [[1, 2], [3]], [4]]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": value}) for value in given).encode())
    read = [(numbers, reason) for _, numbers, reason in rows(tensors("jsonl", tmp_path))]
    assert read == [([], None), ([[1.0, 2.0], [3.0]], None), (None, Reason.WRONG_TYPE)]


@pytest.mark.parametrize("kind", [pa.string(), pa.float32(), pa.list_(pa.string()), pa.list_(pa.bool_())])
def test_other_columns_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    """Numbers without a list, and lists of other things, are no tensors."""
    write(tmp_path / "a.parquet", pa.table({"text": pa.array([None], kind)}))
    with pytest.raises(SourceError, match="tensors need a column of lists of numbers"):
        tensors("parquet", tmp_path).plan()


def test_the_first_rows_are_arrays(tmp_path: Path) -> None:
    """What is compared are rows without a null, as arrays that hold a number in its own bytes."""
    column = pa.array([[1.0, 2.0], None, [None, 1.0], [3.0, 4.0]], pa.list_(pa.float32()))
    write(tmp_path / "a.parquet", pa.table({"text": column}))
    opened = tensors("parquet", tmp_path)
    first = opened.head(opened.plan(), 10)
    assert [numbers.tolist() for numbers in first] == [[1.0, 2.0], [3.0, 4.0]]
    assert first[0].dtype == np.float32


@pytest.mark.parametrize(
    "source", [{"kind": "csv", "column": "x"}, {"kind": "jsonl", "template": "{x}"}, {"kind": "text"}]
)
def test_tensors_come_from_a_column_of_lists(source: dict[str, str]) -> None:
    """CSV and lines of text have no lists, and a template is a text."""
    with pytest.raises(SpecError, match="lists of numbers come from a column of Parquet or JSONL"):
        parse_source({"path": "in/", "modality": "tensor", **source})


def test_a_family_that_takes_no_tensors() -> None:
    """A model of texts takes none."""
    source = {"path": "in/", "column": "x", "modality": "tensor"}
    with pytest.raises(SpecError, match="modality is 'tensor', and family 'text' embeds no such thing"):
        Spec.parse({"source": source, "encoder": {"model": "m"}, "sink": {"path": "out/"}})
