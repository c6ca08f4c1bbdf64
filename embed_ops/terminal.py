"""What a terminal is shown: text as it is, whatever stands in rows, names and paths.

Words in brackets are no styles, `:smile:` is no picture, and what a terminal would obey is shown as
an escape. Secrets are left out.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embed_ops.redaction import redacted

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # What turns the direction of writing, or ends a line.
    "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    # What can't be seen or written: marks, tags, bytes of a name that is no UTF-8.
    "\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


_UNITS_OF_SIZE = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def plain(text: str) -> str:
    """Show control characters as escapes, and leave secrets out; lines and tabs stay."""
    return _OBEYED.sub(_escaped, redacted(text))


def plain_line(text: str) -> str:
    """Give a text as `plain` does, in one line."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def size(bytes_: int) -> str:
    """Write a number of bytes: 512 bytes, 6.9 kB, 45 MB, 3.4 GB."""
    if bytes_ < 1_000:
        return f"{bytes_} byte{'' if bytes_ == 1 else 's'}"
    unit, of = next((unit, of) for unit, of in _UNITS_OF_SIZE if bytes_ >= of * 0.9995)
    return f"{bytes_ / of:,.{1 if bytes_ < 10 * of else 0}f} {unit}"


def write_line(text: str) -> None:
    """Write one line to standard output."""
    sys.stdout.write(f"{plain_line(text)}\n")


class PlainConsole(Console):
    """A console to which every string is plain text, also in tables and titles."""

    def __init__(self, **options: Any) -> None:
        """Take what a console takes, but for markup, emoji and highlighting."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text, as it is."""
        return super().render_str(plain(text), **options | {"markup": False, "emoji": False})


class PlainTable(Table):
    """A table whose cells are lines of plain text."""

    def __init__(self, *, title: str, **options: Any) -> None:
        """Take what a table takes."""
        super().__init__(title=plain_line(title), title_justify="left", **options)

    def add_column(self, header: str = "", **options: Any) -> None:  # type: ignore[override]
        """Add a column."""
        super().add_column(plain_line(header), **options)

    def add_row(self, *cells: str, **options: Any) -> None:  # type: ignore[override]
        """Add a row."""
        super().add_row(*map(plain_line, cells), **options)


class PlainFormatter(logging.Formatter):
    """Formats messages of a log, a line each, as plain text."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message, without a traceback."""
        record.message = plain_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Format a traceback."""
        return plain(super().formatException(ei))
