"""Images to vectors: vision models that AutoModel loads, and the image towers of CLIP-like models.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from embed_ops.encoders.base import (
    IMAGE,
    FloatArray,
    IntArray,
    Launched,
    Modality,
    Output,
    dims_of,
    no_vectors,
    outputs_of,
    pooled_by,
)
from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.images.decoding import black_image
from embed_ops.encoders.images.model import ImageModel
from embed_ops.encoders.images.towers import Measured, load_tower, pooled
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ImageEncoderSpec, OutputSpec

if TYPE_CHECKING:
    import torch


class ImageEncoder:
    """The image family; implements `embed_ops.encoders.base.Encoder`.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    takes: ClassVar[Mapping[str, Modality]] = {"image": IMAGE}

    def __init__(self, spec: ImageEncoderSpec) -> None:
        self._spec = spec
        folder = folders.locate_model(spec.model, spec.revision, spec.trust_remote_code)
        contents.check_images(folder.path)
        self._model = model = ImageModel(spec, folder)
        self.prepare, self.blank = model.prepare, model.blank
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint
        self._columns = pooled_by(spec.named, model.shape.pooling)
        self._pixels = model.pixels
        if model.shape.patch is None and model.shape.measured is None and self._inner:
            raise ModelError(
                f"{spec.model}: layers of a convolutional network have widths of their own: leave layer out"
            )

    @property
    def _inner(self) -> bool:
        return any(column.layer != -1 for column in self._columns)

    @property
    def _has_patches(self) -> bool:
        return self._model.shape.has_patches

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most images of a unit."""
        return self._model.most_rows(4 * sum(dims_of(self.outputs()).values()), asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each image, all the same: (inputs,) int32."""
        return self._model.positions(len(inputs), extra=self._has_patches)

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` in `dtype`; pooling stays in float32.

        Raises:
            ModelError: weights are missing, broken or incomplete, or do not fit the processor's
                size.
        """
        from embed_ops.encoders.device import lost_device, ran_out_of_memory

        model = self._model
        model.fetch(compiled=compiled)
        tower = load_tower(model.path, self._columns, self._spec.trust_remote_code, dtype)
        model.hold(tower, device, dtype)
        black = black_image(model.steps)
        try:
            first, second = self._states(black), self._states(black)
            require_repeatable(self._spec.model, _last(first), _last(second))
            self._pooled(second)
        except (RuntimeError, ValueError) as error:
            if ran_out_of_memory(error) or lost_device(error):
                raise
            size = " x ".join(map(str, self._pixels))
            raise ModelError(
                f"{self._spec.model}: the model does not take images of {size} pixels, as its processor "
                f"makes: {error}"
            ) from error

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch with the column `pixels`.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        from embed_ops.encoders.device import on_host

        if batch.num_rows == 0:
            return no_vectors(self)
        return on_host(self._pooled(self._states(batch)))

    def _states(self, batch: pa.Table) -> Any:
        """Run a batch: what the network gives."""
        import torch

        with torch.inference_mode():
            pixels = self._model.normalized(batch)
            return self._model.network(pixel_values=pixels, output_hidden_states=self._inner)

    def _pooled(self, states: Any) -> dict[str, torch.Tensor]:
        """Make all outputs of what the network gave: {output: (B, dim) float32}."""
        import torch

        patches = self._model.patches if self._model.shape.patch is not None else None
        with torch.inference_mode():
            return {
                column.name: pooled(column, states, patches, self._spec.model) for column in self._columns
            }

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: one asks for the patches of a convolutional network.
        """
        return outputs_of(self._spec, self._columns, self._width)

    def _width(self, column: OutputSpec) -> int:
        """Give the width of a column's vectors; of `patches`, that of all of them together."""
        if column.pooling == "patches" and not self._has_patches:
            raise ModelError(
                f"{self._spec.model}: a convolutional network has no patches; choose pooler, mean or max"
            )
        shape = self._model.shape
        if shape.measured is not None and column.pooling == "pooler" and not shape.measured.pooler:
            raise ModelError(
                f"{self._spec.model}: output {column.name!r}: the model has no pooler; choose mean or max"
            )
        if shape.measured is not None and column.layer != -1:
            return self._inner_width(column, shape.measured)
        return shape.width * (self._model.patches if column.pooling == "patches" else 1)

    def _inner_width(self, column: OutputSpec, measured: Measured) -> int:
        """Give the width of an inner layer, which each stage of such a model has its own of."""
        widths, number = measured.layers, column.layer_number
        if not -len(widths) <= number < len(widths):
            raise ModelError(
                f"{self._spec.model}: output {column.name!r}: no layer {number}, there are 0 to "
                f"{len(widths) - 1}"
            )
        if column.pooling == "patches":
            raise ModelError(
                f"{self._spec.model}: output {column.name!r}: inner layers have patches of their own: "
                "choose mean or max, or leave layer out"
            )
        return widths[number]

    def flops(self, lengths: IntArray) -> float:
        """Count the floating-point operations of so many images."""
        return self._model.flops * len(lengths)

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed images one at a time through transformers' own processor and model in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.images.reference import embed_images

        self._model.fetch(compiled=False)
        accepted = self._model.accepted(column)
        return embed_images(accepted, self._model.path, self._columns, self._spec, device)

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        model = self._model
        return {
            "model": self._spec.model,
            "commit": model.folder.revision,
            "model_type": model.config.get("model_type"),
            "architectures": model.config.get("architectures"),
            "pixels": self._pixels,
            "outputs": {column.name: self._describe(column) for column in self._columns},
            **contents.own_code(model.path, run=self._spec.trust_remote_code),
            **model.loaded,
        }

    def _describe(self, column: OutputSpec) -> dict[str, Any]:
        patches = [self._model.patches, self._model.shape.width]
        shape = {"shape": patches} if column.pooling == "patches" else {}
        return {"dim": self._width(column), **column.told(), **shape}


def _last(states: Any) -> dict[str, FloatArray]:
    """Give the last hidden states of one image, for `require_repeatable`."""
    return {"of the last layer": states.last_hidden_state[0].float().cpu().numpy()}
