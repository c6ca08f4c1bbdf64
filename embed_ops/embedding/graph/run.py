"""A graph from its tables to its vectors, layer by layer: the driver's page.

    nodes      read_nodes, a task for each span of the node table
    ids        build_ids, a task for each bucket, unless ids are row numbers already
    edges      read_edges, a task for each span of the edge table
    build      a task for each partition: its in-edges, sorted, and its halo
    need       only where `where` chooses nodes: what each layer must have for them, from the last layer back
    layers     begin, then for each layer pack and aggregate, a task for each partition
    writing    write_units, a task for each span

Exact: every node meets all its neighbours, and a layer is computed once for every node (not once
for every node that needs it). Bits do not depend on partitions or workers: edges are summed in the
order of their sources' rows, and dense products run on whole tiles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.embedding.attempt import Attempt
from embed_ops.embedding.graph import partitions as graph_layers
from embed_ops.embedding.graph import tables as graph_tables
from embed_ops.embedding.graph import units as graph_units
from embed_ops.embedding.graph.exchange import Exchange, waves
from embed_ops.embedding.graph.job import FINAL, GraphJob, Part, model_path, states_name
from embed_ops.embedding.message import load_outcome
from embed_ops.embedding.unit import Failure, Outcome, Written
from embed_ops.embedding.waves import stopped
from embed_ops.encoders.graph.ids import Ids, bucket_count
from embed_ops.encoders.graph.partition import TILE, boundaries, partition_count
from embed_ops.engine.base import Engine
from embed_ops.engine.progress import Ticker, Totals
from embed_ops.errors import EngineError, ModelError, SourceError, Stopped, StorageError
from embed_ops.sources.corpus import Corpus, open_edges
from embed_ops.spec.encoder import AUTO, OutputSpec

if TYPE_CHECKING:
    from embed_ops.encoders.graph.model import GraphModel

_ROW_BYTES = 16
"""Bytes of a node's row, where only reading would tell how many there are."""
_STORE_SHARE = 0.3
"""Share of the object store that one wave of packed rows may fill."""
_LOOKED_AT = 100
"""First nodes whose features are counted before anything is read whole."""


def run_graph(attempt: Attempt, engine: Engine) -> None:
    """Compute the vectors of a graph's nodes, and write the units that are missing.

    Raises:
        SourceError: edges lead to nodes that are not there, or the tables can't be read.
        StorageError, EngineError, Stopped: the run ended early; what is done is kept.
    """
    try:
        _GraphRun.open(attempt, engine).run()
    except KeyboardInterrupt:
        raise stopped(attempt, "interrupted") from None
    except Stopped as error:
        raise stopped(attempt, str(error).partition(";")[0]) from error
    except BaseException:
        attempt.stop()
        raise
    finally:
        attempt.measured.memory["worker"] = engine.memory


