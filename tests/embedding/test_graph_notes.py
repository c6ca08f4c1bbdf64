"""Notes of a graph's tasks: what is written is read again; other versions are refused."""

from __future__ import annotations

import pytest

from embed_ops.embedding.graph.notes import (
    BucketNote,
    CsrNote,
    EdgesNote,
    NodesNote,
    Note,
    PartitionsNote,
    StatesNote,
    UnitRows,
    read_note,
    write_note,
)
from embed_ops.errors import RunError

NOTES = [
    NodesNote(rows=7, units=(UnitRows("u0", 0, 4), UnitRows("u1", 4, 3)), first_id=None, all_chosen=False),
    NodesNote(rows=0, units=(), first_id=12, all_chosen=True),
    BucketNote(again=3),
    EdgesNote(chunks=1, edges=5, missing=1, rejected=2, examples=("a -> b (e.csv, row 3)",)),
    PartitionsNote(bounds=(0, 1024, 1500)),
    CsrNote(edges=5, largest=2, rows=4, sends=(0, 3, 3)),
    StatesNote(received=1 << 40, edges=5),
]


@pytest.mark.parametrize("note", NOTES, ids=lambda note: type(note).__name__)
def test_written_and_read(note: Note) -> None:
    """A note comes back as it was, tuples and None included."""
    assert read_note(write_note(note), type(note), "a.json") == note


@pytest.mark.parametrize("content", [b'{"edges": 5}', b'{"bounds": ["a"]}', b"[1", b""])
def test_other_versions_are_refused(content: bytes) -> None:
    """What lacks a field or is no JSON names its file and the way out."""
    with pytest.raises(
        RunError, match=r"csr/1\.json: not a note of this version.*delete the run's work folder"
    ):
        read_note(content, PartitionsNote if b"bounds" in content else CsrNote, "csr/1.json")
