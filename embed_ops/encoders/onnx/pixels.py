"""The input of a graph of images: which it is, where its channels are, which sizes it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.onnx.graph import FLOATS, Graph, Shape, listed
from embed_ops.encoders.onnx.session import Batch
from embed_ops.encoders.onnx.tokens import IDS
from embed_ops.errors import ModelError

_KINDS = ("float32", "float16", "float64")
_CHANNELS = 3
_AXIS = {"first": 1, "last": 3}


@dataclass(frozen=True)
class PixelInput:
    """Where pixels go in.

    Attributes:
        name: of the input.
        channels: which axis they are, behind the rows or the last.
        alone: it takes one image at a time.
        size: (height, width) that it is fixed to; None where one is not.
    """

    name: str
    channels: Literal["first", "last"]
    alone: bool
    size: tuple[int | None, int | None]

    def batch(self, pixels: npt.NDArray[np.float32]) -> Batch:
        """Give images, (B, 3, height, width), as the graph takes them."""
        images, _, height, width = pixels.shape
        return Batch(
            {self.name: pixels if self.channels == "first" else pixels.transpose(0, 2, 3, 1)},
            f"{images} images of {height} x {width} pixels, channels {self.channels}",
            'set encoder.channels to "first" or "last" as the model takes it, or export it again',
        )


def takes_images(graph: Graph) -> bool:
    """Tell whether a graph is one of images, as far as its inputs tell, and not of texts."""
    names = [tensor.name for tensor in graph.inputs]
    return IDS not in names and any(
        tensor.kind in FLOATS or (tensor.shape is not None and len(tensor.shape) == 4)
        for tensor in graph.inputs
    )


def pixel_input(file: Path, graph: Graph, channels: Literal["auto", "first", "last"]) -> PixelInput:
    """Check that a graph asks for nothing but a batch of RGB images.

    Raises:
        ModelError: names what it asks for.
    """
    asked = {tensor.name: tensor.shape for tensor in graph.inputs}
    if len(graph.inputs) != 1:
        raise ModelError(
            f"{file}: has {len(graph.inputs)} inputs ({listed(asked)}), and a model of images takes one, "
            "(rows, 3, height, width); export the part of it that embeds images"
        )
    (tensor,) = graph.inputs
    where = f"{file}: its input {listed(asked)}"
    shape: Shape = (None,) * 4 if tensor.shape is None else tensor.shape
    if len(shape) != 4:
        raise ModelError(
            f"{where} has {len(shape)} axes, and takes neither texts ({IDS}) nor images, (rows, 3, height, "
            "width); choose another model"
        )
    if tensor.kind not in _KINDS:
        raise ModelError(
            f"{where} takes {tensor.kind}, and pixels are scaled and normalised to floats; export it without "
            "what is done before that"
        )
    if shape[0] not in (None, 1):
        raise ModelError(
            f"{where} takes {shape[0]} images at once, no more and no fewer; export it with a dynamic first "
            "axis, or for one image"
        )
    at = _channels(shape, channels, where)
    size = (shape[2], shape[3]) if at == "first" else (shape[1], shape[2])
    return PixelInput(tensor.name, at, shape[0] == 1, size)


def _channels(shape: Shape, asked: Literal["auto", "first", "last"], where: str) -> Literal["first", "last"]:
    """Tell which axis has the channels: that of three, else the first, as exporters have it."""
    possible: list[Literal["first", "last"]] = []
    if shape[_AXIS["first"]] in (None, _CHANNELS):
        possible.append("first")
    if shape[_AXIS["last"]] in (None, _CHANNELS):
        possible.append("last")
    if not possible:
        raise ModelError(
            f"{where} has no axis of {_CHANNELS} channels, and images are made RGB; choose another model"
        )
    if asked != "auto":
        if asked not in possible:
            raise ModelError(
                f"{where} has no {_CHANNELS} channels on the {asked} axis, as encoder.channels says; leave "
                "it out"
            )
        return asked
    told = [axis for axis in possible if shape[_AXIS[axis]] == _CHANNELS]
    return (told or possible)[0]
