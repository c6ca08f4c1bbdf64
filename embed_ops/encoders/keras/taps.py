"""Which layer of a network each vector column is, and how its positions become one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embed_ops.encoders.keras.network import WHOLE, layer_at
from embed_ops.encoders.keras.structure import Shape, Structure, listed
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 5
"""Layers that a message names."""
_SAME = ("Dropout", "InputLayer")
"""Layers that give what they are given."""
_POOLINGS = 'pooling = "mean" or "max"'


@dataclass(frozen=True)
class Tap:
    """A vector column.

    Attributes:
        column: what the spec asks for.
        path: of the layer, `WHOLE` for the network's own output.
        shape: of what it gives a row; the last axis is the vector's.
    """

    column: OutputSpec
    path: str
    shape: Shape

    @property
    def width(self) -> int:
        """Dimensions of the vectors."""
        return self.shape[-1] or 0

    def vectors(self, tensor: Tensor) -> Tensor:
        """Make vectors, (B, width) float32, of what the layer gave."""
        from embed_ops.encoders.text.pooling import finish

        hidden = tensor.float()
        if self.column.pooling != "auto":
            positions = hidden.flatten(1, -2)
            hidden = positions.amax(dim=1) if self.column.pooling == "max" else positions.mean(dim=1)
        return finish(hidden, self.column)


def shape_at(model: Any, path: str) -> Shape | None:
    """Give what a layer gives a row; None for several tensors, or one for each of its uses."""
    try:
        layer = model if path == WHOLE else layer_at(model, path)
        given = getattr(layer, "outputs", None) or layer.output
    except (ValueError, AttributeError):
        return None
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    shape = getattr(given, "shape", None)
    return None if shape is None else tuple(shape)[1:]


def tap(
    column: OutputSpec, structure: Structure, recorded: Mapping[str, Shape], built: Callable[[], Any]
) -> Tap:
    """Choose the layer of a column.

    Args:
        column: what the spec asks for.
        structure: the network as its file describes it.
        recorded: shapes that the file tells.
        built: gives the network as Keras has built it, for others, and for messages.

    Raises:
        ModelError: there is no such layer, or none is named and the output is no vector.
    """
    where = f"{structure.file}: output {column.name!r}"
    path = WHOLE if column.tensor is None else _path(column.tensor, structure, built, where)
    if path == WHOLE and (last := structure.classes) is not None:
        raise ModelError(
            f"{where}: the network ends with the probabilities of classes (layer {last.path}), which are no "
            f"embedding; name a layer before it by tensor, one of {_candidates(structure, built())}, or "
            f'tensor = "{last.path}" if you do want them'
        )
    shape = recorded.get(path) or shape_at(built(), path)
    named = f"layer {path}" if path != WHOLE else "the network"
    if shape is None or not shape or shape[-1] is None:
        raise ModelError(
            f"{where}: {named} gives no single tensor of a fixed width; name one of "
            f"{_candidates(structure, built())} by tensor"
        )
    if len(shape) == 1 and column.pooling != "auto":
        raise ModelError(
            f"{where}: {named} gives one vector a row, and pooling {column.pooling!r} is of positions; leave "
            "pooling out"
        )
    if len(shape) > 1 and column.pooling == "auto":
        raise ModelError(
            f"{where}: {named} gives {listed(shape)} a row, a vector for each position; give "
            f"[[encoder.outputs]] with {_POOLINGS}, or name a layer with one vector by tensor, as "
            f"{_candidates(structure, built())}"
        )
    return Tap(column, path, shape)


def _path(name: str, structure: Structure, built: Callable[[], Any], where: str) -> str:
    """Give the path of the layer that a name means.

    Raises:
        ModelError: there is none, or several.
    """
    paths = structure.paths(name)
    if len(paths) > 1:
        raise ModelError(
            f"{where}: several layers are named {name!r}; name one of {', '.join(paths[:_MOST])}"
        )
    if paths:
        return paths[0]
    raise ModelError(
        f"{where}: the network has no layer {name!r}; some of its layers: {_candidates(structure, built())}"
    )


def vector_layers(structure: Structure, model: Any) -> list[tuple[str, Shape]]:
    """List the layers with one vector a row before the classes, the last first."""
    last = structure.classes
    layers = [
        layer.path
        for layer in reversed(structure.layers)
        if layer.kind not in _SAME and (last is None or layer.path != last.path)
    ]
    shapes = [(path, shape_at(model, path)) for path in layers]
    return [(path, shape) for path, shape in shapes if shape is not None and len(shape) == 1 and shape[0]]


def _candidates(structure: Structure, model: Any) -> str:
    """Name layers that may be meant: with one vector a row, else the last ones."""
    layers: Sequence[tuple[str, Shape | None]] = vector_layers(structure, model)
    layers = layers or [(layer.path, shape_at(model, layer.path)) for layer in reversed(structure.layers)]
    return ", ".join(f"{path} {listed(shape)}" for path, shape in layers[:_MOST] if shape is not None)
