"""Reads protobuf's wire format, which ONNX files and SavedModels have: fields by number, no more.

A field that is not asked for is stepped over, so gigabytes of weights are never read.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MOST_BITS = 64


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk the fields of a message: number, and an integer or the bytes of what it holds.

    Raises:
        ValueError: the bytes are no message.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
        if at + size > end:
            raise ValueError(f"field {number} ends {at + size - end} bytes behind the end")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read an integer: its value, and where the next begins."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > _MOST_BITS:
            raise ValueError("an integer does not end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def integers(value: int | memoryview) -> Iterator[int]:
    """Give the integers of a repeated field, packed or one by one.

    Raises:
        ValueError: the bytes are no integers.
    """
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def text(value: int | memoryview) -> str:
    """Read a string.

    Raises:
        ValueError: it is none.
    """
    return bytes(inner(value)).decode("utf-8")


def inner(value: int | memoryview) -> memoryview:
    """Give the bytes of a field that holds a message or a string.

    Raises:
        ValueError: it holds a number.
    """
    if isinstance(value, int):
        raise ValueError("a number stands where a message was expected")
    return value


def field(number: int, content: bytes) -> bytes:
    """Write a field that holds a message or a string."""
    return _written(number << 3 | _BYTES) + _written(len(content)) + content


def _written(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
