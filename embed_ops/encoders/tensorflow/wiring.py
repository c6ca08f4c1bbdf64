"""What a signature takes of a row, and which of its outputs each vector column is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.images.pixels import Preprocessing
from embed_ops.encoders.tensorflow.files import SavedModel
from embed_ops.encoders.tensorflow.saved_model import (
    FLOATS,
    NUMBERS,
    STRING,
    Shape,
    Signature,
    Tensor,
    listed,
)
from embed_ops.encoders.tensors import Taken
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec, TensorflowEncoderSpec

_CHANNELS = 3
_BILINEAR = 2
"""Pillow's number of the filter that images are resized by."""


@dataclass(frozen=True)
class Input:
    """What a graph takes of rows.

    Attributes:
        name: in the signature.
        tensor: its type and shape there.
        alone: it has room for one row only.
    """

    name: str
    tensor: Tensor
    alone: bool

    @property
    def axes(self) -> Shape:
        """Lengths of the axes of a row."""
        return (self.tensor.shape or (None,))[1:]


@dataclass(frozen=True)
class Wire:
    """A vector column.

    Attributes:
        column: what the spec asks for.
        output: of the signature.
        width: of its vectors, before `dim`.
    """

    column: OutputSpec
    output: str
    width: int

    @property
    def dim(self) -> int:
        """Width of the column's vectors."""
        return self.column.dim or self.width

    def shortened(self, vectors: npt.NDArray[Any], where: Path) -> npt.NDArray[Any]:
        """Cut vectors, (rows, width), to the column's width.

        Raises:
            ModelError: they have fewer dimensions, which the file does not say.
        """
        if vectors.shape[1] < self.dim:
            raise ModelError(
                f"{where}: output {self.column.name!r}: dim is {self.dim}, and {self.output} has vectors of "
                f"{vectors.shape[1]} dimensions; give that or fewer"
            )
        return vectors[:, : self.dim]


def signature_of(saved: SavedModel, name: str) -> Signature:
    """Find a signature.

    Raises:
        ModelError: it has none of that name; lists those there are.
    """
    known = saved.contents.signatures
    if name in known:
        return known[name]
    there = ", ".join(known) or "none: save it with signatures (tf.saved_model.save(..., signatures=...))"
    raise ModelError(f"{saved.path}: has no signature {name!r}; its signatures: {there}")


def input_of(saved: SavedModel, signature: Signature) -> Input:
    """Give the one input of a signature.

    Raises:
        ModelError: there are more, or it is of no kind that a row can be.
    """
    if len(signature.inputs) != 1:
        raise ModelError(
            f"{saved.path}: its signature takes {len(signature.inputs)} inputs ({listed(signature.inputs)}), "
            "and a row is one; put a SavedModel in front that makes them of it (encoder.preprocessing), or "
            "choose another signature"
        )
    ((name, tensor),) = signature.inputs.items()
    what = f"{saved.path}: its input {name} is {tensor}"
    if tensor.dtype not in (STRING, *NUMBERS):
        raise ModelError(f"{what}, and rows are texts, images or numbers; choose another signature")
    if tensor.dtype == STRING and tensor.shape is None:
        tensor = Tensor(STRING, (None,))
    if not tensor.shape:
        raise ModelError(f"{what}, without an axis of rows of its own; save it with the shape (None, ...)")
    if tensor.shape[0] not in (None, 1):
        raise ModelError(
            f"{what}, a batch of {tensor.shape[0]} rows and no other; save it with None as its first axis"
        )
    if tensor.dtype == STRING and tensor.shape[1:] not in ((), (1,)):
        raise ModelError(f"{what}, and a row is one text: (any) or (any, 1); choose another signature")
    return Input(name, tensor, tensor.shape[0] == 1)


def image_steps(taken: Input, spec: TensorflowEncoderSpec, where: str) -> Preprocessing:
    """Say what is done with images.

    Raises:
        ModelError: the graph takes no images, or of no size that is known.
    """
    axes = taken.axes
    if taken.tensor.dtype == STRING or len(axes) != _CHANNELS or axes[-1] != _CHANNELS:
        raise ModelError(
            f"{where} is {taken.tensor}, and images are (rows, height, width, 3); another "
            "source.modality, signature or model would fit"
        )
    size = (axes[0] or (spec.size or (None, None))[0], axes[1] or (spec.size or (None, None))[1])
    if size[0] is None or size[1] is None:
        raise ModelError(
            f"{where} is {taken.tensor}, so images may have any size; give the size that it was trained "
            "with, as encoder.size = [224, 224]"
        )
    if spec.size is not None and spec.size != size:
        raise ModelError(f"{where} takes images of {size[0]} x {size[1]} pixels: leave encoder.size out")
    return Preprocessing(
        exact=(size[0], size[1]),
        shortest=None,
        crop=None,
        resample=_BILINEAR,
        factor=None,
        mean=None,
        std=None,
    )


