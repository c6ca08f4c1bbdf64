"""The states of a graph's nodes to the data files of a span: `write_units`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.graph.job import GraphJob, states_name
from embed_ops.embedding.message import message, read_meta, unpack
from embed_ops.embedding.message import pack as packed
from embed_ops.embedding.steps import parts_of, write_unit
from embed_ops.encoders.graph.arrays import read_batch
from embed_ops.encoders.graph.partition import Ints
from embed_ops.engine.memory import private_memory
from embed_ops.runs.parquet import vector_column
from embed_ops.schema import INPUT, MESSAGE, REASON, Reason
from embed_ops.storage.files import walk

_LEAST_NORM = 1e-12


def write_units(
    graph: GraphJob,
    span: int,
    offset: int,
    units: Sequence[tuple[int, int, int]],
    bounds: tuple[int, ...],
    layers: dict[str, int],
) -> list[str]:
    """Write units of a span: (number in the span, first row in it, rows) each.

    Gives their records, as JSON.

    Args:
        graph: the job.
        span: its index.
        offset: places before it.
        units: what to write.
        bounds: of the partitions.
        layers: the layer of each output, `FINAL` for what the model gives.
    """
    again = _again(graph)
    return [
        write_unit(
            _unit_message(
                graph, span, number, (offset + first, offset + first + rows), bounds, layers, again
            ),
            graph.job,
        )
        .column("record")[0]
        .as_py()
        for number, first, rows in units
    ]


def _again(graph: GraphJob) -> Ints:
    """Read the places of rows whose id an earlier row has."""
    names = sorted(name for name, _ in walk(graph.work, "ids") if name.endswith(".again.npy"))
    places = [graph.kept(f"ids/{name.removesuffix('.npy')}") for name in names]
    return np.concatenate([np.zeros(0, np.int64), *places])


def _unit_message(
    graph: GraphJob,
    span: int,
    number: int,
    places: tuple[int, int],
    bounds: tuple[int, ...],
    layers: dict[str, int],
    again: Ints,
) -> pa.Table:
    """Make the message of a unit as a replica would have sent it."""
    started = time.time()
    held = pa.Table.from_batches([read_batch(graph.work, f"nodes/{span:06d}.units", number)])
    meta, rows = read_meta(held), unpack(held, "rows")
    local = rows.column(INPUT).to_numpy()
    twice = np.isin(local + places[0], again)
    kept = rows.filter(pa.array(~twice))
    kept = kept.set_column(
        kept.schema.get_field_index(INPUT), INPUT, pa.array(np.arange(len(kept), dtype=np.int32))
    )
    encoder: Any = parts_of(graph.job).encoder
    columns = {}
    for column in encoder.outputs():
        found = _states_of(graph, layers[column], places, bounds, encoder.dim(column))[local[~twice]]
        if encoder.column(column).normalize:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _LEAST_NORM)
        columns[column] = vector_column(found.astype(np.float32), "float32")
    refused = rows.filter(pa.array(twice)).drop_columns([INPUT])
    values = {REASON: Reason.DUPLICATE, MESSAGE: "an earlier row has the same node id"}
    rejects = unpack(held, "rejects")
    for name, value in values.items():
        refused = refused.append_column(name, pa.array([str(value)] * len(refused), pa.string()))
    rejects = pa.concat_tables([rejects, refused.select(rejects.schema.names).cast(rejects.schema)])
    zero = dict.fromkeys(("idle_input", "idle_output", "forward", "tokens", "positions", "flops", "gemm"), 0)
    meta |= zero | {
        "flags": [],
        "refused": {},
        "replica": "",
        "inputs": len(kept),
        "replica_memory": private_memory(),
        "started": started,
    }
    return message(meta, rows=packed(kept), vectors=packed(pa.table(columns)), rejects=packed(rejects))


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
