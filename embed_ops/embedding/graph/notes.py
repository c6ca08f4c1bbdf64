"""What a graph's tasks tell the driver: a frozen dataclass each, kept as JSON below `work/graph/`.

A note is written when all else that its task writes is there. So a task that has one has ended, and
the same command, run again, reads its note instead of running it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from embed_ops.errors import RunError


class Note:
    """What a task tells: the base of all notes."""


@dataclass(frozen=True)
class UnitRows:
    """A unit, and the rows of its span that it has."""

    unit: str
    first: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class NodesNote(Note):
    """A span of the node table was read.

    Attributes:
        rows: nodes, rejects included.
        units: the span's units, in order.
        first_id: the first id, if ids are integers that count up by one and no row is a reject.
        all_chosen: whether `where` leaves no node out.
    """

    rows: int
    units: tuple[UnitRows, ...]
    first_id: int | None
    all_chosen: bool


@dataclass(frozen=True, kw_only=True)
class BucketNote(Note):
    """A bucket of the dictionary of ids was made; `again`: rows whose id an earlier row has."""

    again: int


@dataclass(frozen=True, kw_only=True)
class EdgesNote(Note):
    """A span of the edge table was read.

    Attributes:
        chunks: files of sorted edges.
        edges: in them; undirected ones count twice.
        missing: edges with no node at one end, or without a value.
        rejected: edges of rejected nodes.
        examples: the first of the missing ones, for a message.
    """

    chunks: int
    edges: int
    missing: int
    rejected: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PartitionsNote(Note):
    """The nodes were divided; `bounds`: places, (partitions + 1,)."""

    bounds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CsrNote(Note):
    """The in-edges of a partition, or those that a layer needs, were sorted.

    Attributes:
        edges: in-edges.
        largest: in-edges of the node that has most.
        rows: nodes whose state is asked for.
        sends: where the places of each partition begin in the halo, (partitions + 1,).
    """

    edges: int
    largest: int
    rows: int
    sends: tuple[int, ...]

    @property
    def halo_rows(self) -> int:
        """Rows that are received."""
        return self.sends[-1]


@dataclass(frozen=True, kw_only=True)
class StatesNote(Note):
    """The states of a partition were computed.

    Attributes:
        received: bytes that partitions sent.
        edges: in-edges that were summed.
        device: name of what computed.
    """

    received: int = 0
    edges: int = 0
    device: str = ""


N = TypeVar("N", bound=Note)


def write_note(note: Note) -> bytes:
    """Write a note as JSON."""
    return TypeAdapter(type(note)).dump_json(note)


def read_note(content: bytes, kind: type[N], name: str) -> N:
    """Read what `write_note` wrote.

    Raises:
        RunError: it is something else; begins with `name`.
    """
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise RunError(
            f"{name}: not a note of this version of embed-ops: {error.errors()[0]['msg']}; delete the run's "
            "work folder and run the same command again"
        ) from error
