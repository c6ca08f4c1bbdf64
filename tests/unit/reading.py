"""Reads corpora without Ray: from files to the rows of units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.plan import UNIT_TEXT_BYTES, Limits, Plan
from embed_ops.source_spec import SourceSpec
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, Unit, UnitEnd, read_units

PACKINGS = ("", ".gz", ".zst", ".bz2")
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
MANY = 1 << 40

Row = tuple[int, str | None, str | None]
"""Position, text, reason."""


def pack(content: bytes, ending: str) -> bytes:
    """Compress for a file name that ends so."""
    if not ending:
        return content
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, _CODECS[ending]) as stream:
        stream.write(content)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def write(path: Path, content: bytes | pa.Table, **options: Any) -> Path:
    """Write a file, with its folders and, from its name, its compression; a table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path, **options)
    else:
        path.write_bytes(pack(content, path.suffix if path.suffix in _CODECS else ""))
    return path


def corpus(kind: str, path: Path | str | tuple[str, ...], **fields: Any) -> Corpus:
    """Open a corpus whose text is `text`."""
    if kind != "text" and "template" not in fields:
        fields.setdefault("column", "text")
    where = path if isinstance(path, tuple) else str(path)
    return Corpus.open(SourceSpec.model_validate({"kind": kind, "path": where, **fields}))


def images(path: Path | str | tuple[str, ...], kind: str = "images", **fields: Any) -> Corpus:
    """Open a corpus of images."""
    return corpus(kind, path, modality="image", **({"column": None} | fields))


def units(
    found: Corpus, plan: Plan | None = None, rows: int = MANY, text: int = UNIT_TEXT_BYTES, done: Mapping[str, UnitEnd] | None = None
) -> list[Unit]:
    """Read every unit that is not done, span by span."""
    plan = plan or found.plan()
    places = {file.name: found.place(file) for file in plan.files}
    cursors = (Cursor(found.source, Rows(found.spec, plan.columns), places, span) for span in plan.spans)
    return [unit for cursor in cursors for unit in read_units(cursor, done or {}, Limits(rows, text))]


def table(found: Corpus, **options: Any) -> pa.Table:
    """Read everything as one table."""
    return pa.concat_tables([unit.table for unit in units(found, **options)]).unify_dictionaries()


def rows(found: Corpus, **options: Any) -> list[Row]:
    """Read everything: position, text and reason of each row; a reject has no text."""
    read = table(found, **options)
    listed = zip(*(read.column(name).to_pylist() for name in ("_row", "_content", "reason")), strict=True)
    return [(row, text if reason is None else None, reason) for row, text, reason in listed]


def texts(found: Corpus, **options: Any) -> list[str | None]:
    """Read the texts that are no rejects."""
    return [text for _, text, reason in rows(found, **options) if reason is None]
