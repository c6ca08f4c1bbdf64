"""What the head of a file says of the whole of it, before any record is believed.

A file of another encoding or shape than its kind is one fault, and not one for each of its lines.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

HEAD_BYTES = 64 << 10
"""Bytes that are looked at."""
_MARKS = (
    # That of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"PK\x03\x04", "a zip file"),
    (b"\x1f\x8b\x08", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"%PDF-", "a PDF file"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
_FEWEST = 16
"""Bytes of a head in which NULs are counted: a NUL is a character like others."""
_OF_UTF16, _MOSTLY, _SOME = 0.4, 0.25, 0.05
"""Shares of NULs: of every other byte in UTF-16 of Latin letters, of no text, and of hardly any."""


def text_fault(head: bytes) -> str | None:
    """Say why a file is no text of UTF-8 by its first bytes; None where it may be."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return _encoded(name, f"it begins with the mark {mark.hex(' ').upper()}")
    for magic, what in _MAGIC:
        # Letters alone may be a word: what follows them is none in a file of this kind.
        if head.startswith(magic) and not (magic.isalnum() and _is_utf8(head)):
            advice = (
                "let its name end as its compression does"
                if "compressed" in what
                else "leave it out of the source"
            )
            return f"the file is {what}, not text; {advice}, or correct source.kind"
    if len(head) < _FEWEST:
        return None
    share, sure = head.count(0) / len(head), _is_utf8(head)
    halves = [head[first::2].count(0) / (len(head) // 2) for first in (0, 1)]
    if min(halves) < _SOME and max(halves) > (_OF_UTF16 if sure else _SOME):
        return _encoded("UTF-16", "every other byte is NUL")
    if share > (_MOSTLY if sure else _SOME):
        return f"the file is not text: {share:.0%} of its first bytes are NUL; leave it out of the source"
    return None


def json_lines_fault(head: bytes) -> str | None:
    """Say why a file holds no JSON lines by its first bytes; None where it may."""
    if (fault := text_fault(head)) is not None:
        return fault
    lines = [line for line in head.removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip()]
    if not lines:
        return None
    first, *others = (line.strip() for line in lines[:3])
    if first[:1] == b"[" and _is_array(first, others):
        return (
            "the file is one JSON array, not a JSON object in each line; write it as lines, "
            "as `jq -c '.[]'` does"
        )
    # A line that was cut is one bad line; what goes on in the next one is no line at all.
    if first[:1] == b"{" and first[-1:] in b"{,[" and others and others[0][:1] in b'"{[':
        if _parsed(first) is None and not isinstance(_parsed(others[0]), dict):
            return (
                "the file is JSON over several lines, not a JSON object in each line; write it as lines, "
                "as `jq -c .` does"
            )
    return None


def _is_array(first: bytes, others: list[bytes]) -> bool:
    """Tell an array that is the whole file from a line of lines that is one."""
    objects = [isinstance(_parsed(line), dict) for line in others]
    if first == b"[":
        return objects != [True, True]
    parsed = _parsed(first)
    if parsed is not None:
        # A whole array: the only line, or one line of many.
        return not others and any(isinstance(item, dict) for item in parsed)
    return first[1:].lstrip()[:1] in (b"{", b"[", b'"') and not any(objects[:1])


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_utf8(head: bytes) -> bool:
    try:
        # The head may end inside a character.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _encoded(name: str, why: str) -> str:
    return (
        f"the file is {name}, not UTF-8 ({why}); convert it, as `iconv -f {name} -t UTF-8` does, into a new "
        "file"
    )
