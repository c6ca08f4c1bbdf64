"""What every source offers, and the records it reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import SpecError
from embed_ops.schema import MESSAGE, REASON, Reason
from embed_ops.sources.plan import Layout, Piece, Sharing, SourceFile
from embed_ops.spec.source import GraphSourceSpec, SourceSpec
from embed_ops.spec.templates import fields_of
from embed_ops.storage.files import Location

MAX_RECORD_BYTES = 64 << 20
"""Most bytes of one record that a reader holds in memory; a longer one is a reject."""
HIVE_KEYS = b"hive"
"""Key of the keys of hive folders, in the metadata of the schema that is read from every file."""
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
RECORDS_PER_READ = 4096
"""Records handed on at once: enough to amortise Arrow calls, few enough to stay small."""


class Undecodable(Exception):
    """A source file can't be read on, though its bytes can: what its reader found."""


DECODING_FAULTS = (Undecodable, pa.ArrowException, OSError, EOFError, csv.Error)
"""What a broken file or broken storage raises; anything else is a fault of the program, and no
reason for a reject."""


@dataclass(frozen=True)
class Records:
    """Consecutive records of one file.

    Attributes:
        table: the columns that were asked for.
        faults: `reason` and `message`, null where the record is fine; apart, since columns may have
            these names too.
        positions: (records,) int64; where each record begins.
        end: position behind the last record.
        left_out: (records,) int64, what else was found in each and is not embedded; None: nothing.
    """

    table: pa.Table
    faults: pa.Table
    positions: npt.NDArray[np.int64]
    end: int
    left_out: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Count the records."""
        return len(self.positions)


class Source(Protocol):
    """A format. Built from the spec; knows no units, no Ray and no model."""

    extensions: tuple[str, ...]
    sharing: Sharing

    def seekable(self, at: Location) -> bool:
        """Tell whether reading from the middle of this file is cheaper than reading up to it."""
        ...

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Find stretches of about `SPAN_BYTES` in one file without reading its rows.

        An unreadable file is one stretch.
        """
        ...

    def sample_schema(self, at: Location) -> pa.Schema:
        """Find the columns and types of one file from its head."""
        ...

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream the records of a piece from position `begin`.

        Raises whatever decoding or storage raises.

        Args:
            at: the file.
            piece: the stretch; records that begin in it are its own.
            begin: where a unit or the piece begins.
            schema: columns to give, with their types.
        """
        ...


def template_fields(template: str) -> list[str]:
    """List the columns that a template names, each once, in order.

    Raises:
        SpecError: the template is not a Python format string of plain names.
    """
    try:
        fields = fields_of(template)
    except ValueError as error:
        raise SpecError(f"source.template: {error}") from error
    if not fields:
        raise SpecError('source.template names no column: write for example "{title}. {body}"')
    return list(fields)


def text_columns(spec: SourceSpec) -> list[str]:
    """List the columns that are embedded.

    Those that the text is made of, the one of images, those of nodes or of edges.
    """
    if isinstance(spec, GraphSourceSpec):
        return [spec.id, *spec.feature_columns] if spec.modality == "node" else list(spec.edge_columns)
    if spec.joined is not None:
        return template_fields(spec.joined)
    return [spec.contents]


def hive_columns(name: str) -> dict[str, str | None]:
    """Read `key=value` folders of a source name.

    Values are URL-decoded, as Hive and Arrow write them; what Hive writes for no value is None.
    """
    pairs = (part.partition("=") for part in name.split("/")[:-1])
    return {
        key: None if value == _HIVE_NULL else unquote(value) for key, equals, value in pairs if equals and key
    }


def hive_keys(files: Iterable[SourceFile]) -> list[str]:
    """List the keys of all `key=value` folders, each once, in the order of files."""
    folders = dict.fromkeys(file.folder for file in files)
    return list(dict.fromkeys(key for folder in folders for key in hive_columns(f"{folder}/")))


def records(
    columns: dict[str, pa.Array],
    positions: npt.NDArray[np.int64],
    end: int,
    bad: Sequence[tuple[int, str, str]] = (),
) -> Records:
    """Assemble records; `bad` lists (index, reason, message) of those that are rejects already."""
    size = len(positions)
    reasons: list[str | None] = [None] * size
    messages: list[str | None] = [None] * size
    for index, reason, message in bad:
        if reasons[index] is None:
            reasons[index], messages[index] = reason, message
    faults = {REASON: pa.array(reasons, pa.string()), MESSAGE: pa.array(messages, pa.string())}
    return Records(pa.table(columns), pa.table(faults), positions, end)


def valid_utf8(column: pa.Array) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Turn a binary or unchecked string column into a checked one.

    Bad rows become null and are named.
    """
    is_large = pa.types.is_large_binary(column.type) or pa.types.is_large_string(column.type)
    raw = column.cast(pa.large_binary()).cast(pa.binary()) if is_large else column
    raw = raw.view(pa.binary()) if pa.types.is_string(raw.type) else raw
    try:
        return raw.cast(pa.string()), []
    except pa.ArrowInvalid:
        pass
    texts: list[str | None] = []
    bad: list[tuple[int, str, str]] = []
    for index, value in enumerate(raw.to_pylist()):
        try:
            texts.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append(None)
            bad.append((index, Reason.INVALID_UTF8, f"byte {error.start} of the text is not UTF-8"))
    return pa.array(texts, pa.string()), bad
