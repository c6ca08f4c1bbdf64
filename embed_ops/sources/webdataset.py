"""WebDataset tars: a row is a sample, the consecutive members of one key.

Positions are byte offsets in the decompressed tar.

A member's key is its path up to the first dot of its name, its column what follows, in lower case:
`0001.jpg` and `0001.json` are the columns `jpg` and `json` of sample `0001`. The column `image` is
the first member that is an image by its name; others of the sample are counted as left out, and so
are hidden members, as macOS adds them (`._0001.jpg`).
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.schema import Reason
from embed_ops.sources.base import DECODING_FAULTS, MAX_RECORD_BYTES, Records, Undecodable, records
from embed_ops.sources.images import IMAGE_ENDINGS
from embed_ops.sources.plan import FILES_OF_ROWS, Piece
from embed_ops.sources.streams import is_plain, whole_file, with_compressions
from embed_ops.sources.tars import Member, members
from embed_ops.sources.values import infer_type, json_text, pick, typed_column
from embed_ops.spec.source import SourceSpec
from embed_ops.storage.faults import is_transport
from embed_ops.storage.files import Location

_ENDINGS = frozenset(ending[1:] for ending in IMAGE_ENDINGS)
_IMAGE = "image"
_PLAIN = (str, bytes, type(None))
_SAMPLE_RECORDS = 200
_CHUNK_ROWS, _CHUNK_BYTES = 256, 16 << 20
KEY = "__key__"
"""The column of samples' keys, as webdataset calls it."""
_log = logging.getLogger(__name__)


@dataclass
class _Sample:
    """The members of one key: their bytes by column, and what is wrong with it."""

    key: str
    begin: int
    members: dict[str, bytes] = field(default_factory=dict)
    bad: tuple[str, str] | None = None
    left_out: int = 0

    @property
    def images(self) -> list[str]:
        """The columns that are images by their names, in order."""
        return [column for column in self.members if _is_image(column)]

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
        several: list[str] = []
        try:
            for sample, _ in itertools.islice(_samples(at, 0, None, None), _SAMPLE_RECORDS):
                several = several or (sample.images if len(sample.images) > 1 else [])
                for name in {*wanted, *sample.members, KEY}:
                    if (value := _value(sample, name)) is not None:
                        seen.setdefault(name, []).append(value)
        except (Undecodable, pa.ArrowException, OSError) as error:
            # What can be read of a truncated file will be read, so its columns count.
            if not seen or is_transport(error):
                raise
        if several and self._spec.contents == _IMAGE:
            _log.warning(
                "%s: a sample has several images (%s): the first is embedded, the others are counted as "
                "filtered; source.column names another",
                at.path,
                ", ".join(several),
            )
        # A field that comes late is there if its type is given.
        late = [name for name in self._spec.types if name in self._spec.keep and name not in seen]
        fields = [(name, _type_of(values)) for name, values in seen.items()]
        return pa.schema([*fields, *((name, pa.string()) for name in late)])

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
            if column.name in self._spec.types and pa.types.is_string(column.type):
                values = [value if isinstance(value, _PLAIN) else json_text(value) for value in values]
            is_text, of_json = column.name == self._spec.contents, column.name.startswith("json.")
            columns[column.name], wrong = typed_column(values, column, from_text=not of_json, is_text=is_text)
            bad += wrong
        left_out = np.array([sample.left_out for sample, _ in held], np.int64)
        if _IMAGE in columns:
            # Of a sample that is a reject, this stands for one image that was not had.
            left_out += [max(0, len(sample.images) - (sample.bad is None)) for sample, _ in held]
        begins = np.array([sample.begin for sample, _ in held], np.int64)
        return replace(records(columns, begins, held[-1][1], bad), left_out=left_out)


def _type_of(values: list[Any]) -> pa.DataType:
    return pa.binary() if any(isinstance(value, bytes) for value in values) else infer_type(values)


def _value(sample: _Sample, name: str) -> Any:
    """Give a column of a sample: bytes of an image, text, or a value inside JSON.

    None where it has none.
    """
    if name == KEY:
        return sample.key
    if name == _IMAGE:
        return next((sample.members[column] for column in sample.images), None)
    head, _, inside = name.partition(".")
    content = sample.members.get(name, sample.members.get(head) if inside and head == "json" else None)
    if content is None or _is_image(name):
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
        or (name == _IMAGE and _is_image(column))
        or (column == "json" and name.startswith("json."))
        for name in names
    )


def _samples(
    at: Location, begin: int, end: int | None, names: Iterable[str] | None
) -> Iterator[tuple[_Sample, int]]:
    """Stream (sample, offset behind it) of a tar from an offset on, where a sample begins."""
    names = None if names is None else list(names)
    current: _Sample | None = None
    first: Member | None = None
    left_out = 0
    for member in members(at, begin):
        if member.name and _is_hidden(member.name):
            if current is not None:
                current.left_out += 1
            else:
                # A sample begins with what is left out before it.
                first, left_out = first or member, left_out + 1
            continue
        key, column = _key(member.name)
        if member.name and member.kind is not None and not _needed(column, names):
            continue
        # A second member of the same name begins a sample of its own, and the end of a tar has no
        # name.
        if current is None or key != current.key or column in current.members or not member.name:
            if current is not None:
                yield current, member.offset
                current = None
            if end is not None and member.offset >= end:
                return
            if not member.name:
                continue
            current = _Sample(key, (first or member).offset, left_out=left_out)
            first, left_out = None, 0
        if _needed(column, names):
            _take(member, column, current)


def _take(member: Member, column: str, sample: _Sample) -> None:
    """Read a member into its sample, or say why that can't be."""
    told: tuple[str, str] | None = None
    if member.kind is not None:
        leads = f" to {member.target}" if member.target else ""
        told = (
            str(Reason.MISSING),
            f"{member.name} is {member.kind}{leads}; pack the file itself, as tar --hard-dereference -h does",
        )
    elif member.size > MAX_RECORD_BYTES or sample.size + member.size > MAX_RECORD_BYTES:
        told = (
            str(Reason.TOO_LARGE),
            f"{member.name} has {member.size} bytes; a sample may have {MAX_RECORD_BYTES}",
        )
    if told is None:
        sample.members[column] = member.content()
    elif sample.bad is None and not (_is_image(column) and sample.images):
        sample.bad = told
    elif _is_image(column):
        sample.left_out += 1


def _is_image(column: str) -> bool:
    return column.rpartition(".")[2] in _ENDINGS


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _key(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, column = file.partition(".")
    return folder + slash + key, column.lower()
