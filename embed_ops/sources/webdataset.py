"""WebDataset tars: a row is a sample, the consecutive members of one key.

Positions are byte offsets in the decompressed tar.

A member's key is its path up to the first dot of its name, its column what follows, in lower case:
`0001.jpg` and `0001.json` are the columns `jpg` and `json` of sample `0001`. The column `image` is
the first member that is an image by its name.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from embed_ops.schema import Reason
from embed_ops.sources.base import DECODING_FAULTS, MAX_RECORD_BYTES, Records, Undecodable, records
from embed_ops.sources.images import IMAGE_ENDINGS
from embed_ops.sources.plan import FILES_OF_ROWS, Piece
from embed_ops.sources.streams import BLOCK_BYTES, ByteStream, is_plain, whole_file, with_compressions
from embed_ops.sources.values import infer_type, pick, typed_column
from embed_ops.spec.source import SourceSpec
from embed_ops.storage.faults import is_transport
from embed_ops.storage.files import Location

_IMAGES = tuple(ending[1:] for ending in IMAGE_ENDINGS)
_SAMPLE_RECORDS = 200
_CHUNK_ROWS, _CHUNK_BYTES = 256, 16 << 20
KEY = "__key__"
"""The column of samples' keys, as webdataset calls it."""


@dataclass
class _Sample:
    """The members of one key: their bytes by column, and what is wrong with it."""

    key: str
    begin: int
    members: dict[str, bytes] = field(default_factory=dict)
    bad: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        return sum(len(content) for content in self.members.values())


