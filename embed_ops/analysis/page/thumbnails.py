"""Small pictures of the images that a run has embedded, for the rows that the page shows."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Self

import pyarrow as pa

from embed_ops.encoders.images.opening import Refused, open_image, to_rgb
from embed_ops.errors import EmbedOpsError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.schema import CONTENT, ROW, SOURCE
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Limits, Piece, Span
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, read_units
from embed_ops.spec.source import ReferringSourceSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import Location

SIDE = 72
"""Pixels of the longer side."""
_QUALITY = 60
_MOST = 1_500
_MOST_BYTES = 3_000_000
"""All thumbnails of a page together, before they are text."""
_MOST_READ = 512 * 1024 * 1024
"""Bytes of image files that are read for a page."""
_MOST_PIXELS = 89_478_485


class Thumbnails:
    """Reads images again from the source of a run, until a page has enough of them.

    Those of files that have changed since are not shown, and none of those that rows refer to by an
    address: a page is no reason to ask the network for files.
    """

    def __init__(self, spec: Spec, run: Location, rows: int) -> None:
        self._every = -(-rows // _MOST)
        self._corpus = Corpus.open(spec.source)
        plan = RunDir(run).read_plan()
        self._columns = plan.columns
        self._changed = self._corpus.changes(plan).changed
        self._places = {file.name: self._corpus.place(file) for file in self._corpus.files}
        self._source = make_source(spec.source)
        self._rows_are_files = spec.source.kind == "images"
        self._left_bytes, self._left_to_read = _MOST_BYTES, _MOST_READ

    @classmethod
    def open(cls, rows: RunRows, most: int) -> Self | None:
        """Open the source of a run's images, None where it holds none or is gone.

        `most` are the rows that are shown; where that is many, every so many gets a thumbnail.
        """
        with contextlib.suppress(EmbedOpsError, OSError, pa.ArrowException):
            root, header = rows.lineage[-1]
            spec = Spec.parse(header.spec)
            if spec.source.modality == "image" and not _refers(spec, RunDir(root).read_plan().columns):
                return cls(spec, root, most)
        return None

    @property
    def _spent(self) -> bool:
        return min(self._left_bytes, self._left_to_read) <= 0

    def of(self, record: Record, where: pa.Table) -> list[str | None]:
        """Make a thumbnail, as a data address, of some rows of a unit; None where there is none.

        `where` has their `_source` and `_row`.
        """
        wanted = list(zip(where.column(SOURCE).to_pylist(), where.column(ROW).to_pylist(), strict=True))
        places = {wanted[number]: number for number in range(0, len(wanted), self._every)}
        made: list[str | None] = [None] * len(wanted)
        with contextlib.suppress(EmbedOpsError, OSError, pa.ArrowException):
            for key, content in self._contents(record, places):
                self._left_to_read -= len(content)
                if (drawn := _thumbnail(content)) is not None:
                    self._left_bytes -= len(drawn)
                    made[places[key]] = f"data:image/webp;base64,{base64.b64encode(drawn).decode()}"
                if self._spent:
                    break
        return made

    def _contents(
        self, record: Record, wanted: Mapping[tuple[str, int], int]
    ) -> Iterator[tuple[tuple[str, int], bytes]]:
        """Yield the wanted images of a unit, each with its source file and row."""
        if self._spent or any(part["source"] in self._changed for part in record.ranges):
            return
        if self._rows_are_files:
            pieces = tuple(Piece(source, row, row + 1, None, 0) for source, row in wanted)
        else:
            pieces = tuple(
                Piece(part["source"], part["begin"], part["end"], None, 0) for part in record.ranges
            )
        if not pieces:
            return
        cursor = Cursor(self._source, Rows(self._corpus.spec, self._columns), self._places, Span(0, pieces))
        for unit in read_units(cursor, {}, Limits(64, 1 << 26)):
            columns = (unit.table.column(name).to_pylist() for name in (SOURCE, ROW, CONTENT))
            for source, row, content in zip(*columns, strict=True):
                if content is not None and (source, row) in wanted:
                    yield (source, row), content


def _refers(spec: Spec, columns: pa.Schema) -> bool:
    """Tell whether rows hold addresses of images, not the images."""
    if not isinstance(spec.source, ReferringSourceSpec) or spec.source.contents not in columns.names:
        return False
    return not pa.types.is_binary(columns.field(spec.source.contents).type)


def _thumbnail(content: bytes) -> bytes | None:
    """Draw an image small, as WebP; None where it can't be decoded."""
    try:
        image = open_image(content, _MOST_PIXELS)
        image.draft("RGB", (SIDE * 2, SIDE * 2))
        small = to_rgb(image, _MOST_PIXELS)
    except Refused:
        return None
    small.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    small.save(held, "WEBP", quality=_QUALITY, method=2)
    return held.getvalue()
