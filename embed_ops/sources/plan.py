"""The plan: source files -> spans, and what a later run finds changed.

Decided from the data and the spec alone.

A span is the grain of reading: pieces of source files that one reader streams. It yields units, cut
while it streams at the first of two limits: rows, and bytes of what is embedded. A unit is named by
where it begins, so units of a span form a chain: each says where it ends, the next begins there,
and the final one says that it is the last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from embed_ops.spec.spec import Spec
from embed_ops.storage.files import Location

UNIT_TEXT_BYTES = 4 << 20
"""Most text of a unit: with its vectors it stays near 64 MiB."""
UNIT_LISTED_BYTES = 128 << 10
"""Most text of a unit whose words, tokens or chunks have vectors: those of 384 dimensions take 64
MiB."""
UNIT_IMAGES, UNIT_IMAGE_BYTES = 512, 64 << 20
"""Most images of a unit, and most bytes of their files."""
UNIT_TENSOR_BYTES = 64 << 20
"""Most numbers of a unit of tensors, in bytes."""
SPAN_BYTES = 32 << 20
"""Aim for the bytes one reader streams: about eight units, so that readers are many and open few
files twice."""


@dataclass(frozen=True)
class Limits:
    """What a unit holds at most: rows, and bytes of what is embedded."""

    rows: int
    bytes: int


def unit_limits(spec: Spec) -> Limits:
    """Give the limits of a run's units.

    A model of large images lowers them further (`Encoder.most_rows`).
    """
    if spec.source.modality == "image":
        return Limits(min(spec.resources.unit_rows, UNIT_IMAGES), UNIT_IMAGE_BYTES)
    if spec.source.modality == "tensor":
        return Limits(spec.resources.unit_rows, UNIT_TENSOR_BYTES)
    listed = sum(spec.encoder.each(output) in ("word", "token", "chunk") for output in spec.encoder.named)
    return Limits(spec.resources.unit_rows, UNIT_LISTED_BYTES // listed if listed else UNIT_TEXT_BYTES)


@dataclass(frozen=True)
class Sharing:
    """How files of a folder share spans, and so units.

    Attributes:
        largest: bytes of the largest file that shares.
        bytes: of a span, at which the next file begins another.
        files: of a span, likewise.
    """

    largest: int
    bytes: int
    files: int


FILES_OF_ROWS = Sharing(4 << 20, SPAN_BYTES, 1 << 62)
"""Small files share, a larger one is a span or more of its own."""
FILES_AS_ROWS = Sharing(1 << 62, 8 * SPAN_BYTES, 4096)
"""Each file is a row: all share, and a reader gets some units' worth of them."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        name: path relative to its root, with the root's number in front where there are several.
        root: index of its root in `source.path`.
        size: bytes.
        modified: last change, nanoseconds since 1970; 0 where the file system can't tell.
    """

    name: str
    root: int
    size: int
    modified: int

    @property
    def folder(self) -> str:
        """The folder of `name`."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one source file: positions `begin` to `end`.

    Positions count rows (Parquet), records (CSV) or bytes of the decompressed stream (JSONL, text,
    tar).

    Attributes:
        end: None where only reading tells.
        rows: None where only reading tells.
        bytes: size on reading, as far as it is known.
    """

    source: str
    begin: int
    end: int | None
    rows: int | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Span:
    """Pieces that one reader streams, in order.

    One large file's stretch, or a run of small files of one folder.
    """

    index: int
    pieces: tuple[Piece, ...]

    @property
    def first_unit(self) -> str:
        """Name of the unit that the span begins with."""
        return unit_name(self.pieces[0].source, self.pieces[0].begin)


@dataclass(frozen=True)
class Layout:
    """What a source finds in one file without reading its rows.

    Attributes:
        pieces: stretches of about `SPAN_BYTES`, in order, at least one.
        schema: the file's columns, None where only reading tells.
    """

    pieces: tuple[Piece, ...]
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class Plan:
    """All source files and spans of a run, and the columns that are read from every file."""

    files: tuple[SourceFile, ...]
    spans: tuple[Span, ...]
    columns: pa.Schema

    @property
    def rows(self) -> int | None:
        """Rows of the corpus, None where only reading tells."""
        counts = [piece.rows for span in self.spans for piece in span.pieces]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def bytes(self) -> int:
        """Bytes that reading everything takes, as far as they are known."""
        return sum(piece.bytes for span in self.spans for piece in span.pieces)


def unit_name(source: str, begin: int) -> str:
    """Name a unit by the source file and the position where it begins."""
    return f"{source}.{begin:012d}"


def estimated_units(span: Span, limits: Limits) -> int:
    """Guess how many units a span will yield.

    Exact only where rows are few, since text is measured on reading.
    """
    rows = sum(piece.rows or 0 for piece in span.pieces)
    size = sum(piece.bytes for piece in span.pieces)
    return max(1, math.ceil(rows / limits.rows), math.ceil(size / limits.bytes))


def make_spans(
    files: Sequence[SourceFile],
    layouts: Sequence[Layout],
    first_index: int = 0,
    sharing: Sharing = FILES_OF_ROWS,
) -> list[Span]:
    """Form spans: stretches of a large file stand alone, small files of a folder share one.

    Files share only where they are consecutive.

    Args:
        files: in order.
        layouts: of these files.
        first_index: of the first span.
        sharing: which files share, and how many.
    """
    index = itertools.count(first_index)
    spans: list[Span] = []
    shared: list[Piece] = []
    shared_folder, shared_bytes = "", 0

    def close() -> None:
        if shared:
            spans.append(Span(next(index), tuple(shared)))
            shared.clear()

    for file, layout in zip(files, layouts, strict=True):
        small = file.size <= sharing.largest and len(layout.pieces) == 1
        if (
            not small
            or file.folder != shared_folder
            or shared_bytes >= sharing.bytes
            or len(shared) >= sharing.files
        ):
            close()
            shared_bytes = 0
        if small:
            shared.append(layout.pieces[0])
            shared_folder, shared_bytes = file.folder, shared_bytes + layout.pieces[0].bytes
        else:
            spans += [Span(next(index), (piece,)) for piece in layout.pieces]
    close()
    return spans


@dataclass(frozen=True)
class Changes:
    """How the corpus differs from a plan, by file name."""

    new: tuple[str, ...]
    changed: dict[str, str]
    """What changed, in words, for each changed or removed file."""


def changes_between(plan: Plan, files: Sequence[SourceFile]) -> Changes:
    """Find new, changed and removed files."""
    now = {file.name: file for file in files}
    planned = {file.name: file for file in plan.files}
    changed: dict[str, str] = {}
    for name, file in planned.items():
        listed = now.get(name)
        if told := change_of(file, None if listed is None else (listed.size, listed.modified)):
            changed[name] = told
    return Changes(tuple(name for name in now if name not in planned), changed)


def change_of(file: SourceFile, now: tuple[int, int] | None) -> str | None:
    """Say what has become of a planned file; None where it is as it was.

    `now`: its bytes and its last change in nanoseconds, None where it is gone.
    """
    if now is None:
        return "removed"
    size, modified = now
    if size < file.size:
        return f"shortened from {file.size} to {size} bytes"
    if size > file.size:
        return f"grown from {file.size} to {size} bytes"
    return None if modified == file.modified else "rewritten (same size, another time of change)"


def place_of(roots: Sequence[Location], source: str) -> Location:
    """Find a source file by its name below its root.

    Where there are several roots, the number of the file's root stands in front of the name.
    """
    if len(roots) == 1:
        return roots[0].child(source)
    number, _, inside = source.partition("/")
    return roots[int(number)].child(inside)
