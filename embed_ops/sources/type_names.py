"""What `source.types` may say: the types of Arrow by the names that Arrow prints."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import pyarrow as pa

from embed_ops.errors import SpecError

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|\d+|[<>,:\[\]()])")
_LISTS = ("list", "large_list", "list_view", "large_list_view", "fixed_size_list")
_TZ = re.compile(r"\s*timestamp\[\s*(s|ms|us|ns)\s*,\s*tz\s*=\s*([^\]\s]+)\s*\]")
_NAME = re.compile(r"\s*([^\s:<>,]+)\s*:")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_DEEPEST = 32


def parse_type(name: str, text: str) -> pa.DataType:
    """Read a type: a name as `int64`, or one with an inside as `list<string>`, `struct<a: int64>`.

    Args:
        name: the column, for messages.
        text: the type.

    Raises:
        SpecError: it is no type.
    """
    try:
        return _Parser(text).whole()
    except (ValueError, KeyError, OverflowError, pa.ArrowException) as error:
        raise SpecError(
            f"source.types.{name}: {text!r} is not an Arrow type, as int64, string, timestamp[us], "
            "list<string> or struct<a: int64, b: string>"
        ) from error


class _Parser:
    """Reads one type, from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text.strip(), 0

    def whole(self) -> pa.DataType:
        kind = self._kind(0)
        if self._text[self._at :].strip():
            raise ValueError(self._text[self._at :])
        return kind

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        return match[1] if match else ""

    def _take(self, expected: str | None = None) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None or (expected is not None and match[1] != expected):
            raise ValueError(self._text[self._at :])
        self._at = match.end()
        return match[1]

    def _kind(self, depth: int) -> pa.DataType:
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        zoned = _TZ.match(self._text, self._at)
        if zoned is not None:
            self._at = zoned.end()
            if not _OFFSET.fullmatch(zoned[2]):
                ZoneInfo(zoned[2])
            return pa.timestamp(zoned[1], zoned[2])
        word = self._take()
        if word in _LISTS:
            return self._list(depth)
        if word == "struct":
            return self._struct(depth)
        if word == "map":
            self._take("<")
            key = self._kind(depth + 1)
            self._take(",")
            item = self._kind(depth + 1)
            self._take(">")
            return pa.map_(key, item)
        if word.startswith("decimal"):
            self._take("(")
            precision = int(self._take())
            self._take(",")
            scale = int(self._take())
            self._take(")")
            return {"decimal": pa.decimal128, "decimal128": pa.decimal128, "decimal256": pa.decimal256}[word](
                precision, scale
            )
        if word == "fixed_size_binary":
            self._take("[")
            size = int(self._take())
            self._take("]")
            return pa.binary(size)
        if self._peek() == "[":
            # A unit: `timestamp[us]`, `time64[ns]`, `date32[day]`.
            self._take("[")
            unit = self._take()
            self._take("]")
            word = f"{word}[{unit}]"
        return pa.type_for_alias(word)

    def _list(self, depth: int) -> pa.DataType:
        """Read a list of any layout: among kept columns all are lists."""
        self._take("<")
        named = _NAME.match(self._text, self._at)
        if named is not None:
            # Arrow prints the name of what is inside: `list<item: string>`.
            self._at = named.end()
        inside = self._kind(depth + 1)
        self._take(">")
        if self._peek() == "[":
            self._take("[")
            int(self._take())
            self._take("]")
        return pa.list_(inside)

    def _struct(self, depth: int) -> pa.DataType:
        self._take("<")
        fields: list[tuple[str, pa.DataType]] = []
        while self._peek() != ">":
            if fields:
                self._take(",")
            match = _NAME.match(self._text, self._at)
            if match is None:
                raise ValueError(self._text[self._at :])
            self._at = match.end()
            fields.append((match[1], self._kind(depth + 1)))
        self._take(">")
        return pa.struct(fields)
