"""Tables for a person, on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from embed_ops.terminal import PlainConsole, PlainTable, plain_line


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


def counted(number: int, thing: str, several: str | None = None) -> str:
    """Word how many there are of a thing: 1 row, 2 rows."""
    return f"{number:,} {thing if number == 1 else several or f'{thing}s'}"


def cut_table(title: str, widths: Iterable[tuple[str, int]]) -> PlainTable:
    """Make a table whose columns, by heading and width, are cut and never wrapped."""
    table = PlainTable(title=title)
    for heading, width in widths:
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=width)
    return table


_LEAST, _LEAST_OF_WIDE = 12, 30
"""Characters that a column has at least, where its cells are as long."""
_NARROWEST, _BORDERS = 4, 3


def fit_columns(
    columns: Sequence[tuple[str, int]],
    lines: Sequence[Sequence[str]],
    droppable: Sequence[int],
    width: int,
    wide: int | None = None,
) -> dict[int, int]:
    """Choose the columns that a terminal has room for: the width of each, by place.

    Narrow columns are as wide as their cells; wide ones share what these leave.

    Args:
        columns: heading and most characters of each.
        lines: cells of each line.
        droppable: places of columns that may go, the last ones first.
        width: of the terminal, in characters.
        wide: place of the column that is what one looks for, and has more room than others.
    """
    wanted = {
        place: min(most, max(len(plain_line(cell)) for cell in (heading, *(line[place] for line in lines))))
        for place, (heading, most) in enumerate(columns)
    }
    widths = {place: min(_LEAST_OF_WIDE if place == wide else _LEAST, most) for place, most in wanted.items()}

    def spare() -> int:
        return width - 1 - sum(each + _BORDERS for each in widths.values())

    for place in reversed(droppable):
        if spare() < 0:
            del widths[place]
    while spare() < 0 and max(widths.values()) > _NARROWEST:
        widths[max(widths, key=lambda place: widths[place])] -= 1
    while spare() > 0 and (cut := [place for place, each in widths.items() if each < wanted[place]]):
        widths[min(cut, key=lambda place: widths[place])] += 1
    return widths
