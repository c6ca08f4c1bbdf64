"""What an ONNX file says of its graph: inputs, outputs, operators, weights and where they are.

Read without onnxruntime and without the weights, so that the driver knows widths, and what is
wrong, before anything is loaded. The numbers are those of the fields in onnx.proto.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from embed_ops.encoders.hub.files import is_pointer
from embed_ops.encoders.protobuf import fields, inner, integers, text
from embed_ops.errors import ModelError

KINDS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
    21: "uint4",
    22: "int4",
}
"""Types of elements, by their numbers."""
FLOATS = ("float32", "float16", "float64", "bfloat16")
_SHORT = ("int8", "uint8", "int4", "uint4")
_TABLES = ("position_embedding", "embed_positions", "wpe")
"""In names of weights that are tables of positions."""
_EXTERNAL = 1

Shape = tuple[int | None, ...]
"""Sizes of a tensor's axes, None where one depends on what is given."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, type of its elements, and shape; None where the file tells none."""

    name: str
    kind: str
    shape: Shape | None


@dataclass(frozen=True)
class Node:
    """A step of the graph: its operator, with its domain unless that is ONNX's own, and tensors."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Graph:
    """A graph as its file describes it.

    Attributes:
        inputs, outputs: in their order; a weight is no input.
        nodes: of the graph itself, not those of its branches and loops.
        weights: {name: shape} of the tensors that the file brings.
        elements: {type: number of elements} of them.
        external: files with weights, named relative to the file's folder.
        producer: what wrote it.
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    external: dict[str, None] = field(default_factory=dict)
    producer: str = ""

    @property
    def quantization(self) -> str | None:
        """How weights of eight bits or less are used; None where there are none."""
        if self.quantized_together:
            return "dynamic"
        if not any(self.elements[kind] for kind in _SHORT):
            return None
        static = any("QLinear" in node.operator or node.operator == "QuantizeLinear" for node in self.nodes)
        return "static" if static else "weights only"

    @property
    def quantized_together(self) -> bool:
        """Whether a scale is taken over all rows of a batch, padding included."""
        return any("DynamicQuantize" in node.operator for node in self.nodes)

    @property
    def positions(self) -> int | None:
        """Rows of the smallest table of positions; None where no weight has such a name."""
        return min(
            (
                shape[0]
                for name, shape in self.weights.items()
                if len(shape) == 2 and any(table in name for table in _TABLES)
            ),
            default=None,
        )


def read_graph(file: Path) -> Graph:
    """Read what a file says of its graph.

    Raises:
        ModelError: it can't be read, or is no ONNX file.
    """
    if is_pointer(file):
        raise ModelError(
            f"{file}: is a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)"
        )
    try:
        with file.open("rb") as stream:
            # Not closed by hand: where a field is broken, its error still holds a part of it.
            graph = _model(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file}: not an ONNX file, or cut short ({error}); fetch or export it again"
        ) from error
    if not graph.outputs or not graph.nodes:
        raise ModelError(f"{file}: not an ONNX file: there is no graph in it; fetch or export it again")
    return graph


def _model(message: memoryview) -> Graph:
    graph = Graph()
    for number, value in fields(message):
        if number == 7:
            _graph(inner(value), graph, top=True)
        elif number == 2:
            graph.producer = text(value)
        elif number == 25:
            # Functions of the file's own: their steps count, their tensors have no names outside.
            graph.nodes.extend(_node(inner(step), graph) for at, step in fields(inner(value)) if at == 7)
    graph.inputs = tuple(tensor for tensor in graph.inputs if tensor.name not in graph.weights)
    return graph


def _graph(message: memoryview, graph: Graph, *, top: bool) -> None:
    for number, value in fields(message):
        match number:
            case 1:
                node = _node(inner(value), graph)
                if top:
                    graph.nodes.append(node)
            case 5:
                _weight(inner(value), graph)
            case 11 if top:
                graph.inputs += (_tensor(inner(value)),)
            case 12 if top:
                graph.outputs += (_tensor(inner(value)),)


def _node(message: memoryview, graph: Graph) -> Node:
    operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in fields(message):
        match number:
            case 1:
                inputs.append(text(value))
            case 2:
                outputs.append(text(value))
            case 4:
                operator = text(value)
            case 5:
                for at, held in fields(inner(value)):
                    if at in (6, 11):  # branches and loops may bring weights too
                        _graph(inner(held), graph, top=False)
                    elif at in (5, 10):
                        _weight(inner(held), graph)
            case 7:
                domain = text(value)
    whole = operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"
    return Node(whole, tuple(inputs), tuple(outputs))


def _weight(message: memoryview, graph: Graph) -> None:
    name, kind, outside, place = "", 0, False, ""
    shape: list[int] = []
    for number, value in fields(message):
        match number:
            case 1:
                shape.extend(integers(value))
            case 2 if isinstance(value, int):
                kind = value
            case 8:
                name = text(value)
            case 13:
                entry = {at: text(held) for at, held in fields(inner(value))}
                place = entry.get(2, "") if entry.get(1) == "location" else place
            case 14:
                outside = value == _EXTERNAL
    graph.weights[name] = tuple(shape)
    graph.elements[KINDS.get(kind, f"type {kind}")] += prod(shape)
    if outside:
        graph.external[place] = None


def _tensor(message: memoryview) -> Tensor:
    name, kind = "", 0
    shape: Shape | None = None
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            for held in _under(inner(value), 1):
                kind = next((at for at in _numbers(held, 1)), 0)
                for axes in _under(held, 2):
                    shape = tuple(next(_numbers(axis, 1), None) for axis in _under(axes, 1))
    return Tensor(name, KINDS.get(kind, f"type {kind}"), shape)


def _under(message: memoryview, number: int) -> Iterator[memoryview]:
    return (inner(value) for at, value in fields(message) if at == number)


def _numbers(message: memoryview, number: int) -> Iterator[int]:
    return (value for at, value in fields(message) if at == number and isinstance(value, int))


def listed(tensors: Mapping[str, Shape | None]) -> str:
    """Name tensors with their shapes, for messages."""
    return ", ".join(
        name
        if shape is None
        else f"{name} ({', '.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in tensors.items()
    )
