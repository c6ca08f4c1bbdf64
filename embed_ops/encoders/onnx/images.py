"""Images for a graph: prepared as the image family does, and what becomes of their patches.

Importing this module imports no torch and no onnxruntime. Legend: B images, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.decoding import (
    Normalizer,
    accepted_images,
    black_image,
    blank_images,
    most_images,
    prepare_images,
)
from embed_ops.encoders.images.processors import CONFIGURATION, NESTED, read_preprocessing
from embed_ops.encoders.images.towers import POOLED, of_patches
from embed_ops.encoders.onnx.cost import Cost, convolution_of, cost_of
from embed_ops.encoders.onnx.files import OnnxFiles
from embed_ops.encoders.onnx.graph import listed
from embed_ops.encoders.onnx.image_wiring import Seen, wire_image
from embed_ops.encoders.onnx.pixels import pixel_input
from embed_ops.encoders.onnx.session import Batch, Session
from embed_ops.encoders.onnx.wiring import Measured, Wire
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

_CONVOLVED_EDGE = 16
"""A graph without patches is taken to have a position for so many pixels squared: it sizes
batches."""


class ImageInputs:
    """The pixels of images, and the vector columns that a graph gives for them.

    Follows `inputs.Inputs`.

    Raises:
        ModelError: a part is missing, or the graph takes something else than images of the
            processor's size.
    """

    modality: ClassVar[str] = "image"

    def __init__(self, spec: OnnxEncoderSpec, files: OnnxFiles) -> None:
        self._spec, self._files = spec, files
        self._input = pixel_input(files.file, files.graph, spec.channels)
        if named := [
            name for name in ("prompt", "prompt_column", "max_tokens") if getattr(spec, name) is not None
        ]:
            raise ModelError(
                f"{spec.model}: {', '.join(named)} is for texts, and the file takes images; leave it out"
            )
        self.home = _home(files)
        self.steps = read_preprocessing(self.home)
        asked, made = self._input.size, (self.steps.height, self.steps.width)
        if any(own is not None and own != size for own, size in zip(asked, made, strict=True)):
            taken = " x ".join("?" if size is None else str(size) for size in asked)
            raise ModelError(
                f"{files.file}: its input {self._input.name} takes {taken} pixels (height x width), and the "
                f"processor beside it ({self.home}) makes {made[0]} x {made[1]}; correct its size or crop "
                "there, or export the file for that size"
            )

    @property
    def alone(self) -> bool:
        """Whether each image goes through the graph by itself."""
        return self._input.alone or self._files.graph.quantized_together

    def prompted(self, prompt: str) -> ImageInputs:
        """Refuse a prompt.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self._spec.model}: the file takes images, which have no prompt; leave it out")

    def prepare(self, column: pa.Array) -> Prepared:
        """Decode, resize and crop a column of images' bytes, each distinct one once.

        Returns:
            inputs with the column `pixels`, fixed-size binary of height x width x 3.

        Raises:
            SourceError: the column holds no bytes.
        """
        return prepare_images(column, self.steps, self._spec.max_pixels, draft=self._spec.draft is True)

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Give the most images of a unit, by their pixels and by the bytes of all their vectors."""
        return most_images(self.steps, vector_bytes, asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each image, all the same: (inputs,) int32."""
        patches = self._patches(_CONVOLVED_EDGE) if self._patch is None else self._patches(*self._patch) + 1
        return np.full(len(inputs), patches, np.int32)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black."""
        return blank_images(inputs, places, self.steps)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_json(self.home / "config.json")

    @property
    def _staged(self) -> bool:
        """Whether the model has several stages, as its configuration says."""
        config = self._config.get("vision_config") or self._config
        return "depths" in config or isinstance(config.get("hidden_sizes", config.get("num_heads")), list)

    @cached_property
    def _patch(self) -> tuple[int, int] | None:
        """(height, width) of a patch in pixels, by the configuration, else by the graph."""
        if self._staged:
            return None
        stated = (self._config.get("vision_config") or self._config).get("patch_size")
        if isinstance(stated, int) and stated > 0:
            return stated, stated
        if isinstance(stated, list) and len(stated) == 2:
            return int(stated[0]), int(stated[1])
        convolution = convolution_of(self._files.graph)
        return None if convolution is None else convolution.size

    def _patches(self, height: int, width: int | None = None) -> int:
        return (self.steps.height // height) * (self.steps.width // (width or height))

    @cached_property
    def _seen(self) -> Seen:
        """What the configuration, else the graph, says of patches and of the vector of an image."""
        kind, staged = self._config.get("model_type"), self._staged
        pooling: Literal["cls", "pooler"] | None = None
        if kind is not None:
            pooling = "pooler" if kind in POOLED else None if staged else "cls"
        patches = None if self._patch is None else self._patches(*self._patch)
        return Seen(patches, staged, pooling, self._input.channels == "last")

    def wire(self, column: OutputSpec, measured: Measured) -> Wire:
        """Choose the tensor of a column.

        Raises:
            ModelError: as `image_wiring.wire_image`.
        """
        return wire_image(column, self._files.file, self._files.graph, measured, self._seen)

    @cached_property
    def _normalizer(self) -> Normalizer:
        import torch

        return Normalizer(self.steps, torch.device("cpu"), torch.float32)

    def batches(self, inputs: pa.Table) -> Iterator[Batch]:
        """Give what the graph takes of all images, or of one after the other."""
        for part in (inputs.slice(row, 1) for row in range(len(inputs))) if self.alone else [inputs]:
            yield self._input.batch(self._normalizer(part).numpy())

    def trial(self) -> pa.Table:
        """Give one black image."""
        return black_image(self.steps)

    def tried(self) -> tuple[Batch, Batch]:
        """Give a black image, twice: all have the same size."""
        black = self.steps.levels()[None, :, :1, None]
        batch = self._input.batch(np.tile(black, (1, 1, self.steps.height, self.steps.width)))
        return batch, batch

    def begin(self, wires: Collection[Wire]) -> None:
        """Do nothing: all that makes vectors is in the graph."""

    def width(self, wire: Wire) -> int:
        """Give the width of a column's vectors; of `patches`, that of all of them together."""
        return wire.width * (wire.patches or 1 if wire.column.pooling == "patches" else 1)

    def pooled(self, wire: Wire, hidden: Tensor, batch: Batch) -> Tensor:
        """Make one vector an image of a tensor of the graph: (B, dim) float32.

        Raises:
            ModelError: it has another shape than was expected.
        """
        if not _as_told(tuple(hidden.shape), batch.rows, wire):
            raise ModelError(
                f"{self._files.file}: {wire.tensor} has the shape {tuple(hidden.shape)} for {batch.shown}, "
                f"and {listed({'': (batch.rows, *wire.axes)}).strip()} was expected"
                f"{'' if wire.patches is None else f', with {wire.patches} patches'}; name another tensor"
            )
        if wire.way == "as it is":
            return hidden.flatten(1)
        if len(wire.axes) == 3:
            last = self._seen.channels_last
            hidden = hidden.flatten(1, 2) if last else hidden.flatten(2).transpose(1, 2)
        return of_patches(wire.column, hidden, wire.patches, str(self._files.file))

    def flops(self, lengths: IntArray) -> float | None:
        """Count the operations of so many images; None where the graph does not tell."""
        if self._cost is None:
            return None
        cost, convolved = self._cost
        return cost.flops(lengths) + convolved * len(lengths)

    @cached_property
    def _cost(self) -> tuple[Cost, float] | None:
        """The cost of positions, and that of an image's convolution: once for each patch."""
        convolution, cost = convolution_of(self._files.graph), cost_of(self._files.graph, convolved=True)
        if convolution is None or cost is None or self._patch is None:
            return None
        return cost, 2.0 * convolution.weights * self._patches(*self._patch)

    def one_by_one(
        self, session: Session, wires: Collection[Wire], column: pa.Array, dims: Mapping[str, int]
    ) -> dict[str, FloatArray]:
        """Embed images one at a time, through transformers' own processor.

        Returns:
            {output: (rows, dim) float32}, NaN for rejects.
        """
        from embed_ops.encoders.onnx.reference import embed_images

        accepted = accepted_images(column, self.prepare(column))
        return embed_images(session, wires, accepted, self.home, self._input)

    def hashed(self, wires: Collection[Wire]) -> dict[str, Path]:
        """Name no files but those of the folder itself."""
        return {}

    def told(self, wires: Collection[Wire]) -> dict[str, Any]:
        """Say what becomes of an image, for `run.json`."""
        size = [self.steps.height, self.steps.width]
        return {"pixels": size, "channels": self._input.channels}


def _as_told(shape: tuple[int, ...], rows: int, wire: Wire) -> bool:
    """Tell whether a tensor has the shape that its wire says, and all of its patches."""
    told = (rows, *wire.axes)
    same = len(shape) == len(told) and all(size in (None, own) for own, size in zip(shape, told, strict=True))
    return same and (wire.patches is None or shape[1] >= wire.patches)


def _home(files: OnnxFiles) -> Path:
    """Find the folder with the processor's configuration.

    Raises:
        ModelError: there is none.
    """
    home = files.beside((CONFIGURATION, NESTED))
    if home is None:
        raise ModelError(
            f"{files.file}: takes images, and no {CONFIGURATION} beside it, nor in "
            f"{files.file.absolute().parent.parent}, says how they are resized and normalised; save the "
            "model's image processor there (AutoImageProcessor.from_pretrained(NAME).save_pretrained(FOLDER))"
        )
    return home
