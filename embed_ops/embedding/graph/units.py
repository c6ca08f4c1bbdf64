"""The states of a graph's nodes to the data files of a span: `write_units`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.graph.job import GraphJob, states_name
from embed_ops.embedding.message import dump_outcome, from_block
from embed_ops.embedding.parts import parts_of
from embed_ops.embedding.steps import write_unit
from embed_ops.embedding.storing import vector_table
from embed_ops.embedding.unit import EmbeddedUnit, Outcome, PreparedUnit, Written
from embed_ops.encoders.graph.arrays import read_batch
from embed_ops.encoders.graph.partition import Ints
from embed_ops.engine.memory import private_memory
from embed_ops.errors import StorageError
from embed_ops.numerics.norms import LEAST_NORM
from embed_ops.schema import INPUT, MESSAGE, REASON, Reason
from embed_ops.storage.files import walk


def write_units(
    graph: GraphJob,
    span: int,
    offset: int,
    units: Sequence[tuple[int, int, int]],
    bounds: tuple[int, ...],
    layers: dict[str, int],
) -> list[str]:
    """Write units of a span: (number in the span, first row in it, rows) each.

    Gives their outcomes, as `dump_outcome` does.

    Args:
        graph: the job.
        span: its index.
        offset: places before it.
        units: what to write.
        bounds: of the partitions.
        layers: the layer of each output, `FINAL` for what the model gives.
    """
    again = _again(graph)
    outcomes = []
    for number, first, rows in units:
        places = offset + first, offset + first + rows
        unit = _embedded(graph, span, number, places, bounds, layers, again)
        outcomes.append(dump_outcome(_of_worker(write_unit(unit, graph.job))))
    return outcomes


def _of_worker(outcome: Outcome) -> Outcome:
    """Name the process that embedded the unit as what it is: no replica, and its own writer."""
    if not isinstance(outcome, Written):
        return outcome
    memory = {"reader": outcome.memory["reader"], "worker": outcome.memory["replica"]}
    return replace(outcome, memory=memory)


def _again(graph: GraphJob) -> Ints:
    """Read the places of rows whose id an earlier row has."""
    names = sorted(name for name, _ in walk(graph.work, "ids") if name.endswith(".again.npy"))
    places = [graph.kept(f"ids/{name.removesuffix('.npy')}") for name in names]
    return np.concatenate([np.zeros(0, np.int64), *places])


def _embedded(
    graph: GraphJob,
    span: int,
    number: int,
    places: tuple[int, int],
    bounds: tuple[int, ...],
    layers: dict[str, int],
    again: Ints,
) -> EmbeddedUnit:
    """Give a unit of `read_nodes` the states of its nodes, as a replica gives vectors."""
    started = time.time()
    unit = from_block(pa.Table.from_batches([read_batch(graph.work, f"nodes/{span:06d}.units", number)]))
    if not isinstance(unit, PreparedUnit):
        raise StorageError(f"nodes/{span:06d}.units: holds a {type(unit).__name__} and no unit")
    local = unit.rows.column(INPUT).to_numpy()
    twice = np.isin(local + places[0], again)
    rows = unit.rows.filter(pa.array(~twice))
    rows = rows.set_column(
        rows.schema.get_field_index(INPUT), INPUT, pa.array(np.arange(len(rows), dtype=np.int32))
    )
    encoder: Any = parts_of(graph.job).encoder
    vectors = {}
    for output in encoder.outputs():
        name, dim = output.name, output.kind.dim
        states = _states_of(graph, layers[name], places, bounds, dim)[local[~twice]]
        if encoder.column(name).normalize:
            states = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), LEAST_NORM)
        vectors[name] = states.astype(np.float32)
    refused = unit.rows.filter(pa.array(twice)).drop_columns([INPUT])
    values = {REASON: Reason.DUPLICATE, MESSAGE: "an earlier row has the same node id"}
    for name, value in values.items():
        refused = refused.append_column(name, pa.array([str(value)] * len(refused), pa.string()))
    schema = unit.rejects.schema
    return EmbeddedUnit(
        head=unit.head,
        rows=rows,
        vectors=vector_table(vectors),
        rejects=pa.concat_tables([unit.rejects, refused.select(schema.names).cast(schema)]),
        number_of_inputs=len(rows),
        started=started,
        memory=private_memory(),
    )


def _states_of(
    graph: GraphJob, layer: int, places: tuple[int, int], bounds: tuple[int, ...], dim: int
) -> npt.NDArray[Any]:
    """Read the states of places `first` to `last` out of the partitions that have them."""
    first, last = places
    rows = [np.zeros((0, dim), graph.job.resolved.dtype)]
    for number in range(len(bounds) - 1):
        low, high = max(first, bounds[number]), min(last, bounds[number + 1])
        if low < high:
            rows.append(
                graph.kept(
                    f"{states_name(layer, number)}.states", low - bounds[number], high - bounds[number]
                )
            )
    return np.concatenate(rows)
