"""Shapes that a configuration records by the way: what a layer gives stands where another takes it.

They spare whoever only plans or reads to import Keras. Files of Keras 2 and sequences record none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from embed_ops.encoders.keras.structure import Layer, Shape, ends_of, entries_of, layer_of

_TENSOR = "__keras_tensor__"


def recorded_shapes(network: Layer, above: str = "") -> dict[str, Shape]:
    """Give what layers give a row, {path: shape}, of those for which the file tells it.

    Not of layers that run several times, and of none with an axis of any length. The network's own
    output has the path "".
    """
    given: dict[str, set[tuple[int, Shape]]] = {}
    shapes: dict[str, Shape] = {}
    for entry in network.parts:
        layer = layer_of(entry, above)
        if layer.parts:
            shapes |= recorded_shapes(layer, layer.path)
        taken = set()
        for name, node, shape in _tensors(entry):
            given.setdefault(f"{above}/{name}".lstrip("/"), set()).add((node, shape))
            taken.add(shape)
        units = layer.config.get("units")
        if layer.kind == "Dense" and len(taken) == 1 and isinstance(units, int):
            given.setdefault(layer.path, set()).add((0, (*taken.pop()[:-1], units)))
    for path, found in given.items():
        shapes.pop(path, None)
        if len(found) == 1 and None not in (shape := next(iter(found))[1]):
            shapes[path] = shape
    ends = ends_of(network)
    if not above and len(ends) == 1 and ends[0] in shapes:
        shapes[""] = shapes[ends[0]]
    return shapes


def _tensors(entry: Mapping[str, Any]) -> Iterator[tuple[str, int, Shape]]:
    """Give what a layer takes: which layer gives it, in which of its uses, and a row's shape."""
    for told in entries_of(entry.get("inbound_nodes")):
        config = told.get("config")
        if told["class_name"] != _TENSOR or not isinstance(config, dict):
            continue
        shape, history = config.get("shape"), config.get("keras_history")
        if isinstance(shape, list) and isinstance(history, list) and len(history) == 3 and history[2] == 0:
            yield str(history[0]), int(history[1]), tuple(shape[1:])
