"""JSONL and plain text: a record a line; positions are bytes of the decompressed stream."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.schema import Reason
from embed_ops.sources.base import MAX_RECORD_BYTES, Records, records, text_columns, valid_utf8
from embed_ops.sources.heads import json_lines_fault
from embed_ops.sources.plan import FILES_OF_ROWS, Piece
from embed_ops.sources.streams import is_plain, line_layout, read_lines, with_compressions
from embed_ops.sources.tensors import json_type
from embed_ops.sources.values import NATURAL, TypeGuess, as_text, json_text, pick, typed_column
from embed_ops.spec.source import SourceSpec
from embed_ops.spec.source_parts import LISTED
from embed_ops.storage.faults import is_transport
from embed_ops.storage.files import Location

_SAMPLE_RECORDS = 1000
_TOO_LARGE = "the line is longer than {} bytes"


class _OfLines:
    """What files of lines have in common: a plain one is cut anywhere, a compressed one is not."""

    sharing = FILES_OF_ROWS
    seekable = staticmethod(is_plain)
    inspect = staticmethod(line_layout)

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec


class TextSource(_OfLines):
    """Plain text files: every line is a row, an empty one too."""

    extensions = with_compressions(".txt", ".text")

    def sample_schema(self, at: Location) -> pa.Schema:
        """Text files have one column."""
        return pa.schema([("text", pa.string())])

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream lines."""
        for lines, offsets, behind in read_lines(at, begin, piece.end):
            message = _TOO_LARGE.format(MAX_RECORD_BYTES)
            bad = [
                (index, Reason.TOO_LARGE, message)
                for index, line in enumerate(lines)
                if len(line) > MAX_RECORD_BYTES
            ]
            for index, _, _ in bad:
                lines[index] = b""
            text, invalid = valid_utf8(pa.array(lines, pa.binary()))
            yield records({"text": text}, offsets, behind, [*bad, *invalid])


class JsonLinesSource(_OfLines):
    """JSON lines: every line that is not blank is a row; a bad one costs itself."""

    extensions = with_compressions(".jsonl", ".ndjson", ".json")

    def sample_schema(self, at: Location) -> pa.Schema:
        """Find columns and types in the first thousand records.

        Nested values are kept as JSON text.
        """
        seen: dict[str, TypeGuess] = {}
        listed = self._spec.contents if self._spec.modality in LISTED else None
        lists: list[Any] = []
        dotted = [name for name in (*text_columns(self._spec), *self._spec.keep) if "." in name]
        lines = itertools.chain.from_iterable(
            lines for lines, _, _ in read_lines(at, 0, None, json_lines_fault)
        )
        parsed = (record for record in map(_parse, lines) if isinstance(record, dict))
        try:
            for record in itertools.islice(parsed, _SAMPLE_RECORDS):
                inside = {name: value for name in dotted if (value := pick(record, name)) is not None}
                for name, value in (record | inside).items():
                    seen.setdefault(name, TypeGuess()).see(value)
                    if name == listed and isinstance(value, list):
                        lists.append(value)
        except (pa.ArrowException, OSError) as error:
            # What can be read of a truncated file will be read, so its columns count.
            if not seen or is_transport(error):
                raise
        fields = {
            name: pa.field(name, guess.kind, metadata=NATURAL if guess.natural else None)
            for name, guess in seen.items()
            if is_encodable(name)
        }
        if listed is not None and lists:
            of_words = self._spec.modality == "words"
            fields[listed] = pa.field(listed, pa.list_(pa.string()) if of_words else json_type(lists))
        # A field that comes late is there if its type is given.
        for name in self._spec.types:
            fields.setdefault(name, pa.field(name, pa.null()))
        return pa.schema(list(fields.values()))

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream records."""
        texts = set(text_columns(self._spec))
        for lines, offsets, behind in read_lines(at, begin, piece.end, json_lines_fault):
            filled = np.array(
                [len(line) > MAX_RECORD_BYTES or bool(line.strip()) for line in lines], dtype=bool
            )
            parsed = [_parse(line) for line, is_filled in zip(lines, filled, strict=True) if is_filled]
            bad = [(i, value[0], value[1]) for i, value in enumerate(parsed) if isinstance(value, tuple)]
            columns = {}
            for field in schema:
                values = [pick(record, field.name) if isinstance(record, dict) else None for record in parsed]
                if field.name in texts and self._spec.modality == "words":
                    columns[field.name], wrong = _word_lists(values)
                    bad += wrong
                    continue
                of_template = field.name in texts and self._spec.joined is not None
                asked = field.name in self._spec.types and pa.types.is_string(field.type)
                if of_template or asked:
                    values = [as_text(value) for value in values]
                columns[field.name], wrong = typed_column(
                    values, field, from_text=False, is_text=field.name in texts
                )
                bad += wrong
            yield records(columns, offsets[filled], behind, bad)


def _word_lists(values: list[Any]) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Make a column of lists of words; what is none becomes null and is named."""
    kept: list[Any] = []
    wrong: list[tuple[int, str, str]] = []
    for place, value in enumerate(values):
        fine = value is None or (
            isinstance(value, list) and all(word is None or isinstance(word, str) for word in value)
        )
        kept.append(value if fine else None)
        if not fine:
            wrong.append((place, Reason.WRONG_TYPE, f"not a list of strings but {_shown(value)}"))
    try:
        return pa.array(kept, pa.list_(pa.string())), wrong
    except UnicodeEncodeError:
        encodable = [_encodable(value) for value in kept]
        wrong += [
            (place, Reason.INVALID_UTF8, "a word holds half a character")
            for place, fine in enumerate(encodable)
            if not fine
        ]
        return pa.array(
            [value if fine else None for value, fine in zip(kept, encodable, strict=True)],
            pa.list_(pa.string()),
        ), wrong


def _shown(value: Any) -> str:
    text = json_text(value)
    return text[:80] if isinstance(text, str) else "a value nested too deep to be shown"


def is_encodable(text: str) -> bool:
    """Tell text that has a form in UTF-8 from one with half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encodable(words: list[str | None] | None) -> bool:
    return all(word is None or is_encodable(word) for word in words or ())


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
