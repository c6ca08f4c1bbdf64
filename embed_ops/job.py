"""What workers are told: the job, and the work of one reading task."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pyarrow as pa

from embed_ops.encoder_spec import EncoderSpec
from embed_ops.filesystem import Location
from embed_ops.plan import Piece, Span
from embed_ops.sources.units import UnitEnd
from embed_ops.spec import Spec


@dataclass(frozen=True)
class Resolved:
    """What "auto" became: with the spec and the data it decides every byte, so it is kept with the run.

    Attributes:
        dtype: compute type.
        compile: whether the forward pass is compiled.
        token_budget: padded positions of a forward pass.
        batch_rule: name of the rule that forms token batches.
        threads_per_replica: CPU threads of a forward pass.
        device: "cpu" or "cuda".
        versions: exact versions of the libraries that compute or write.
        draft: whether the JPEG decoder shrinks large photographs.
    """

    dtype: str
    compile: bool
    token_budget: int
    batch_rule: str
    threads_per_replica: int
    device: str
    versions: Mapping[str, str]
    draft: bool = False


def place_of(roots: Sequence[Location], source: str) -> Location:
    """Find a source file by its name below its root, whose number stands in front where there are several."""
    if len(roots) == 1:
        return roots[0].child(source)
    number, _, inside = source.partition("/")
    return roots[int(number)].child(inside)


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to read, embed and write units."""

    spec: Spec
    run: Location
    roots: tuple[Location, ...]
    columns: pa.Schema
    resolved: Resolved
    fingerprint: str
    attempt: str
    deadline: float | None = None
    """Seconds since 1970 after which no further unit is begun."""

    @property
    def encoder(self) -> EncoderSpec:
        """What workers make their encoder of."""
        return self.spec.encoder.model_copy(update={"draft": self.resolved.draft})

    def late(self) -> bool:
        """Tell whether no further unit may be begun."""
        return self.deadline is not None and time.time() > self.deadline

    def place(self, source: str) -> Location:
        """Find a source file by its name."""
        return place_of(self.roots, source)


@dataclass(frozen=True)
class Again:
    """Rows of one source file that are read again: single positions, and everything from `tail` on."""

    rows: frozenset[int] = frozenset()
    tail: int | None = None

    def has(self, row: int) -> bool:
        """Tell whether a position is one of them."""
        return row in self.rows or (self.tail is not None and row >= self.tail)


@dataclass(frozen=True)
class Work:
    """The work of one reading task: a span and its units that are done, or, on retry, one unit and its rejects.

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
        retry = values["retry"] and {name: Again(frozenset(again["rows"]), again["tail"]) for name, again in values["retry"].items()}
        return cls(span, done, retry, values["replaces"])
