"""A column of tensors becomes what a model takes: distinct rows of its shape, and rejects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embed_ops.encoders.tensors import (
    Taken,
    blank_tensors,
    most_tensors,
    prepare_tensors,
    tensor_positions,
    tensors_of,
)
from embed_ops.errors import SourceError
from embed_ops.schema import Reason

FOUR = Taken((2, 2))
NAN, INF = float("nan"), float("inf")


def test_flat_rows() -> None:
    """Each distinct row is there once, in order of first appearance; the others say why not."""
    rows = [[1, 2, 3, 4], None, [1, 2, 3], [4, 3, 2, 1], [1, 2, 3, 4], [1, None, 3, 4], [1, 2, NAN, 4]]
    column = pa.array([*rows, [1, 2, 3, INF], []], pa.list_(pa.float32()))
    for layout in (column, column.cast(pa.large_list(pa.float32())), column.cast(pa.list_(pa.float64()))):
        prepared = prepare_tensors(layout, FOUR)
        assert prepared.index.tolist() == [0, -1, -1, 1, 0, -1, -1, -1, -1]
        assert prepared.inputs.column("tensor").to_pylist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
        assert prepared.inputs.schema.field("tensor").type == pa.list_(pa.float32(), 4)
        assert [(reject.row, reject.reason) for reject in prepared.rejects] == [
            (1, Reason.NULL),
            (2, Reason.WRONG_SHAPE),
            (5, Reason.NULL),
            (6, Reason.NON_FINITE),
            (7, Reason.NON_FINITE),
            (8, Reason.WRONG_SHAPE),
        ]
        assert not prepared.truncated.any()


def test_nested_rows() -> None:
    """Lists in lists have the lengths of the model's axes; a row is a reject for one list in it."""
    whole, other = [[1.0, 2.0], [3.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]
    faulty = [None, [[1.0, 2.0], [3.0]], [[1.0, 2.0]], [[1.0, 2.0], None], [[1.0, 2.0], [3.0, None]]]
    prepared = prepare_tensors(pa.array([whole, *faulty, other, whole]), FOUR)
    assert prepared.index.tolist() == [0, -1, -1, -1, -1, -1, 1, 0]
    assert tensors_of(prepared.inputs, FOUR).tolist() == [whole, other]
    null, shape = Reason.NULL, Reason.WRONG_SHAPE
    assert [reject.reason for reject in prepared.rejects] == [null, shape, shape, null, null]
    assert "a list of the tensor, of axis 2 of 2, has 1 entries, and the model takes 2" in (
        prepared.rejects[1].message
    )


@pytest.mark.parametrize(
    ("dtype", "rows", "fine"),
    [
        ("int32", [[1.0], [1.5], [1e12], [NAN]], [True, False, False, False]),
        ("uint8", [[255], [256], [-1]], [True, False, False]),
        ("float32", [[1e300], [1e30], [16777217]], [False, True, True]),
        ("float16", [[65504.0], [1e5]], [True, False]),
    ],
)
def test_numbers_of_the_models_type(dtype: str, rows: list[list[float]], fine: list[bool]) -> None:
    """A number that the model's type does not have makes a reject; a float is only rounded."""
    prepared = prepare_tensors(pa.array(rows), Taken((1,), dtype))
    assert (prepared.index >= 0).tolist() == fine
    assert prepared.inputs.schema.field("tensor").type.value_type == pa.from_numpy_dtype(np.dtype(dtype))
    assert all(reject.reason in (Reason.WRONG_TYPE, Reason.NON_FINITE) for reject in prepared.rejects)


@pytest.mark.parametrize(
    "kind", [pa.null(), pa.list_(pa.null()), pa.list_(pa.float32(), 4), pa.list_(pa.list_(pa.int8()))]
)
@pytest.mark.parametrize("rows", [0, 2])
def test_columns_of_nothing(kind: pa.DataType, rows: int) -> None:
    """A column without rows, or of nulls alone, has no inputs."""
    prepared = prepare_tensors(pa.nulls(rows, kind), FOUR)
    assert len(prepared.inputs) == 0
    assert [reject.reason for reject in prepared.rejects] == [Reason.NULL] * rows


@pytest.mark.parametrize("column", [pa.array(["a"]), pa.array([["a"]]), pa.array([1.0]), pa.array([[[1.0]]])])
def test_other_columns_are_refused(column: pa.Array) -> None:
    """What is no list of numbers is refused, and lists in more lists than the model has axes."""
    with pytest.raises(SourceError, match=r"the model takes lists of numbers|give lists of 4 numbers"):
        prepare_tensors(column, Taken((4,)))


def test_blank_inputs_have_the_same_length() -> None:
    """Isolation replaces some inputs by zeros, and batches of slices are those rows."""
    rows = np.random.default_rng(0).random((5, 300)).astype(np.float32)
    taken = Taken((300,))
    inputs = prepare_tensors(pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 300), taken).inputs
    blank = blank_tensors(inputs, [1, 3], taken)
    assert blank.schema == inputs.schema
    assert not tensors_of(blank, taken)[[1, 3]].any()
    assert np.array_equal(tensors_of(blank, taken)[[0, 2, 4]], rows[[0, 2, 4]])
    assert np.array_equal(tensors_of(inputs.take(pa.array([4, 0])).slice(1), taken), rows[:1])
    assert tensor_positions(inputs, taken).tolist() == [2] * 5


def test_units_of_large_tensors_have_fewer_rows() -> None:
    """What a unit carries stays near 64 MiB, of numbers and of vectors."""
    assert most_tensors(FOUR, 4 * 384, 16_384) == 16_384
    assert most_tensors(Taken((224, 224, 3)), 4 * 384, 16_384) == 111
    assert most_tensors(FOUR, 1 << 20, 16_384) == 64
