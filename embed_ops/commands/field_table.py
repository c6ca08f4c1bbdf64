"""The fields of a spec and of stages as the help of the verbs lists them: in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from embed_ops.spec.fields import COMMON, FieldHelp, field_groups, fields

_WIDTH = 78
"""Columns of a line; the help itself indents by two."""
_SECTIONS = {
    "source": "[source]: where the rows come from",
    "encoder": "[encoder]: the model, and the vectors that it gives",
    "parity": "[parity]: how close the first rows must be to the reference",
    "sink": "[sink]: where the run goes",
    "resources": "[resources]: what the job may use",
    "": "above all sections",
}
EXAMPLE = (
    "\b\nExamples:\n"
    "  embed-ops init data/ && embed-ops {verb} embed.toml\n"
    "  embed-ops {verb} embed.toml source.limit=1000 sink.path=try/\n"
    "  embed-ops {verb} source.path=data/ source.column=text \\\n"
    "      encoder.model=sentence-transformers/all-MiniLM-L6-v2 sink.path=out/"
)


def field_help(verb: str) -> str:
    """List the fields of the spec for the help of a verb: common ones first, then by section."""
    groups = [("[section] and field = what it says [default]; most used:", list(_common()))]
    of_some = [(heading, _left(rows)) for heading, rows in field_groups()]
    rows = _left(fields())
    for section, heading in _SECTIONS.items():
        here = [row for row in rows if (row.address.split(".")[0] if "." in row.address else "") == section]
        groups.append((heading, here))
        groups += [group for group in of_some if section and group[0].startswith(f"[{section}]")]
    width = max(len(row.address) for _, rows in groups for row in rows)
    listed = [table(heading, rows, width) for heading, rows in groups if rows]
    return "\n\n".join([EXAMPLE.format(verb=verb), *listed])


def table(heading: str, rows: Iterable[FieldHelp], width: int) -> str:
    """Write rows below a heading, as a paragraph that the help leaves as it is."""
    headed = "\n".join(textwrap.wrap(heading, _WIDTH, subsequent_indent="    "))
    return "\n".join([f"\b\n{headed}", *(line for row in rows for line in _lines(row, width))])


def _lines(row: FieldHelp, width: int) -> Iterator[str]:
    """Write a field: its address, then what it says, the words that it takes, its default."""
    allowed = ""
    if len(row.allowed) > 1 and not all(word in row.meaning for word in row.allowed):
        allowed = f" ({', '.join(row.allowed)})"
    text = f"{row.meaning}{allowed} [{row.default}]"
    folded = textwrap.wrap(text, _WIDTH - width - 4, break_on_hyphens=False)
    yield f"  {row.address:<{width}}  {folded[0]}"
    yield from (f"  {'':<{width}}  {line}" for line in folded[1:])


def _common() -> Iterator[FieldHelp]:
    """Give the common fields in their order."""
    rows = {row.address: row for _, rows in [("", fields()), *field_groups()] for row in rows}
    yield from (rows[address] for address in COMMON)


def _left(rows: Sequence[FieldHelp]) -> list[FieldHelp]:
    """Give the fields that are not common; what is required first."""
    left = [row for row in rows if row.address not in COMMON]
    return sorted(left, key=lambda row: row.default != "required")
