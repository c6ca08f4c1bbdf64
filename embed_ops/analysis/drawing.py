"""Some records of a corpus from many places, without reading the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from embed_ops.sources.base import DECODING_FAULTS
from embed_ops.sources.contents import Completed, as_read, embeddable
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Piece, Plan, Span
from embed_ops.sources.rows import Chunk, Rows
from embed_ops.sources.units import Cursor
from embed_ops.storage.location import Location

PLACES = 64
"""Places that a corpus is entered at; a small one is read whole."""
_MEASURED = 1_024
"""Records of a CSV file that tell how long one is."""


@dataclass(frozen=True)
class Drawn:
    """The records that were looked at.

    Attributes:
        contents: of those that can be embedded; `filtered` and `faulty` count the others of
            `records`.
        bytes: of the files, as far as positions tell; of the contents where they do not.
    """

    contents: list[Any]
    records: int
    filtered: int
    faulty: int
    bytes: int


def draw(corpus: Corpus, plan: Plan, most: int, seed: int, completed: Completed = as_read) -> Drawn:
    """Read some records in many places.

    A piece is entered at a random position where its format allows that.

    Args:
        corpus: to read.
        plan: of it.
        most: records, about; a corpus of up to twice as many is read whole.
        seed: of the places.
        completed: adds to rows what the encoder says of them.
    """
    files = {file.name: corpus.place(file) for file in plan.files}
    rows = Rows(corpus.spec, plan.columns)
    contents: list[Any] = []
    records = filtered = faulty = size = 0
    for piece, begin, wanted in _entries(corpus, plan, most, seed):
        span = Span(0, (Piece(piece.source, begin, piece.end, None, piece.bytes),))
        for chunk, moved in _chunks(Cursor(corpus.source, rows, files, span), wanted):
            taken = embeddable(chunk, corpus.spec.modality, completed)
            contents += taken
            records += len(chunk)
            filtered += int((~chunk.kept).sum())
            faulty += int(chunk.kept.sum()) - len(taken)
            if corpus.spec.kind in ("jsonl", "text"):
                size += moved
            elif corpus.spec.kind == "csv" and (whole := _bytes_of_record(corpus, piece)) is not None:
                size += round(whole * len(chunk))
            else:
                size += int(chunk.bytes.sum())
    return Drawn(contents, records, filtered, faulty, size)


def _chunks(cursor: Cursor, wanted: int) -> Iterator[tuple[Chunk, int]]:
    """Take so many records off a cursor: chunks of them, and how far the position moved."""
    while wanted > 0 and not cursor.exhausted and (ahead := cursor.peek()) is not None:
        before = cursor.position
        chunk = cursor.take(min(len(ahead), wanted))
        wanted -= len(chunk)
        yield chunk, cursor.position - before


def _bytes_of_record(corpus: Corpus, piece: Piece) -> float | None:
    """Measure a record of CSV by the first ones of its file: all columns, and what parts them.

    None where they can't be read.
    """
    place = _place(corpus, piece)
    try:
        columns = corpus.source.sample_schema(place)
        first = next(corpus.source.read(place, replace(piece, end=_MEASURED), piece.begin, columns), None)
    except DECODING_FAULTS:
        return None
    if first is None or not len(first):
        return None
    fields = sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in first.table.columns)
    return float(fields / len(first) + len(columns))


def _entries(corpus: Corpus, plan: Plan, most: int, seed: int) -> list[tuple[Piece, int, int]]:
    """Choose where to read: a piece, a position in it, and how many records from there."""
    pieces = [piece for span in plan.spans for piece in span.pieces]
    if plan.rows is not None and plan.rows <= 2 * most:
        return [(piece, piece.begin, 1 << 62) for piece in pieces]
    random = np.random.default_rng(seed)
    sizes = np.array([max(1, piece.bytes) for piece in pieces], np.float64)
    points = (np.arange(PLACES) + random.random(PLACES)) / PLACES * sizes.sum()
    chosen = [pieces[number] for number in np.searchsorted(np.cumsum(sizes), points).tolist()]
    # A piece that can only be read from its begin is entered once, for as many records.
    places = Counter((piece, _position(corpus, piece, random)) for piece in chosen)
    return [(piece, begin, times * -(-most // PLACES)) for (piece, begin), times in places.items()]


def _place(corpus: Corpus, piece: Piece) -> Location:
    return next(corpus.place(file) for file in corpus.files if file.name == piece.source)


def _position(corpus: Corpus, piece: Piece, random: np.random.Generator) -> int:
    """Choose where in a piece to begin."""
    end = piece.end
    if end is None and piece.rows is not None:
        end = piece.begin + piece.rows
    enters = corpus.spec.kind in ("parquet", "jsonl", "text") and corpus.source.seekable(
        _place(corpus, piece)
    )
    if end is None or not enters:
        return piece.begin
    return int(piece.begin + random.random() * 0.9 * (end - piece.begin))
