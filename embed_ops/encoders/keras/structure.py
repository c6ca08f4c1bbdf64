"""The layers of a network, read off its configuration: what it takes, begins with and ends with.

Nothing of the file is run: layers that hold code are refused here, before Keras sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from embed_ops.errors import ModelError

_CODE = {
    "Lambda": "Python code as bytes",
    "__lambda__": "Python code as bytes",
    "TorchModuleWrapper": "a pickled module of torch",
    "JaxLayer": "a pickled function of JAX",
    "FlaxLayer": "a pickled module of Flax",
}
"""Layers, and what of theirs would be run as code."""
_OF_TENSORFLOW = frozenset(
    {"TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing"}
)
"""Layers that Keras runs by TensorFlow, whatever its backend."""
_OWN_PACKAGES = ("keras", "keras_hub", "keras_cv", "keras_nlp")
_RESCALE = frozenset({"Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract"})
"""First layers or operations of a network that rescales pixels by itself."""
_CLASSIFIES = ("softmax", "sigmoid")
_INPUT = "InputLayer"
_CHANNELS, _IMAGE_AXES = 3, 3
_APPLICATIONS = (
    (re.compile(r"mobilenetv3|efficientnet|convnext", re.I), "none"),
    (re.compile(r"mobilenet|inception|xception|nasnet|resnet\d+v2", re.I), "tf"),
    (re.compile(r"resnet|vgg", re.I), "caffe"),
    (re.compile(r"densenet", re.I), "torch"),
)
"""How networks of keras.applications are named, and which preprocessing they have there."""


@dataclass(frozen=True)
class Layer:
    """A layer, as the configuration has it.

    Attributes:
        path: its name, behind those of the networks that it is in: "mobilenetv2/out_relu".
        kind: its class.
        config: its fields.
    """

    path: str
    kind: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition("/")[2]

    @property
    def parts(self) -> list[Mapping[str, Any]]:
        """The layers inside, where it is a network."""
        inside = self.config.get("layers")
        return inside if isinstance(inside, list) else []


Shape = tuple[int | None, ...]
"""Lengths of the axes of a row's tensor, None for any length."""


@dataclass(frozen=True)
class Takes:
    """What a network takes of a row.

    Attributes:
        shape: of a row.
        dtype: of its numbers, "string" for texts.
    """

    shape: Shape
    dtype: str

    @property
    def images(self) -> bool:
        """Whether it is an image in colours: height, width, and three channels."""
        return len(self.shape) == _IMAGE_AXES and self.shape[2] == _CHANNELS


def listed(shape: Shape) -> str:
    """Write a shape: "(7, 7, 1280)"."""
    return f"({', '.join('any' if length is None else str(length) for length in shape)})"


@dataclass(frozen=True)
class Structure:
    """The layers of a network.

    Attributes:
        file: that they are of.
        top: the network itself.
        saved_by: version of Keras that has written it.
    """

    file: Path
    top: Layer
    saved_by: str

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, networks inside it before their own layers."""
        return tuple(_inside(self.top, ""))

    def paths(self, name: str) -> list[str]:
        """Give the paths of the layers that a name may mean; a path means that layer alone."""
        exact = [layer.path for layer in self.layers if layer.path == name]
        return exact or [layer.path for layer in self.layers if layer.name == name]

    @property
    def takes(self) -> Takes:
        """What it takes.

        Raises:
            ModelError: several inputs, or the file does not say.
        """
        inputs = [layer for layer in _inside(self.top, "", deep=False) if layer.kind == _INPUT]
        if len(inputs) > 1:
            raise ModelError(
                f"{self.file}: takes {len(inputs)} inputs ({', '.join(layer.name for layer in inputs)}), and "
                "a row is one; save a network of one input"
            )
        config = inputs[0].config if inputs else {}
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if not inputs and any("batch_input_shape" in layer.config for layer in self.layers):
            raise ModelError(
                f"{self.file}: says in its first layer what it takes, as older versions of Keras did, and "
                "Keras 3 takes that for more axes than it has; put keras.Input(shape) before its layers, and "
                "save it again"
            )
        if not isinstance(shape, list) or len(shape) < 2:
            raise ModelError(
                f"{self.file}: does not say what it takes; put keras.Input(shape) before its layers, and "
                "save it again"
            )
        return Takes(tuple(shape[1:]), _dtype(config.get("dtype")))

    @property
    def rescales(self) -> Layer | None:
        """The first layer, where it brings pixels to the network's own scale; None: it does not."""
        working = (
            layer
            for layer in self.layers
            if layer.kind != _INPUT and not layer.parts and not layer.kind.startswith("Random")
        )
        first = next(working, None)
        return first if first is not None and first.kind in _RESCALE else None

    @property
    def classes(self) -> Layer | None:
        """The last layer, where it gives the probabilities of classes."""
        last = _last(self.top, "")
        named = last.config.get("activation") if last.kind != "Softmax" else "softmax"
        name = named.get("config") if isinstance(named, dict) else named
        return last if name in _CLASSIFIES else None

    @property
    def application(self) -> tuple[str, str] | None:
        """The name of a network of keras.applications in it, and the preprocessing it has there."""
        for layer in (self.top, *(layer for layer in self.layers if layer.parts)):
            for names, mode in _APPLICATIONS:
                if names.match(layer.name):
                    return layer.name, mode
        return None