def levels(dtype: str, value_range: tuple[float, float]) -> npt.NDArray[Any]:
    """Give what each of 256 values of a pixel becomes, (256,) of the model's type.

    Floats lie in `value_range`; whole numbers stay as they are.
    """
    values = np.arange(256, dtype=np.float64)
    if dtype in FLOATS:
        low, high = value_range
        values = low + values * (high - low) / 255
    return values.astype(dtype)


def tensor_of(taken: Input, where: str) -> Taken:
    """Say what is made of tensors.

    Raises:
        ModelError: the graph takes none, or of no fixed shape.
    """
    if taken.tensor.dtype == STRING:
        raise ModelError(f"{where} is {taken.tensor}, and the column holds numbers; choose another signature")
    axes = tuple(length for length in taken.axes if length is not None)
    if len(axes) != len(taken.axes) or not prod(axes):
        raise ModelError(
            f"{where} is {taken.tensor}, and rows are of one shape that the model knows; save it with "
            "the lengths of all axes but the first"
        )
    return Taken(axes, taken.tensor.dtype)


def require_text(taken: Input, where: str) -> None:
    """Check that a graph takes texts.

    Raises:
        ModelError: it does not.
    """
    if taken.tensor.dtype != STRING:
        raise ModelError(
            f"{where} is {taken.tensor}, and the column holds texts; give source.modality (image, "
            "tensor), another signature or model, or a SavedModel in front that takes texts "
            "(encoder.preprocessing)"
        )


def wire(column: OutputSpec, saved: SavedModel, outputs: Mapping[str, Tensor]) -> Wire:
    """Choose the output of a vector column.

    Raises:
        ModelError: there is no such output, or several, or it has no vector for each row.
    """
    what = f"{saved.path}: output {column.name!r}"
    vectors = {name: tensor for name, tensor in outputs.items() if _is_vectors(tensor)}
    name = column.tensor
    if name is None:
        if len(vectors) != 1:
            why = "several may be meant" if vectors else "no output has a vector of floats for each row"
            named = f'; name one, as tensor = "{next(iter(vectors))}"' if vectors else ""
            raise ModelError(f"{what}: {why}; the signature's outputs: {listed(vectors or outputs)}{named}")
        name = next(iter(vectors))
    if name not in outputs:
        raise ModelError(f"{what}: the signature has no output {name!r}; its outputs: {listed(outputs)}")
    tensor = outputs[name]
    if name not in vectors:
        raise ModelError(
            f"{what}: {name} is {tensor}, and vectors are floats of the shape (rows, width); its outputs "
            f"with such: {listed(vectors)}"
        )
    width = None if tensor.shape is None else tensor.shape[-1]
    if width is None and column.dim is None:
        raise ModelError(
            f"{what}: {name} is {tensor}, so the file does not say how wide its vectors are; give dim, as "
            "dim = 512, or save the model with that width"
        )
    width = width or column.dim or 0
    if column.dim is not None and column.dim > width:
        raise ModelError(
            f"{what}: dim is {column.dim}, and {name} has {width} dimensions; give that or fewer"
        )
    return Wire(column, name, width)


def _is_vectors(tensor: Tensor) -> bool:
    return tensor.dtype in FLOATS and (tensor.shape is None or len(tensor.shape) == 2)


def check_front(
    front: SavedModel, gives: Mapping[str, Tensor], behind: SavedModel, takes: Mapping[str, Tensor]
) -> None:
    """Check that what stands in front gives what the model takes.

    Raises:
        ModelError: an input lacks, or is of another type.
    """
    given = fed(gives, takes)
    for name, tensor in takes.items():
        if name not in given:
            raise ModelError(
                f"{front.path}: gives {listed(gives)}, and {behind.path} takes {listed(takes)}: nothing is "
                f"called {name}; choose the preprocessing that belongs to this model"
            )
        other = gives[given[name]]
        if other.dtype != tensor.dtype:
            raise ModelError(
                f"{front.path}: gives {given[name]} as {other}, and {behind.path} takes {name} as {tensor}; "
                "choose the preprocessing that belongs to this model"
            )


def fed(gives: Mapping[str, Tensor], takes: Mapping[str, Tensor]) -> dict[str, str]:
    """Say which output of what stands in front each input is: {input: output}; one is any one's."""
    if len(gives) == len(takes) == 1:
        return {next(iter(takes)): next(iter(gives))}
    return {name: name for name in takes if name in gives}
