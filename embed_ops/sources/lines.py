"""JSONL and plain text: one record a line, positions are byte offsets in the decompressed stream."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.filesystem import Location
from embed_ops.plan import SPAN_BYTES, Layout, Piece
from embed_ops.schema import Reason
from embed_ops.sources.base import MAX_RECORD_BYTES, RECORDS_PER_READ, Records, records, text_columns, valid_utf8
from embed_ops.spec import SourceSpec

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BLOCK_BYTES = 1 << 20
_SAMPLE_RECORDS = 1000
_BOM = b"\xef\xbb\xbf"
_TOO_LARGE = "the line is longer than {} bytes"

Lines = tuple[list[bytes], npt.NDArray[np.int64], int]
"""Lines without their ends, (lines,) int64 offsets, offset behind the last."""


def compression(path: str) -> str | None:
    """Tell the compression from the file name."""
    return next((name for ending, name in COMPRESSIONS.items() if path.lower().endswith(ending)), None)


def with_compressions(*endings: str) -> tuple[str, ...]:
    """List the endings, each plain and with every compression."""
    return tuple(ending + packed for ending in endings for packed in ("", *COMPRESSIONS))


class ByteStream(io.RawIOBase):
    """A file's decompressed bytes from an offset on; a truncated file gives every byte that can be decoded, then raises."""

    def __init__(self, at: Location, begin: int = 0) -> None:
        super().__init__()
        self._at = at
        self._packed = compression(at.path)
        self._offset = begin
        self._most = BLOCK_BYTES
        self._stream = self._open()

    def _open(self) -> pa.NativeFile:
        if self._packed is None:
            file = self._at.fs.open_input_file(self._at.path)
            file.seek(self._offset)
            return file
        stream = self._at.fs.open_input_stream(self._at.path, compression=self._packed)
        left = self._offset
        while left > 0 and (skipped := len(stream.read(min(left, BLOCK_BYTES)))):
            left -= skipped
        return stream

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Read up to `size` bytes, no more than a block; raises what decoding or storage raises."""
        while True:
            most = min(size, self._most)
            try:
                data: bytes = self._stream.read(most)
            except (pa.ArrowException, OSError):
                # Arrow drops what it decoded before the fault; asking for less, from now on, gets it.
                if self._packed is None or most <= 1:
                    raise
                self._most = most // 2
                self._stream = self._open()
                continue
            self._offset += len(data)
            return data

    def readable(self) -> bool:
        """Answer yes: part of the raw stream interface."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer: part of the raw stream interface."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file too."""
        # There is none where opening failed.
        stream = getattr(self, "_stream", None)
        if stream is not None and not self.closed:
            stream.close()
        super().close()


def line_layout(name: str, at: Location, size: int) -> Layout:
    """Cut a plain file into byte ranges; a compressed one is one stretch."""
    if compression(at.path) is not None:
        return Layout((Piece(name, 0, None, None, size),))
    cuts = [*range(0, max(size, 1), SPAN_BYTES), size]
    if len(cuts) > 2 and size - cuts[-2] < SPAN_BYTES // 4:
        del cuts[-2]
    return Layout(tuple(Piece(name, begin, end, None, end - begin) for begin, end in itertools.pairwise(cuts)))


def read_lines(at: Location, begin: int, end: int | None) -> Iterator[Lines]:
    """Stream the lines that begin at or after `begin` and before `end`.

    A position inside a line stands for the next line, so ranges cut anywhere share no line and miss none. A line longer
    than `MAX_RECORD_BYTES` comes as its first bytes, more than are allowed, so that the caller can tell. A byte order mark
    belongs to the first line, which begins at 0, and is stripped.
    """
    start = max(begin - 1, 0)
    with ByteStream(at, start) as stream:
        carry, skipping = b"", begin > 0
        while True:
            block = stream.read(BLOCK_BYTES)
            data = carry + block
            if skipping:
                newline = data.find(b"\n")
                if newline < 0:
                    start += len(data)
                    if not block:
                        return
                    continue
                data, start, skipping = data[newline + 1 :], start + newline + 1, False
            lines = data.split(b"\n")
            carry = lines.pop()
            if not block and carry:
                lines, carry = [*lines, carry], b""
            elif len(carry) > MAX_RECORD_BYTES + 1:
                # A carriage return may be stripped from what is kept: one byte more keeps it too long.
                carry, dropped, block = _drop_line(stream, carry)
                lines.append(carry[: MAX_RECORD_BYTES + 2])
                yield from _emit(lines, start, end, dropped)
                start, carry = start + sum(map(len, lines)) + len(lines) + dropped, block
                if end is not None and start >= end:
                    return
                continue
            yield from _emit(lines, start, end, 0)
            start += sum(map(len, lines)) + len(lines)
            if not block or (end is not None and start >= end):
                return


def _drop_line(stream: ByteStream, head: bytes) -> tuple[bytes, int, bytes]:
    """Skip the rest of a line that is too long: its head, bytes of it beyond the head that is kept, what follows it."""
    length = len(head)
    while block := stream.read(BLOCK_BYTES):
        newline = block.find(b"\n")
        if newline >= 0:
            return head, length + newline - (MAX_RECORD_BYTES + 2), block[newline + 1 :]
        length += len(block)
    return head, length - (MAX_RECORD_BYTES + 2), b""


def _emit(lines: list[bytes], start: int, end: int | None, dropped: int) -> Iterator[Lines]:
    if not lines:
        return
    sizes = np.fromiter((len(line) + 1 for line in lines), np.int64, len(lines))
    sizes[-1] += dropped
    behind = start + np.cumsum(sizes)
    offsets = behind - sizes
    count = len(lines) if end is None else int(np.searchsorted(offsets, end))
    if start == 0:
        lines = [lines[0].removeprefix(_BOM), *lines[1:]]
    for first in range(0, count, RECORDS_PER_READ):
        last = min(first + RECORDS_PER_READ, count)
        yield [_strip_cr(line) for line in lines[first:last]], offsets[first:last], int(behind[last - 1])


def _strip_cr(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


class TextSource:
    """Plain text files: every line is a row, an empty one too."""

    extensions = with_compressions(".txt", ".text")

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def seekable(self, at: Location) -> bool:
        """Tell that plain files are and compressed ones are not."""
        return compression(at.path) is None

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Cut at byte ranges."""
        return line_layout(name, at, size)

    def sample_schema(self, at: Location) -> pa.Schema:
        """Text files have one column."""
        return pa.schema([("text", pa.string())])

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream lines."""
        for lines, offsets, behind in read_lines(at, begin, piece.end):
            message = _TOO_LARGE.format(MAX_RECORD_BYTES)
            bad = [(index, Reason.TOO_LARGE, message) for index, line in enumerate(lines) if len(line) > MAX_RECORD_BYTES]
            for index, _, _ in bad:
                lines[index] = b""
            text, invalid = valid_utf8(pa.array(lines, pa.binary()))
            yield records({"text": text}, offsets, behind, [*bad, *invalid])


class JsonLinesSource:
    """JSON lines: every line that is not blank is a row; a bad one costs itself."""

    extensions = with_compressions(".jsonl", ".ndjson", ".json")

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def seekable(self, at: Location) -> bool:
        """Tell that plain files are and compressed ones are not."""
        return compression(at.path) is None

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Cut at byte ranges."""
        return line_layout(name, at, size)

    def sample_schema(self, at: Location) -> pa.Schema:
        """Find columns and types in the first thousand records; nested values are kept as JSON text."""
        seen: dict[str, list[Any]] = {}
        dotted = [name for name in (*text_columns(self._spec), *self._spec.keep) if "." in name]
        lines = itertools.chain.from_iterable(lines for lines, _, _ in read_lines(at, 0, None))
        parsed = (record for record in map(_parse, lines) if isinstance(record, dict))
        try:
            for record in itertools.islice(parsed, _SAMPLE_RECORDS):
                inside = {name: value for name in dotted if (value := pick(record, name)) is not None}
                for name, value in (record | inside).items():
                    seen.setdefault(name, []).append(value)
        except (pa.ArrowException, OSError):
            # What can be read of a truncated file will be read, so its columns count.
            if not seen:
                raise
        return pa.schema([(name, _infer(values)) for name, values in seen.items()])

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream records."""
        texts = set(text_columns(self._spec))
        for lines, offsets, behind in read_lines(at, begin, piece.end):
            filled = np.array([len(line) > MAX_RECORD_BYTES or bool(line.strip()) for line in lines], dtype=bool)
            parsed = [_parse(line) for line, is_filled in zip(lines, filled, strict=True) if is_filled]
            bad = [(i, value[0], value[1]) for i, value in enumerate(parsed) if isinstance(value, tuple)]
            columns = {}
            for field in schema:
                values = [pick(record, field.name) if isinstance(record, dict) else None for record in parsed]
                if field.name in texts and self._spec.template is not None:
                    values = [value if value is None or isinstance(value, str) else _json_text(value) for value in values]
                columns[field.name], wrong = typed_column(values, field, from_text=False, is_text=field.name in texts)
                bad += wrong
            yield records(columns, offsets[filled], behind, bad)


def _parse(line: bytes) -> dict[str, Any] | tuple[str, str]:
    """Parse one line: the object, or (reason, message)."""
    if len(line) > MAX_RECORD_BYTES:
        return Reason.TOO_LARGE, _TOO_LARGE.format(MAX_RECORD_BYTES)
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Reason.INVALID_UTF8, f"byte {error.start} of the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        return Reason.MALFORMED, f"not a JSON object: {error}"
    if not isinstance(value, dict):
        return Reason.MALFORMED, f"not a JSON object but {type(value).__name__}"
    return value


def _infer(values: list[Any]) -> pa.DataType:
    """Choose the type that most values have: one bad value must not turn all others to rejects."""
    counts = Counter("number" if type(value) in (int, float) else type(value).__name__ for value in values if value is not None)
    most = counts.most_common(1)[0][0] if counts else "str"
    if most == "bool":
        return pa.bool_()
    if most == "number":
        return pa.float64() if any(isinstance(value, float) for value in values) else pa.int64()
    return pa.string()


def pick(record: dict[str, Any], name: str) -> Any:
    """Look a column up: a key of this very name, else a dotted path; None where it is missing."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def typed_column(values: list[Any], field: pa.Field, *, from_text: bool, is_text: bool) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Make an Arrow column of parsed values; a value of another type becomes null and is named.

    Args:
        values: parsed values.
        field: name and type of the column.
        from_text: whether values are text to be converted (CSV).
        is_text: whether the column is (part of) the text, where only strings will do; elsewhere a
            string column takes nested JSON as JSON text.
    """
    if pa.types.is_string(field.type) and not is_text and not from_text:
        values = [_json_text(value) if isinstance(value, dict | list) else value for value in values]
    try:
        return _convert(values, field.type, from_text), []
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError, RecursionError):
        pass
    bad: list[tuple[int, str, str]] = []
    kept: list[Any] = []
    for index, value in enumerate(values):
        try:
            kept.append(_convert([value], field.type, from_text)[0].as_py())
        except UnicodeEncodeError:
            kept.append(None)
            bad.append((index, Reason.INVALID_UTF8, f"column {field.name!r} is not valid UTF-8"))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, RecursionError):
            kept.append(None)
            found = type(value).__name__ + ("" if isinstance(value, dict | list) else f" {str(value)[:40]!r}")
            bad.append((index, Reason.WRONG_TYPE, f"column {field.name!r} should be {field.type}, found {found}"))
    return pa.array(kept, field.type), bad


def _json_text(value: Any) -> Any:
    """Write a parsed value as JSON again; one nested too deep for that stays what it is, and is of the wrong type."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return value


def _convert(values: list[Any], kind: pa.DataType, from_text: bool) -> pa.Array:
    if from_text:
        # An empty CSV field is no number: it is no value, as everywhere.
        is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return pa.array(values if is_string else [value or None for value in values], pa.string()).cast(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # Arrow would take true for 1.
        if any(isinstance(value, bool) for value in values):
            raise pa.ArrowTypeError("a boolean is no number")
    if pa.types.is_integer(kind) and any(isinstance(value, float) and not value.is_integer() for value in values):
        # Arrow would cut the fraction off.
        raise pa.ArrowTypeError("a fraction is no whole number")
    return pa.array(values, kind)
