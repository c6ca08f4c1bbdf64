"""Columns of lists of words: what is read of Parquet and JSONL files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from reading import corpus, rows, units, write

from embed_ops.encoders.text.tokens import distinct
from embed_ops.errors import SourceError
from embed_ops.schema import Reason


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)]
)
def test_lists_of_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    """Lists of every kind are read as lists of strings, and nulls stay.

    Units are cut by the bytes of the words.
    """
    words = [["a", "bc"], None, ["d", None], ["é", ""]]
    write(tmp_path / "a.parquet", pa.table({"text": pa.array(words, kind)}))
    found = corpus("parquet", tmp_path, modality="words")
    assert [text for _, text, _ in rows(found)] == words
    assert [len(unit.table) for unit in units(found, text=7)] == [2, 2]


def test_lists_of_jsonl(tmp_path: Path) -> None:
    """Lines whose column is no list of strings are rejects, and half a character is."""
    given = [["a", "b"], "a b", ["a", 1], [["a"]], None, ["a", None], [], ["\ud800"]]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": words}) for words in given).encode())
    found = [(text, reason) for _, text, reason in rows(corpus("jsonl", tmp_path, modality="words"))]
    wrong, half = (None, Reason.WRONG_TYPE), (None, Reason.INVALID_UTF8)
    assert found == [
        (["a", "b"], None),
        wrong,
        wrong,
        wrong,
        (None, None),
        (["a", None], None),
        ([], None),
        half,
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.int64()), pa.list_(pa.list_(pa.string()))])
def test_other_columns_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    """Strings, and lists of other things, are no lists of words; lists are no text."""
    write(tmp_path / "a.parquet", pa.table({"text": pa.array([None], kind)}))
    with pytest.raises(SourceError, match="words need a column of lists of strings"):
        corpus("parquet", tmp_path, modality="words").plan()
    write(tmp_path / "text" / "a.parquet", pa.table({"text": pa.array([["a"]])}))
    with pytest.raises(SourceError, match="the text needs a string column"):
        corpus("parquet", tmp_path / "text").plan()


def test_words_that_are_not_utf8() -> None:
    """A list with a word that is not UTF-8 is a reject of that reason; others are counted once."""
    raw = pa.array([b"fine", b"caf\xe9", b"fine"]).view(pa.string())
    found = distinct(pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), raw))
    assert found.texts == [("fine",)]
    assert found.index.tolist() == [0, -1, 0]
    assert [item.reason for item in found.rejects] == [Reason.INVALID_UTF8]
