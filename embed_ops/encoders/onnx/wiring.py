"""Which tensor of a graph each vector column is, and how its tokens become one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embed_ops.encoders.onnx.graph import Graph, Shape, listed
from embed_ops.encoders.onnx.session import shapes_of
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec

_HIDDEN = ("last_hidden_state", "token_embeddings")
"""What outputs with a vector for each token are called."""
_NOT_A_TEXT = frozenset({"pooler_output"})
"""Outputs with a vector a row that stand beside those of tokens, and are not meant for texts."""
_POOLINGS = 'pooling = "mean", "cls", "max" or "last"'


@dataclass(frozen=True)
class Wire:
    """A vector column.

    Attributes:
        column: what the spec asks for.
        tensor: of the graph.
        width: of its last axis.
        way: (rows, width) as it is, or (rows, tokens, width) pooled by the column's pooling or by
            the modules of a sentence-transformers folder.
    """

    column: OutputSpec
    tensor: str
    width: int
    way: Literal["as it is", "pooled", "modules"]


def wire(
    column: OutputSpec, file: Path, graph: Graph, measured: Callable[[str], Shape], modules: bool
) -> Wire:
    """Choose the tensor of a column.

    Args:
        column: what the spec asks for.
        file: of the graph.
        measured: gives the shape of a tensor, by trial, where the file does not tell it.
        graph: what the file says.
        modules: a sentence-transformers folder says how tokens are pooled.

    Raises:
        ModelError: there is no such tensor, or more than one, or it has another number of axes.
    """
    shapes = dict(shapes_of(graph))
    for name, shape in shapes.items():
        if shape is None or (len(shape) in (2, 3) and shape[-1] is None and _may_be(column, name)):
            shapes[name] = measured(name)
    name = column.tensor or _chosen(column, file, shapes)
    found = shapes.get(name)
    shape = measured(name) if found is None or found[-1] is None else found
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


def _may_be(column: OutputSpec, name: str) -> bool:
    return column.tensor is None or column.tensor == name


def _chosen(column: OutputSpec, file: Path, shapes: Mapping[str, Shape | None]) -> str:
    """Choose among the outputs, where none is named."""
    rows = [name for name, shape in shapes.items() if shape is not None and len(shape) == 2]
    tokens = [name for name, shape in shapes.items() if shape is not None and len(shape) == 3]
    tokens = [name for name in tokens if name in _HIDDEN][:1] or tokens
    if column.pooling == "auto":
        own = [name for name in rows if name not in _NOT_A_TEXT]
        candidates = own or tokens or rows
    else:
        candidates = tokens
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ModelError(
            f"{file}: output {column.name!r}: several may be meant ({', '.join(candidates)}); name one, as "
            f'tensor = "{candidates[0]}"'
        )
    raise ModelError(
        f"{file}: output {column.name!r}: no output has a vector for each "
        f"{'row or token' if column.pooling == 'auto' else 'token'}; its outputs: {listed(shapes)}"
    )
