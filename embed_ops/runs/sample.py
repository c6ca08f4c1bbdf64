"""Rows of a run chosen by hash, and what stands in them.

Vectors, kept columns, texts of the source. Reads some units only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embed_ops.errors import EmbedOpsError
from embed_ops.numerics.hashing import uniform
from embed_ops.numerics.topk import Ints
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.schema import CONTENT, ROW, SOURCE
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Limits, Piece, Span
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, read_units
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import Location

SAMPLED = 101
"""Tag of the hash by which rows are chosen."""


@dataclass(frozen=True)
class Chosen:
    """Rows of one unit: its number, its record, and the rows in it, ascending."""

    number: int
    record: Record
    places: Ints


def choose(rows: RunRows, most: int, seed: int, units: int) -> Iterator[Chosen]:
    """Choose about `most` rows by the hash of their index, in order.

    Args:
        rows: of a finished run.
        most: rows, about.
        seed: of both hashes.
        units: most units that are read; those whose names have the least hash.
    """
    filled = (number for number, record in enumerate(rows.records) if record.rows)
    numbers = sorted(sorted(filled, key=lambda number: _hash(rows.records[number].unit, seed))[:units])
    total = sum(rows.records[number].rows for number in numbers)
    for number in numbers:
        record = rows.records[number]
        ids = rows.starts[number] + np.arange(record.rows, dtype=np.int64)
        places = np.flatnonzero(uniform(seed, SAMPLED, ids) * total < most)
        if len(places):
            yield Chosen(number, record, places)


def _hash(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


class Texts:
    """The texts of rows, read again from the source of a run.

    Those of files that have changed since are not known.

    Args:
        spec: of the run.
        run: where it is. Its plan tells which columns are read and what the files were: planning
            again would open all of them.

    Raises:
        EmbedOpsError: the source is not there any more, or holds no texts.
    """

    def __init__(self, spec: Spec, run: Location) -> None:
        if spec.source.modality != "text":
            raise EmbedOpsError("the source holds no texts")
        self._corpus = Corpus.open(spec.source)
        plan = RunDir(run).read_plan()
        self._columns = plan.columns
        self._changed = self._corpus.changes(plan).changed
        self._places = {file.name: self._corpus.place(file) for file in self._corpus.files}
        self._source = make_source(spec.source)

    def of(self, record: Record, where: pa.Table) -> list[str | None]:
        """Read the texts of some rows of a unit, None where not known.

        `where` has their `_source` and `_row`.
        """
        if any(part["source"] in self._changed for part in record.ranges):
            return [None] * len(where)
        pieces = tuple(Piece(part["source"], part["begin"], part["end"], None, 0) for part in record.ranges)
        cursor = Cursor(self._source, Rows(self._corpus.spec, self._columns), self._places, Span(0, pieces))
        texts: dict[tuple[str, int], str] = {}
        for unit in read_units(cursor, {}, Limits(1 << 62, 1 << 62)):
            columns = (unit.table.column(name).to_pylist() for name in (SOURCE, ROW, CONTENT))
            texts |= {(source, row): text for source, row, text in zip(*columns, strict=True)}
        return [
            texts.get(place)
            for place in zip(where.column(SOURCE).to_pylist(), where.column(ROW).to_pylist(), strict=True)
        ]