class WebDatasetSource:
    """Tars of samples, streamed.

    A plain tar is read from the middle, a compressed one from its beginning.
    """

    extensions = with_compressions(".tar")
    sharing = FILES_OF_ROWS
    seekable = staticmethod(is_plain)
    inspect = staticmethod(whole_file)

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def sample_schema(self, at: Location) -> pa.Schema:
        """Find the columns in the first samples; values inside JSON members have dotted names."""
        wanted = [self._spec.contents, *self._spec.keep]
        seen: dict[str, list[Any]] = {}
        try:
            for sample, _ in itertools.islice(_samples(at, 0, None, None), _SAMPLE_RECORDS):
                for name in {*wanted, *sample.members, KEY}:
                    if (value := _value(sample, name)) is not None:
                        seen.setdefault(name, []).append(value)
        except (Undecodable, pa.ArrowException, OSError) as error:
            # What can be read of a truncated file will be read, so its columns count.
            if not seen or is_transport(error):
                raise
        return pa.schema([(name, _type_of(values)) for name, values in seen.items()])

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream samples; members that no column needs are passed over."""
        held: list[tuple[_Sample, int]] = []
        size = 0
        try:
            for sample, end in _samples(at, begin, piece.end, schema.names):
                held.append((sample, end))
                size += sample.size
                if len(held) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                    yield self._records(held, schema)
                    held, size = [], 0
        except DECODING_FAULTS:
            # What came before the fault counts.
            if held:
                yield self._records(held, schema)
            raise
        if held:
            yield self._records(held, schema)

    def _records(self, held: list[tuple[_Sample, int]], schema: pa.Schema) -> Records:
        bad = [(place, *sample.bad) for place, (sample, _) in enumerate(held) if sample.bad is not None]
        columns = {}
        for column in schema:
            values = [_value(sample, column.name) for sample, _ in held]
            if pa.types.is_binary(column.type):
                columns[column.name] = pa.array(values, pa.binary())
                continue
            is_text, of_json = column.name == self._spec.contents, column.name.startswith("json.")
            columns[column.name], wrong = typed_column(values, column, from_text=not of_json, is_text=is_text)
            bad += wrong
        return records(columns, np.array([sample.begin for sample, _ in held], np.int64), held[-1][1], bad)


def _type_of(values: list[Any]) -> pa.DataType:
    return pa.binary() if any(isinstance(value, bytes) for value in values) else infer_type(values)


def _value(sample: _Sample, name: str) -> Any:
    """Give a column of a sample: bytes of an image, text, or a value inside JSON.

    None where it has none.
    """
    if name == KEY:
        return sample.key
    if name == "image":
        return next((content for column, content in sample.members.items() if column.endswith(_IMAGES)), None)
    head, _, inside = name.partition(".")
    content = sample.members.get(name, sample.members.get(head) if inside and head == "json" else None)
    if content is None or name.endswith(_IMAGES):
        return content
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return content
    if not inside or name in sample.members:
        return text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return pick(parsed, inside) if isinstance(parsed, dict) else None


def _needed(column: str, names: Iterable[str] | None) -> bool:
    if names is None:
        return True
    return any(
        column == name
        or (name == "image" and column.endswith(_IMAGES))
        or (column == "json" and name.startswith("json."))
        for name in names
    )


def _samples(
    at: Location, begin: int, end: int | None, names: Iterable[str] | None
) -> Iterator[tuple[_Sample, int]]:
    """Stream (sample, offset behind it) of a tar from an offset on, where a sample begins."""
    names = None if names is None else list(names)
    current: _Sample | None = None
    for offset, name, size, content in _members(at, begin):
        key, column = _key(name)
        # A second member of the same name begins a sample of its own, and the end of the tar has no
        # name.
        if current is None or key != current.key or column in current.members or not name:
            if current is not None:
                yield current, offset
            if not name or (end is not None and offset >= end):
                return
            current = _Sample(key, offset)
        if not _needed(column, names):
            continue
        if size > MAX_RECORD_BYTES or current.size + size > MAX_RECORD_BYTES:
            current.bad = (
                str(Reason.TOO_LARGE),
                f"{name} has {size} bytes; a sample may have {MAX_RECORD_BYTES}",
            )
            continue
        current.members[column] = content()


def _key(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, column = file.partition(".")
    return folder + slash + key, column.lower()


class _Tar(tarfile.TarFile):
    """A tar whose headers are asked for one by one.

    `TarFile` itself takes a broken header for the end of the archive.
    """

    def next(self) -> None:
        """Read nothing on opening."""


class _Forward:
    """A stream that is only read forwards, with the positions of the whole tar."""

    def __init__(self, at: Location, begin: int) -> None:
        self._stream = io.BufferedReader(ByteStream(at, begin), BLOCK_BYTES)
        self._position = begin

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._position += len(content)
        return content

    def seek(self, position: int) -> None:
        while (left := position - self._position) > 0 and self.read(min(left, BLOCK_BYTES)):
            pass


def _members(at: Location, begin: int) -> Iterator[tuple[int, str, int, Callable[[], bytes]]]:
    """Stream the files of a tar: (offset of the header, name, size, what reads the content now).

    The end of the tar comes last, as a file without a name.

    Raises:
        Undecodable: a header is broken, or the tar is cut.
    """
    stream = _Forward(at, begin)
    tar = _Tar(fileobj=cast(Any, stream), mode="r", encoding="utf-8")
    while True:
        stream.seek(tar.offset)
        if stream.tell() < tar.offset:
            raise Undecodable(f"the tar is cut at byte {stream.tell()}")
        try:
            member = tarfile.TarInfo.fromtarfile(tar)
        except tarfile.HeaderError as error:
            # The typed interface does not name the error that means the end marker.
            if type(error).__name__ != "EOFHeaderError":
                raise Undecodable(
                    f"no tar header at byte {tar.offset}: {error}; the tar is cut or broken"
                ) from error
            yield tar.offset, "", 0, bytes
            return
        if member.isreg():
            yield member.offset, member.name, member.size, partial(_content, stream, member)


def _content(stream: _Forward, member: tarfile.TarInfo) -> bytes:
    content = stream.read(member.size)
    if len(content) < member.size:
        raise Undecodable(f"the tar is cut inside {member.name}")
    return content