@dataclass
class _GraphRun:
    """One command at work on a graph."""

    attempt: Attempt
    engine: Engine
    graph: GraphJob
    model: GraphModel
    edges: Corpus
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, attempt: Attempt, engine: Engine) -> _GraphRun:
        from embed_ops.encoders.graph.weights import load_graph_model

        source = attempt.spec.graph_source()
        edges = open_edges(source)
        plan = edges.plan()
        graph = GraphJob(attempt.job, edges.spec, plan.columns, tuple(edges.roots))
        graph_tables.require_same_ids(source, attempt.plan.columns, plan.columns)
        model = load_graph_model(model_path(graph), attempt.resolved.dtype)
        _require_width(attempt, model.in_width)
        return cls(attempt, engine, graph, model, edges, {"layers": []})

    def run(self) -> None:
        began = time.time()
        offsets, ids = self._nodes()
        chunks, in_edges = self._edges(ids)
        parts = self._parts(ids.nodes, in_edges)
        notes = self._build(parts, chunks)
        self.figures |= _figures(ids, in_edges, notes)
        restricted, halos = self._needed(parts, notes, ids.nodes, offsets)
        self._begin(parts, offsets)
        self.attempt.measured.startup = time.time() - self.attempt.began
        for layer in range(1, self.model.depth + 1):
            self._layer(parts, layer, halos[layer], f"need-{layer:03d}" if restricted else "csr")
        self._write(parts, offsets)
        self.figures["seconds"] = time.time() - began

    def _each(
        self, what: str, function: Any, calls: Sequence[tuple[str, tuple[Any, ...]]]
    ) -> list[dict[str, Any]]:
        """Run tasks whose notes are not there yet, and give all notes in order.

        `calls`: name of the note, arguments.
        """
        found = [self.graph.noted(name) for name, _ in calls]
        missing = [place for place, note in enumerate(found) if note is None]
        ticker = Ticker(self.attempt.reporter)
        for count, (number, note) in enumerate(
            self.engine.each(function, [calls[place][1] for place in missing]), start=1
        ):
            found[missing[number]] = note
            ticker.say(f"{what}: {count} of {len(missing)}")
        return [note for note in found if note is not None]

    def _nodes(self) -> tuple[list[int], Ids]:
        """Read the node table and make the dictionary."""
        plan = self.attempt.plan
        count = plan.rows if plan.rows is not None else plan.bytes // _ROW_BYTES
        buckets = bucket_count(count)
        spans = list(plan.spans)
        calls = [(f"nodes/{span.index:06d}", (self.graph, span, buckets)) for span in spans]
        self.nodes = self._each("reading nodes", graph_tables.read_nodes, calls)
        rows = [note["rows"] for note in self.nodes]
        offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64).tolist()
        if all(
            note["consecutive"] == offset
            for note, offset in zip(self.nodes, offsets, strict=False)
            if note["rows"]
        ):
            buckets = 0
        indexes = [span.index for span in spans]
        of_buckets = [
            (f"ids/{bucket:06d}", (self.graph, bucket, indexes, offsets[:-1])) for bucket in range(buckets)
        ]
        again = sum(
            note["again"]
            for note in self._each("making the dictionary of ids", graph_tables.build_ids, of_buckets)
        )
        if again:
            self.attempt.reporter.say(
                f"{again} nodes have an id that an earlier one has: they become rejects"
            )
        return offsets, Ids(offsets[-1], str(plan.columns.field(self.graph.source.id).type), buckets)

    def _edges(self, ids: Ids) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Read the edge table; gives the names of all chunks, and the in-edges of each tile."""
        spans = self.edges.plan().spans
        calls = [
            (f"edges/{span.index:06d}", (self.graph, span, ids, self.model.edge_dim or 1)) for span in spans
        ]
        notes = self._each("reading edges", graph_tables.read_edges, calls)
        self._require_nodes(notes)
        tiles = np.zeros(-(-ids.nodes // TILE), np.int64)
        chunks: list[str] = []
        for span, note in zip(spans, notes, strict=True):
            tiles += self.graph.kept(f"edges/{span.index:06d}.tiles")
            chunks += [f"edges/{span.index:06d}-{number:04d}" for number in range(note["chunks"])]
        self.figures["edges_read"] = sum(note["edges"] for note in notes)
        return chunks, tiles

    def _require_nodes(self, notes: Sequence[dict[str, Any]]) -> None:
        """Count edges that lead nowhere, and stop on them unless they may be left out.

        Raises:
            SourceError: names the first ten.
        """
        source = self.graph.source
        missing, rejected = (sum(note.get(name, 0) for note in notes) for name in ("missing", "rejected"))
        self.figures |= {"edges_missing": missing, "edges_of_rejects": rejected}
        examples = [text for note in notes for text in note["examples"]][:10]
        if missing and source.on_missing == "error":
            raise SourceError(
                f"{missing} edges have no node at one end, or lack a value ({source.src} -> "
                f"{source.dst}): {'; '.join(examples)}"
                f"{'; ...' if missing > len(examples) else ''}. Add the nodes, or leave such edges out "
                "(source.on_missing=drop)"
            )
        if missing or rejected:
            self.attempt.reporter.say(
                f"{missing} edges without a node at one end and {rejected} edges of rejected nodes are "
                "left out"
            )

    def _parts(self, nodes: int, in_edges: npt.NDArray[np.int64]) -> list[Part]:
        """Divide the nodes; what an earlier command decided stands."""
        kept = self.graph.noted("partitions")
        if kept is None:
            asked = self.attempt.spec.resources.partitions
            model = self.model
            message = max(model.message_width(layer) for layer in range(1, model.depth + 1))
            states = max(model.width(layer - 1) + model.width(layer) for layer in range(1, model.depth + 1))
            count = (
                partition_count(nodes, int(in_edges.sum()), (message, states), self.engine.capacity().cores)
                if asked == AUTO
                else asked
            )
            kept = self.graph.note("partitions", {"bounds": boundaries(in_edges, nodes, count)})
        bounds = tuple(kept["bounds"])
        return [Part(number, bounds) for number in range(len(bounds) - 1)]

    def _build(self, parts: Sequence[Part], chunks: Sequence[str]) -> list[dict[str, Any]]:
        drops = self.model.drops_loops
        calls = [(f"csr/{part.number:06d}", (self.graph, part, chunks, drops)) for part in parts]
        return self._each("sorting edges by destination", graph_layers.build, calls)

    def _needed(
        self, parts: Sequence[Part], notes: list[dict[str, Any]], nodes: int, offsets: Sequence[int]
    ) -> tuple[bool, list[list[dict[str, Any]]]]:
        """Find what each layer must have.

        Everything, or, where `where` chooses nodes, what leads to them.

        Returns:
            whether `where` leaves nodes out; for each layer, the notes of the partitions' halos.
        """
        depth = self.model.depth
        if all(note["all"] for note in self.nodes):
            return False, [notes] * (depth + 1)
        rows = np.zeros(nodes, np.bool_)
        for span, offset in zip(self.attempt.plan.spans, offsets, strict=False):
            mine = self.graph.kept(f"nodes/{span.index:06d}.chosen")
            rows[offset : offset + len(mine)] = mine
        wanted = rows
        found: list[list[dict[str, Any]]] = [[] for _ in range(depth + 1)]
        for layer in range(depth, 0, -1):
            calls = [
                (
                    f"need-{layer:03d}/{part.number:06d}",
                    (self.graph, part, layer, wanted[part.first : part.last]),
                )
                for part in parts
            ]
            found[layer] = self._each(f"following edges back to layer {layer - 1}", graph_layers.need, calls)
            before = wanted.copy()
            for part in parts:
                before[self.graph.kept(f"need-{layer:03d}/{part.number:06d}.halo")] = True
            wanted = before
        self.figures["nodes_needed"] = [note_rows(found[layer]) for layer in range(1, depth + 1)]
        return True, found

    def _columns(self) -> list[Any]:
        return list(self.attempt.spec.encoder.outputs or (OutputSpec(),))

    def _begin(self, parts: Sequence[Part], offsets: Sequence[int]) -> None:
        spans = [
            (span.index, offset, note["rows"])
            for span, offset, note in zip(self.attempt.plan.spans, offsets, self.nodes, strict=False)
        ]
        calls = []
        for part in parts:
            mine = [item for item in spans if item[1] < part.last and part.first < item[1] + item[2]]
            calls.append((states_name(0, part.number), (self.graph, part, mine)))
        self._each("gathering features", graph_layers.begin, calls)

    def _layer(self, parts: Sequence[Part], layer: int, halos: Sequence[dict[str, Any]], prefix: str) -> None:
        """Compute one layer, in waves of partitions whose received rows fit the object store."""
        began = time.time()
        kept = [self.graph.noted(states_name(layer, part.number)) for part in parts]
        left = [part for part in parts if kept[part.number] is None]
        width = self.model.message_width(layer) * np.dtype(self.attempt.resolved.dtype).itemsize
        exchange = Exchange(self.graph, self.engine, parts, layer, prefix, halos)
        received, edges, count, ticker = 0, 0, 0, Ticker(self.attempt.reporter)
        for wave in waves(
            left, [note["sends"][-1] * width for note in halos], _STORE_SHARE * self.engine.capacity().store
        ):
            calls = exchange.calls(wave, "states" if self.model.sends_input(layer) else "message")
            for _, note in self.engine.each(graph_layers.aggregate, calls):
                received, edges, count = received + note["received"], edges + note["edges"], count + 1
                ticker.say(f"layer {layer} of {self.model.depth}: {count} of {len(left)} partitions")
            # Nothing may hold what a wave has received while the next one packs.
            del calls
        seconds = time.time() - began
        self.attempt.reporter.say(f"layer {layer} of {self.model.depth}: {edges:,} edges in {seconds:.1f} s")
        predicted = sum(halos[part.number]["sends"][-1] * width for part in left)
        self.figures["layers"].append(
            {
                "layer": layer,
                "edges": edges,
                "seconds": seconds,
                "bytes_exchanged": received,
                "bytes_predicted": predicted,
            }
        )

    def _write(self, parts: Sequence[Part], offsets: Sequence[int]) -> None:
        """Write the units that are missing."""
        attempt = self.attempt
        done = {record.unit for record in attempt.stock().done}
        final = FINAL if self.model.config.jk is not None else self.model.depth
        layers = {column.name: final if column.layer == -1 else column.layer for column in self._columns()}
        bounds = parts[0].bounds
        calls, count = [], 0
        for span, offset, note in zip(attempt.plan.spans, offsets, self.nodes, strict=False):
            units = [
                (number, unit["first"], unit["rows"])
                for number, unit in enumerate(note["units"])
                if unit["unit"] not in done
            ]
            count += len(units)
            if units:
                calls.append((self.graph, span.index, offset, units, bounds, layers))
        attempt.measured.spans_read = len(calls)
        totals = Totals(units_expected=count, started=time.time())
        for _, outcomes in self.engine.each(graph_units.write_units, calls):
            for text in outcomes:
                self._take(load_outcome(text), totals)
        attempt.journal.flush()
        attempt.measured.graph = self.figures

    def _take(self, outcome: Outcome, totals: Totals) -> None:
        if isinstance(outcome, Failure):
            kind = StorageError if outcome.kind == StorageError.__name__ else EngineError
            raise kind(outcome.error)
        if isinstance(outcome, Written):
            record = self.attempt.take(outcome)
            totals.units, totals.rows = totals.units + 1, totals.rows + record.rows
            totals.rejects += record.rejects + record.file_rejects
            self.attempt.reporter.update(totals)


def note_rows(notes: Sequence[dict[str, Any]]) -> int:
    """Add up the rows that some partitions need."""
    return sum(note["rows"] for note in notes)


def _figures(ids: Ids, in_edges: npt.NDArray[np.int64], notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    edges = [note["edges"] for note in notes]
    return {
        "nodes": ids.nodes,
        "edges": sum(edges),
        "in_edges_of_largest_node": max((note["largest"] for note in notes), default=0),
        "partitions": len(notes),
        "edges_of_partitions": {"min": min(edges, default=0), "max": max(edges, default=0)},
        "halo_rows": sum(note["sends"][-1] for note in notes),
    }


def _require_width(attempt: Attempt, width: int) -> None:
    """Refuse features that are not what the weights are for.

    Raises:
        ModelError: none of the first nodes has as many features as the model takes.
    """
    found = sorted(
        {len(node["x"]) for node in attempt.corpus.head(attempt.plan, _LOOKED_AT) if node["x"] is not None}
    )
    if found and width not in found:
        raise ModelError(
            f"{attempt.spec.encoder.model}: the model takes {width} features (in_channels), the nodes "
            f"have {', '.join(map(str, found))}: "
            "choose other source.features or another model"
        )
