"""Tables for a person, on standard output."""

from __future__ import annotations

from collections.abc import Iterable

from embed_ops.terminal import PlainConsole, PlainTable


def console() -> PlainConsole:
    """Give the console of standard output.

    Without a terminal lines are not wrapped, so that they can be searched.
    """
    shown = PlainConsole()
    return shown if shown.is_terminal else PlainConsole(width=160)


def show_pairs(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Show a table of names and values."""
    table = PlainTable(title=title, show_header=False)
    for name, value in pairs:
        table.add_row(name, value)
    console().print(table)


def cut_table(title: str, widths: Iterable[tuple[str, int]]) -> PlainTable:
    """Make a table whose columns, by heading and width, are cut and never wrapped."""
    table = PlainTable(title=title)
    for heading, width in widths:
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=width)
    return table