def read_structure(file: Path, config: Mapping[str, Any], saved_by: str) -> Structure:
    """Read the layers off a configuration.

    Raises:
        ModelError: a layer holds code, is of a class of its author's own, or needs TensorFlow.
    """
    for entry in entries_of(config):
        _check(file, entry)
    return Structure(file, layer_of(config, ""), saved_by)


def _check(file: Path, entry: Mapping[str, Any]) -> None:
    kind, inner = str(entry["class_name"]), entry.get("config")
    name = inner.get("name", kind) if isinstance(inner, dict) else kind
    if kind in _CODE:
        raise ModelError(
            f"{file}: its layer {name!r} ({kind}) holds {_CODE[kind]}, which is never run; save the network "
            "with a layer of Keras in its place"
        )
    if kind == "TFSMLayer":
        raise ModelError(
            f'{file}: its layer {name!r} ({kind}) is a SavedModel, which encoder.family = "tensorflow" runs: '
            "name that folder"
        )
    if kind in _OF_TENSORFLOW:
        raise ModelError(
            f"{file}: its layer {name!r} ({kind}) needs TensorFlow, and Keras runs on torch here; export the "
            'network (model.export(FOLDER)) and give that folder with encoder.family = "tensorflow"'
        )
    package = str(entry.get("module") or "").partition(".")[0]
    registered = entry.get("registered_name")
    if ">" in kind or (registered and package not in _OWN_PACKAGES and package != "builtins"):
        raise ModelError(
            f"{file}: its layer {name!r} is of a class of its author's own ({registered or kind}), whose "
            "code is not in the file; save the network with layers of Keras in its place"
        )


def entries_of(config: Any) -> Iterator[Mapping[str, Any]]:
    """Walk all objects of a configuration that name their class."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def layer_of(entry: Mapping[str, Any], above: str) -> Layer:
    """Read a layer; `above`: path of the network that it is in."""
    inner = entry.get("config")
    # The first versions of Keras wrote the layers of a sequence as they are.
    config = {"layers": inner} if isinstance(inner, list) else inner if isinstance(inner, dict) else {}
    name = str(config.get("name") or entry.get("name") or entry.get("class_name"))
    return Layer(f"{above}/{name}".lstrip("/"), str(entry.get("class_name")), config)


def _inside(network: Layer, above: str, *, deep: bool = True) -> Iterator[Layer]:
    for entry in network.parts:
        layer = layer_of(entry, above)
        yield layer
        if deep and layer.parts:
            yield from _inside(layer, layer.path)


def ends_of(network: Layer) -> list[str]:
    """Name the layers that give a network's outputs; none where its layers are a sequence."""
    ends = network.config.get("output_layers")
    if not isinstance(ends, list) or not ends:
        return []
    listed_ends = ends if isinstance(ends[0], list) else [ends]
    return [str(end[0]) for end in listed_ends if isinstance(end, list) and end]


def _last(network: Layer, above: str) -> Layer:
    """Give the layer that a network ends with, the last one of a network inside it."""
    layers, ends = list(_inside(network, above, deep=False)), ends_of(network)
    named = [layer for layer in layers if layer.name in ends[:1]]
    last = (named or layers or [network])[-1]
    return _last(last, last.path) if last.parts else last


def _dtype(value: Any) -> str:
    """Give the name of a type; newer files have a policy in its place."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("name")
    return str(value or "float32")
