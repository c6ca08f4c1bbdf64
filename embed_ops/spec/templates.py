"""Texts with columns in braces, as `"{title}. {body}"`: a row's values stand in their places."""

from __future__ import annotations

import string


def parts_of(template: str) -> list[tuple[str, str | None]]:
    """Take a template apart: texts, each with the column that follows it, None behind the last.

    Raises:
        ValueError: it is no Python format string of plain names.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write a brace that is text twice") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name or form or conversion):
            raise ValueError(f"{{{name}}} must be a plain column name")
    return [(literal, name) for literal, name, _, _ in parts]


def fields_of(template: str) -> tuple[str, ...]:
    """List the columns that a template names, each once, in order; raises as `parts_of`."""
    return tuple(dict.fromkeys(name for _, name in parts_of(template) if name is not None))
