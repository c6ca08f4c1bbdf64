"""Folders of images: every file is a row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from embed_ops.schema import Reason
from embed_ops.sources.base import MAX_RECORD_BYTES, Records, records
from embed_ops.sources.plan import FILES_AS_ROWS, Layout, Piece
from embed_ops.spec.source import SourceSpec
from embed_ops.storage.files import Location, open_file

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".heic", ".heif"),
)
_COLUMNS = pa.schema(
    [("image", pa.binary()), ("path", pa.string()), ("label", pa.string()), ("size", pa.int64())]
)


class ImagesSource:
    """Image files in folders of any depth.

    `label` is the name of the folder that a file is in, null at the top.
    """

    extensions = IMAGE_ENDINGS
    sharing = FILES_AS_ROWS

    def __init__(self, spec: SourceSpec) -> None:
        # Where there are several roots, names begin with the number of theirs.
        self._roots = 1 if len(spec.paths) > 1 else 0

    def seekable(self, at: Location) -> bool:
        """Tell that there is nothing to jump over."""
        return True

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Take every file for one row: nothing is read."""
        return Layout((Piece(name, 0, 1, 1, size),))

    def sample_schema(self, at: Location) -> pa.Schema:
        """Give the columns that every image file has."""
        return _COLUMNS

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Read the file."""
        if begin >= (1 if piece.end is None else piece.end):
            return
        bad = []
        content: bytes | None = None
        if piece.bytes > MAX_RECORD_BYTES:
            bad.append(
                (0, str(Reason.TOO_LARGE), f"the file has {piece.bytes} bytes, more than {MAX_RECORD_BYTES}")
            )
        else:
            with open_file(at) as file:
                content = bytes(file.read())
        folders = piece.source.split("/")[self._roots : -1]
        values = {
            "image": content,
            "path": piece.source,
            "label": folders[-1] if folders else None,
            "size": piece.bytes,
        }
        columns = {field.name: pa.array([values[field.name]], field.type) for field in schema}
        yield records(columns, np.zeros(1, np.int64), 1, bad)
