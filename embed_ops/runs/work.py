"""The work of one reading task: a span and what is done of it, or what is read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from embed_ops.sources.plan import Piece, Span
from embed_ops.sources.units import UnitEnd


@dataclass(frozen=True)
class Again:
    """Rows of one source file that are read again.

    Single positions, and everything from `tail` on.
    """

    rows: frozenset[int] = frozenset()
    tail: int | None = None

    def has(self, row: int) -> bool:
        """Tell whether a position is one of them."""
        return row in self.rows or (self.tail is not None and row >= self.tail)


@dataclass(frozen=True)
class Work:
    """The work of one reading task.

    A span and its units that are done, or, on retry, one unit and its rejects.

    Attributes:
        span: what to read; on retry, the stretches of one unit.
        done: units to jump over.
        retry: None, or the rows to read again by source file.
        replaces: on retry, the unit's reject file.
    """

    span: Span
    done: dict[str, UnitEnd] = field(default_factory=dict)
    retry: dict[str, Again] | None = None
    replaces: str | None = None

    def dump(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self), default=sorted)

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what `dump` wrote."""
        values: dict[str, Any] = json.loads(text)
        span = Span(values["span"]["index"], tuple(Piece(**piece) for piece in values["span"]["pieces"]))
        done = {name: UnitEnd(**end) for name, end in values["done"].items()}
        retry = values["retry"] and {
            name: Again(frozenset(again["rows"]), again["tail"]) for name, again in values["retry"].items()
        }
        return cls(span, done, retry, values["replaces"])
