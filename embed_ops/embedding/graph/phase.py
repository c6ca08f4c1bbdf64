"""One command at work on a graph, and a phase of it: the tasks whose notes are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embed_ops.embedding.attempt import Attempt
from embed_ops.embedding.graph.job import GraphJob
from embed_ops.embedding.graph.notes import N
from embed_ops.engine.base import Claim, Engine
from embed_ops.sources.corpus import Corpus

if TYPE_CHECKING:
    from embed_ops.encoders.graph.model import GraphModel


@dataclass(frozen=True)
class GraphRun:
    """What every phase of a command is given.

    Attributes:
        attempt: the command.
        engine: where tasks run.
        graph: what tasks are told.
        model: the model, for its widths.
        edges: the edge table; the node table is the attempt's corpus.
        of_model: what a task takes in which the model computes.
    """

    attempt: Attempt
    engine: Engine
    graph: GraphJob
    model: GraphModel
    edges: Corpus
    of_model: Claim

    def each(
        self,
        what: str,
        function: Callable[..., N],
        kind: type[N],
        calls: Sequence[tuple[str, tuple[Any, ...]]],
        claim: Claim | None = None,
    ) -> list[N]:
        """Run the tasks of a phase whose notes are not there yet, and give all notes in order.

        Args:
            what: names the phase, for the terminal.
            function: the task.
            kind: what it tells.
            calls: (name of the note, arguments) of each task.
            claim: what each takes, where that is no core.
        """
        notes = [self.graph.noted(name, kind) for name, _ in calls]
        missing = [place for place, note in enumerate(notes) if note is None]
        self.attempt.reporter.doing(what)
        for count, (number, note) in enumerate(
            self.engine.each(function, [calls[place][1] for place in missing], claim=claim), start=1
        ):
            notes[missing[number]] = note
            self.attempt.reporter.doing(what, f"{count:,} of {len(missing):,}")
        return [note for note in notes if note is not None]
