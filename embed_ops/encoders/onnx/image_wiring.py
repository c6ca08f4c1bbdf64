"""Which tensor each vector column of images is, and how its patches become one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from embed_ops.encoders.onnx.graph import Graph, Shape, listed
from embed_ops.encoders.onnx.wiring import (
    HIDDEN,
    POOLER,
    Measured,
    Wire,
    known_shapes,
    only,
    shape_of,
    with_axes,
)
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OF_IMAGES, OutputSpec

_AXES = (2, 3, 4)
_NOT_AN_IMAGE = frozenset({POOLER, "logits"})
"""Outputs with a vector an image that may not be what it is embedded by: that of a pooler, which
few models are trained with, and scores of classes."""
_EMBEDDED = "image_embeds"
_POOLINGS = 'pooling = "cls", "mean" or "max"'


@dataclass(frozen=True)
class Seen:
    """What is known of a model beside its graph.

    Attributes:
        patches: of an image; None where nothing tells.
        staged: the model has several stages, and all positions of the last are patches.
        pooling: what the vector of an image is by the model's kind; None where nothing tells.
        channels_last: channels are the last axis.
    """

    patches: int | None
    staged: bool
    pooling: Literal["cls", "pooler"] | None
    channels_last: bool


def wire_image(column: OutputSpec, file: Path, graph: Graph, measured: Measured, seen: Seen) -> Wire:
    """Choose the tensor of a column of vectors of images.

    Args:
        column: what the spec asks for.
        file: of the graph.
        measured: gives the shapes that the file does not tell.
        graph: what the file says.
        seen: what is known beside the graph.

    Raises:
        ModelError: there is no such tensor, or more than one, or it can't be pooled so.
    """
    if column.pooling not in OF_IMAGES:
        raise ModelError(
            f"{file}: output {column.name!r}: pooling {column.pooling!r} is of texts, and the file takes "
            f"images; choose one of {', '.join(sorted(OF_IMAGES))}"
        )
    shapes = known_shapes(column, graph, measured, _AXES)
    name = column.tensor or _chosen(column, file, shapes, seen)
    shape = shape_of(name, shapes, measured)
    if None in shape[1:] and (len(shape) == 4 or seen.staged):
        shape = measured(name)
    where = f"{file}: output {column.name!r}: the tensor {listed({name: shape})}"
    axes = shape[1:]
    if len(shape) not in _AXES or None in (axes if len(shape) == 4 else axes[-1:]):
        raise ModelError(
            f"{where} is not (rows, width), (rows, patches, width) or (rows, channels, height, width); name "
            f"another of {listed(shapes)}"
        )
    if _of_rows(shape):
        if column.pooling not in ("auto", "pooler"):
            raise ModelError(
                f"{where} has one vector an image, and pooling {column.pooling!r} is of patches; leave "
                "pooling out"
            )
        return Wire(column, name, prod(size or 1 for size in axes), "as it is", axes)
    return _pooled(column, name, axes, where, seen)


def _of_rows(shape: Shape) -> bool:
    """Tell whether a tensor has one vector an image; that of a convolution may have axes of one."""
    return len(shape) == 2 or (len(shape) == 4 and list(shape[1:]).count(1) >= 2)


def _pooled(column: OutputSpec, name: str, axes: Shape, where: str, seen: Seen) -> Wire:
    """Pool the patches, or the places of a convolution.

    Raises:
        ModelError: nothing says how, or which positions are patches.
    """
    pooling = seen.pooling if column.pooling == "auto" else column.pooling
    if pooling in (None, "pooler"):
        raise ModelError(
            f"{where} has a vector for each patch, and nothing beside the file says how they become one; "
            f"give [[encoder.outputs]] with {_POOLINGS}, as the model's card says"
        )
    column = column.model_copy(update={"pooling": pooling})
    if len(axes) == 3:
        if pooling in ("cls", "patches"):
            raise ModelError(
                f"{where} is that of a convolution, which has no class token and no patches; choose mean or "
                "max"
            )
        return Wire(column, name, axes[2 if seen.channels_last else 0] or 0, "pooled", axes)
    positions, patches = axes[0], seen.patches
    if seen.staged:
        patches = positions
    if patches is None or (positions is not None and positions < patches):
        raise ModelError(
            f"{where} has positions of which nothing says whether they are patches or class tokens; put the "
            "model's config.json (patch_size) beside the file, or name a tensor with one vector an image"
        )
    if pooling == "cls" and patches == positions:
        raise ModelError(f"{where} has no class token beside {patches} patches; choose mean or max")
    return Wire(column, name, axes[-1] or 0, "pooled", axes, patches)


def _chosen(column: OutputSpec, file: Path, shapes: Mapping[str, Shape | None], seen: Seen) -> str:
    """Choose among the outputs, where none is named."""
    rows = [name for name, shape in shapes.items() if shape is not None and _of_rows(shape)]
    patches = [name for name in with_axes(shapes, 3, 4) if name not in rows]
    patches = [name for name in patches if name in HIDDEN][:1] or patches
    poolers = [name for name in rows if name == POOLER]
    own = [name for name in rows if name not in _NOT_AN_IMAGE]
    own = [name for name in own if name == _EMBEDDED] or own
    if column.pooling == "auto":
        of_kind = {"cls": patches, "pooler": poolers}.get(seen.pooling or "") or [*poolers, *patches]
        candidates = own or of_kind
    else:
        candidates = poolers if column.pooling == "pooler" else patches
    if candidates:
        return only(candidates, column, file)
    what = {"auto": "image or patch", "pooler": "image"}.get(column.pooling, "patch")
    raise ModelError(
        f"{file}: output {column.name!r}: no output has a vector for each {what}; its outputs: "
        f"{listed(shapes)}; name a tensor of it (tensor)"
    )
