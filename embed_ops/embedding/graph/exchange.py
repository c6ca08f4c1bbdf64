"""What a graph's partitions send each other for one layer, in waves that fit the object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embed_ops.embedding.graph.job import GraphJob, Part, csr_name, states_name
from embed_ops.embedding.graph.notes import CsrNote
from embed_ops.embedding.graph.partitions import send_rows
from embed_ops.engine.base import Engine


@dataclass(frozen=True)
class Halos:
    """What each partition receives for a layer.

    Attributes:
        notes: one for each partition.
        restricted: whether these are the in-edges that the layer needs, and not all.
    """

    notes: Sequence[CsrNote]
    restricted: bool = False

    @property
    def rows(self) -> list[int]:
        """Rows that each partition receives."""
        return [note.halo_rows for note in self.notes]


@dataclass(frozen=True)
class Exchange:
    """One layer's sending.

    Attributes:
        graph: the job.
        engine: where `send_rows` runs.
        parts: all partitions.
        layer: that receives.
        halos: what each partition receives.
    """

    graph: GraphJob
    engine: Engine
    parts: Sequence[Part]
    layer: int
    halos: Halos

    def calls(self, wave: Sequence[Part], kind: str) -> list[tuple[Any, ...]]:
        """Let all partitions send what a wave receives.

        Gives the arguments of its `compute_layer` tasks.

        Args:
            wave: the partitions that receive.
            kind: which rows are sent, `states` or `message`.
        """
        inbox: dict[int, list[Any]] = {part.number: [] for part in wave}
        for sender in self.parts:
            slices = {
                part.number: self.halos.notes[part.number].sends[sender.number : sender.number + 2]
                for part in wave
            }
            receivers = [part for part in wave if slices[part.number][0] < slices[part.number][1]]
            if not receivers:
                continue
            asked = [(self._halo(part), *slices[part.number]) for part in receivers]
            arguments = (self.graph, sender, f"{states_name(self.layer - 1, sender.number)}.{kind}", asked)
            for part, sent in zip(
                receivers, self.engine.begin(send_rows, arguments, len(receivers)), strict=True
            ):
                inbox[part.number].append(sent)
        return [(self.graph, part, self.layer, self.halos.restricted, *inbox[part.number]) for part in wave]

    def _halo(self, part: Part) -> str:
        return csr_name(part.number, self.layer if self.halos.restricted else None)


def waves(parts: Sequence[Part], sizes: Sequence[float], room: float) -> Iterator[list[Part]]:
    """Group partitions so that what a group receives fits.

    A partition that does not fit alone is a group.
    """
    wave: list[Part] = []
    filled = 0.0
    for part in parts:
        if wave and filled + sizes[part.number] > room:
            yield wave
            wave, filled = [], 0.0
        wave.append(part)
        filled += sizes[part.number]
    if wave:
        yield wave
