"""Which tensor of a graph each vector column is, and how its tokens become one vector."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embed_ops.encoders.onnx.graph import Graph, Shape, listed
from embed_ops.encoders.onnx.session import shapes_of
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec

HIDDEN = ("last_hidden_state", "token_embeddings")
"""What outputs with a vector for each token or patch are called."""
POOLER = "pooler_output"
_NOT_A_TEXT = frozenset({POOLER})
"""Outputs with a vector a row that stand beside those of tokens, and are not meant for texts."""
_POOLINGS = 'pooling = "mean", "cls", "max" or "last"'
Measured = Callable[[str], Shape]
"""Gives the shape of a tensor, by trial, where the file does not tell it."""


@dataclass(frozen=True)
class Wire:
    """A vector column.

    Attributes:
        column: what the spec asks for.
        tensor: of the graph.
        width: of the vector of a row, token or patch.
        way: (rows, width) as it is, or (rows, tokens, width) pooled by the column's pooling or by
            the modules of a sentence-transformers folder.
        axes: of an image, sizes of the tensor's axes behind the rows, None where one is not known.
        patches: of an image, the last of its positions; None: all of them are.
    """

    column: OutputSpec
    tensor: str
    width: int
    way: Literal["as it is", "pooled", "modules"]
    axes: tuple[int | None, ...] = ()
    patches: int | None = None


def wire(
    column: OutputSpec, file: Path, graph: Graph, measured: Measured, poolings: Collection[str], modules: bool
) -> Wire:
    """Choose the tensor of a column of vectors of texts.

    Args:
        column: what the spec asks for.
        file: of the graph.
        measured: gives the shapes that the file does not tell.
        graph: what the file says.
        poolings: those of texts.
        modules: a sentence-transformers folder says how tokens are pooled.

    Raises:
        ModelError: there is no such tensor, or more than one, or it has another number of axes.
    """
    if column.pooling not in poolings:
        raise ModelError(
            f"{file}: output {column.name!r}: pooling {column.pooling!r} is of images, and the file takes "
            f"texts; choose one of {', '.join(sorted(poolings))}"
        )
    shapes = known_shapes(column, graph, measured, (2, 3))
    name = column.tensor or _chosen(column, file, shapes)
    shape = shape_of(name, shapes, measured)
    where = f"{file}: output {column.name!r}: the tensor {listed({name: shape})}"
    if len(shape) not in (2, 3):
        raise ModelError(
            f"{where} has {len(shape)} axes, and vectors are (rows, width) or (rows, tokens, width); name "
            f"another of {listed(shapes)}"
        )
    width = shape[-1]
    if width is None:
        raise ModelError(f"{where} has no fixed width; name another of {listed(shapes)}")
    if len(shape) == 2:
        if column.pooling != "auto":
            raise ModelError(
                f"{where} has one vector a row, and pooling {column.pooling!r} is of tokens; leave "
                "pooling out"
            )
        return Wire(column, name, width, "as it is")
    if column.pooling == "auto" and not modules:
        raise ModelError(
            f"{where} has a vector for each token, and nothing beside the file (modules.json) says how they "
            f"become one; give [[encoder.outputs]] with {_POOLINGS}, as the model's card says"
        )
    return Wire(column, name, width, "modules" if column.pooling == "auto" else "pooled")


def known_shapes(
    column: OutputSpec, graph: Graph, measured: Measured, axes: Collection[int]
) -> dict[str, Shape | None]:
    """Give the shapes of a graph's outputs; of those that a column may be, the widths too.

    `axes`: how many those may have.
    """
    shapes = dict(shapes_of(graph))
    for name, shape in shapes.items():
        untold = shape is None or (len(shape) in axes and shape[-1] is None)
        if untold and column.tensor in (None, name):
            shapes[name] = measured(name)
    return shapes


def shape_of(name: str, shapes: Mapping[str, Shape | None], measured: Measured) -> Shape:
    """Give the shape of an output, or of a tensor inside the graph, by trial where need be."""
    known = shapes.get(name)
    return measured(name) if known is None or known[-1] is None else known


def with_axes(shapes: Mapping[str, Shape | None], *axes: int) -> list[str]:
    """Name the outputs that have so many axes."""
    return [name for name, shape in shapes.items() if shape is not None and len(shape) in axes]


def only(candidates: Collection[str], column: OutputSpec, file: Path) -> str:
    """Give the one output that may be meant.

    Raises:
        ModelError: there are several.
    """
    first, *others = candidates
    if others:
        raise ModelError(
            f"{file}: output {column.name!r}: several may be meant ({', '.join(candidates)}); name one, as "
            f'tensor = "{first}"'
        )
    return first


def _chosen(column: OutputSpec, file: Path, shapes: Mapping[str, Shape | None]) -> str:
    """Choose among the outputs, where none is named."""
    rows, tokens = with_axes(shapes, 2), with_axes(shapes, 3)
    tokens = [name for name in tokens if name in HIDDEN][:1] or tokens
    if column.pooling == "auto":
        own = [name for name in rows if name not in _NOT_A_TEXT]
        candidates = own or tokens or rows
    else:
        candidates = tokens
    if candidates:
        return only(candidates, column, file)
    raise ModelError(
        f"{file}: output {column.name!r}: no output has a vector for each "
        f"{'row or token' if column.pooling == 'auto' else 'token'}; its outputs: {listed(shapes)}"
    )
