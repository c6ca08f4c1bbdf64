"""What a graph's workers share: the job and its kept arrays, a partition, the model.

The tasks are in `tables.py` (nodes, ids), `edge_table.py` (edges), `partitions.py` (partitions) and
`units.py` (writing): plain functions, tested without Ray. Everything is kept below `work/graph/`;
what is kept is not computed again when a command is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.graph.notes import N, read_note, write_note
from embed_ops.embedding.job import Job
from embed_ops.embedding.parts import parts_of
from embed_ops.encoders.graph.arrays import read_array, write_array
from embed_ops.encoders.graph.partition import Csr
from embed_ops.spec.source import GraphSourceSpec, SourceSpec
from embed_ops.storage.files import Location, publish, read_bytes

if TYPE_CHECKING:
    from embed_ops.encoders.graph.model import GraphModel

WORK = "work/graph"
FINAL = 999
"""Instead of a layer: what the model makes of all layers."""
_CSR = tuple(field.name for field in fields(Csr))


@dataclass(frozen=True)
class GraphJob:
    """Everything that a worker needs.

    Attributes:
        job: the run, as for every family.
        edges: the section of the edge table.
        columns: its columns.
        roots: of the edge table.
    """

    job: Job
    edges: SourceSpec
    columns: pa.Schema
    roots: tuple[Location, ...]

    @property
    def source(self) -> GraphSourceSpec:
        """The section of the node table."""
        return self.job.spec.graph_source()

    @property
    def work(self) -> Location:
        """Where everything is kept until the run is finished."""
        return self.job.run.child(WORK)

    def keep(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write an array."""
        write_array(self.job.run, f"{WORK}/{name}", array, self.job.attempt)

    def kept(self, name: str, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """Read rows of an array."""
        return read_array(self.work, name, first, last)

    def keep_csr(self, name: str, csr: Csr) -> None:
        """Write a partition's in-edges."""
        for field in _CSR:
            self.keep(f"{name}.{field}", getattr(csr, field))

    def csr(self, name: str) -> Csr:
        """Read a partition's in-edges."""
        return Csr(*(self.kept(f"{name}.{field}") for field in _CSR))

    def note(self, name: str, note: N) -> N:
        """Write what a task tells, when all else that it writes is there; gives it back."""
        publish(self.job.run, f"{WORK}/{name}.json", write_note(note), self.job.attempt)
        return note

    def noted(self, name: str, kind: type[N]) -> N | None:
        """Read a note, None where the task has not ended yet.

        Raises:
            RunError: it is none of this version.
        """
        content = read_bytes(self.work.child(f"{name}.json"))
        return None if content is None else read_note(content, kind, f"{WORK}/{name}.json")


@dataclass(frozen=True)
class Part:
    """One partition: its number, its places `first` to `last`, and the boundaries of all."""

    number: int
    bounds: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first place."""
        return self.bounds[self.number]

    @property
    def last(self) -> int:
        """The place behind the last one."""
        return self.bounds[self.number + 1]

    @property
    def rows(self) -> int:
        """How many places."""
        return self.last - self.first


@dataclass(frozen=True)
class SpanPlaces:
    """A span of the node table: its index, its first place, and how many rows it has."""

    index: int
    first: int
    rows: int

    @property
    def last(self) -> int:
        """The place behind the last one."""
        return self.first + self.rows


def csr_name(number: int, layer: int | None = None) -> str:
    """Name the in-edges of a partition: all of them, or those that a layer needs."""
    return f"csr/{number:06d}" if layer is None else f"need-{layer:03d}/{number:06d}"


def states_name(layer: int, number: int) -> str:
    """Name the states of a partition; layer 0: the features; `FINAL`: what the model gives."""
    return f"layer-{layer:03d}/{number:06d}"


_MODELS: dict[str, GraphModel] = {}


def model_path(graph: GraphJob) -> Path:
    """Give the model's folder on this machine, its weights fetched."""
    encoder: Any = parts_of(graph.job).encoder
    path: Path = encoder.fetched()
    return path


def model_of(graph: GraphJob) -> GraphModel:
    """Load the model once per process, to the run's device.

    Raises:
        DeviceError: this process has none.
    """
    if graph.job.attempt not in _MODELS:
        from embed_ops.encoders import device
        from embed_ops.encoders.graph.weights import load_graph_model

        resolved = graph.job.resolved
        device.use_threads(1)
        device.require_device(resolved.device)
        device.use_memory_share(resolved.device, resolved.gpus_per_replica)
        device.choose_kernels(resolved.device)
        _MODELS.clear()
        _MODELS[graph.job.attempt] = load_graph_model(model_path(graph), resolved.dtype, resolved.device)
    return _MODELS[graph.job.attempt]
