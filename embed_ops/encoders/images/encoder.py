"""Images to vectors: vision models that AutoModel loads, and the image towers of CLIP-like models.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.images.decoding import black_image
from embed_ops.encoders.images.model import ImageModel
from embed_ops.encoders.images.towers import load_tower, pooled
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ImageEncoderSpec, OutputSpec


class ImageEncoder:
    """The image family; implements `embed_ops.encoders.base.Encoder`.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    takes: ClassVar[Mapping[str, Modality]] = {"image": IMAGE}

    def __init__(self, spec: ImageEncoderSpec) -> None:
        self._spec = spec
        folder = folders.locate_model(spec.model, spec.revision, spec.trust_remote_code)
        folders.check_images(folder.path)
        self._model = model = ImageModel(spec, folder)
        self.prepare, self.blank = model.prepare, model.blank
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint
        self._columns = pooled_by(spec.named, model.shape.pooling)
        self._pixels = model.pixels
        if not self._has_patches and any(column.layer != -1 for column in self._columns):
            raise ModelError(
                f"{spec.model}: layers of a convolutional network have widths of their own: leave layer out"
            )

    @property
    def _has_patches(self) -> bool:
        return self._model.shape.patch is not None

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
        try:
            self.launch(black_image(model.steps))()
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
        network = self._model.network
        import torch

        from embed_ops.encoders.device import on_host

        if batch.num_rows == 0:
            return no_vectors(self)
        layers = any(column.layer != -1 for column in self._columns)
        with torch.inference_mode():
            states = network(pixel_values=self._model.normalized(batch), output_hidden_states=layers)
            patches = self._model.patches if self._has_patches else _positions(states)
            return on_host(
                {column.name: pooled(column, states, patches, self._spec.model) for column in self._columns}
            )

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
        return self._model.shape.width * (self._model.patches if column.pooling == "patches" else 1)

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
            **model.loaded,
        }

    def _describe(self, column: OutputSpec) -> dict[str, Any]:
        patches = [self._model.patches, self._model.shape.width]
        shape = {"shape": patches} if column.pooling == "patches" else {}
        return {"dim": self._width(column), **column.told(), **shape}


def _positions(states: Any) -> int:
    """Count the positions of a convolutional network's last hidden states: they are all patches."""
    shape = states.last_hidden_state.shape
    return int(shape[-2] * shape[-1]) if len(shape) == 4 else int(shape[1])
