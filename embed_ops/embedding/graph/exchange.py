"""What the partitions of a graph send each other for one layer, in waves that fit the object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embed_ops.embedding.graph.job import GraphJob, Part, states_name
from embed_ops.embedding.graph.partitions import pack
from embed_ops.engine.base import Engine


@dataclass(frozen=True)
class Exchange:
    """One layer's sending.

    Attributes:
        graph: the job.
        engine: where `pack` runs.
        parts: all partitions.
        layer: that receives.
        prefix: of the names of the halos.
        halos: the notes of the partitions' halos.
    """

    graph: GraphJob
    engine: Engine
    parts: Sequence[Part]
    layer: int
    prefix: str
    halos: Sequence[dict[str, Any]]

    def calls(self, wave: Sequence[Part], kind: str) -> list[tuple[Any, ...]]:
        """Let all partitions pack what a wave receives.

        Gives the arguments of its `aggregate` tasks.

        Args:
            wave: the partitions that receive.
            kind: which rows are sent, `states` or `message`.
        """
        inbox: dict[int, list[Any]] = {part.number: [] for part in wave}
        for sender in self.parts:
            slices = {
                part.number: self.halos[part.number]["sends"][sender.number : sender.number + 2]
                for part in wave
            }
            receivers = [part for part in wave if slices[part.number][0] < slices[part.number][1]]
            if not receivers:
                continue
            asked = [(self._halo(part), *slices[part.number]) for part in receivers]
            arguments = (self.graph, sender, f"{states_name(self.layer - 1, sender.number)}.{kind}", asked)
            for part, sent in zip(receivers, self.engine.begin(pack, arguments, len(receivers)), strict=True):
                inbox[part.number].append(sent)
        return [(self.graph, part, self.layer, self._halo(part), *inbox[part.number]) for part in wave]

    def _halo(self, part: Part) -> str:
        return f"{self.prefix}/{part.number:06d}"


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
