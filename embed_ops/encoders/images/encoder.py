"""Images to vectors: every vision model that transformers' AutoModel loads, and the image towers of CLIP-like models.

Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared, no_vectors, not_loaded
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.decoding import (
    Normalizer,
    black_image,
    blank_images,
    most_images,
    prepare_images,
)
from embed_ops.encoders.images.pixels import Preprocessing, read_preprocessing
from embed_ops.encoders.images.towers import flops_of_image, load_tower, pooled, read_shape, weightless_tower
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ImageEncoderSpec, OutputSpec


class ImageEncoder:
    """The image family; implements `embed_ops.encoders.base.Encoder`.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    def __init__(self, spec: ImageEncoderSpec) -> None:
        self._spec = spec
        self._folder = folders.locate(spec.model, spec.revision, spec.trust_remote_code)
        self._path = self._folder.path
        folders.check_images(self._path)
        if self._folder.local:
            folders.check_weights(self._path)
        self._shape = read_shape(self._path)
        self._steps: Preprocessing = read_preprocessing(self._path)
        asked = spec.outputs or (OutputSpec(),)
        self._columns = tuple(
            column.model_copy(update={"pooling": self._shape.pooling}) if column.pooling == "auto" else column
            for column in asked
        )
        if self._shape.patch is None and any(column.layer != -1 for column in self._columns):
            raise ModelError(
                f"{spec.model}: layers of a convolutional network have widths of their own: leave layer out"
            )
        self._model: Any = None
        self._normalizer: Normalizer | None = None
        self._loaded: dict[str, Any] = {}

    @property
    def _patches(self) -> int:
        return self._shape.patches(self._steps.height, self._steps.width)

    def prepare(self, column: pa.Array) -> Prepared:
        """Decode, resize and crop a column of images' bytes, each distinct one once.

        Returns:
            inputs with the column `pixels`, fixed-size binary of height x width x 3.

        Raises:
            SourceError: the column holds no bytes.
        """
        return prepare_images(column, self._steps, self._spec.max_pixels, draft=self._spec.draft is True)

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most images of a unit."""
        return most_images(self._steps, 4 * sum(self.dim(name) for name in self.outputs()), asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each image, all the same: (inputs,) int32."""
        return np.full(len(inputs), self._patches + (self._shape.patch is not None), np.int32)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black."""
        return blank_images(inputs, places, self._steps)

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` in `dtype`; pooling stays in float32.

        Raises:
            ModelError: weights are missing, broken or incomplete, or do not fit the processor's
                size.
        """
        import torch

        if compiled:
            raise ModelError(
                f"{self._spec.model}: models of images are not compiled; leave encoder.compile out"
            )
        folders.fetch_weights(self._folder)
        model = load_tower(self._path, self._columns, self._spec.trust_remote_code, dtype).to(device)
        self._model, self._normalizer = model, Normalizer(self._steps, model.device, getattr(torch, dtype))
        self._loaded = {"device": device, "dtype": dtype, "attention": str(model.config._attn_implementation)}
        try:
            self.launch(black_image(self._steps))()
        except (RuntimeError, ValueError) as error:
            size = f"{self._steps.height} x {self._steps.width}"
            raise ModelError(
                f"{self._spec.model}: the model does not take images of {size} pixels, as its processor "
                f"makes: {error}"
            ) from error

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Start embedding a batch with the column `pixels`.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        if self._model is None or self._normalizer is None:
            raise not_loaded(self._spec.model)
        import torch

        if batch.num_rows == 0:
            return no_vectors(self)
        layers = any(column.layer != -1 for column in self._columns)
        with torch.inference_mode():
            states = self._model(pixel_values=self._normalizer(batch), output_hidden_states=layers)
            patches = self._patches if self._shape.patch is not None else _positions(states)
            found = {
                column.name: pooled(column, states, patches, self._spec.model) for column in self._columns
            }
        return lambda: {name: vectors.cpu().numpy() for name, vectors in found.items()}

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Of `patches`, that of all of them one after the other.

        Raises:
            ModelError: there is no such output.
        """
        column = next((column for column in self._columns if column.name == output), None)
        if column is None:
            raise ModelError(
                f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}"
            )
        if column.pooling == "patches" and self._shape.patch is None:
            raise ModelError(
                f"{self._spec.model}: a convolutional network has no patches; choose pooler, mean or max"
            )
        return self._shape.width * (self._patches if column.pooling == "patches" else 1)

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    @cached_property
    def _flops(self) -> float:
        return flops_of_image(
            weightless_tower(self._path, self._spec.trust_remote_code), self._steps.height, self._steps.width
        )

    def flops(self, lengths: IntArray) -> float:
        """Count the floating-point operations of so many images."""
        return self._flops * len(lengths)

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray]]:
        """Embed images one at a time through transformers' own processor and model in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.images.reference import embed_images

        folders.fetch_weights(self._folder)
        return embed_images(column, self._path, self._columns, self._spec)

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        config = read_json(self._path / "config.json")
        shapes = {column.name: self._describe(column) for column in self._columns}
        return {
            "model": self._spec.model,
            "commit": self._folder.revision,
            "model_type": config.get("model_type"),
            "architectures": config.get("architectures"),
            "pixels": [self._steps.height, self._steps.width],
            "outputs": shapes,
            **self._loaded,
        }

    def _describe(self, column: OutputSpec) -> dict[str, Any]:
        shape = {"shape": [self._patches, self._shape.width]} if column.pooling == "patches" else {}
        return {"dim": self.dim(column.name), **column.told(), **shape}

    def weight_bytes(self) -> int:
        """Give the size of the weight files, 0 where they are not on this machine yet."""
        return folders.weight_bytes(self._path)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return folders.fingerprint(self._folder, self._spec.trust_remote_code)


def _positions(states: Any) -> int:
    """Count the positions of a convolutional network's last hidden states: they are all patches."""
    shape = states.last_hidden_state.shape
    return int(shape[-2] * shape[-1]) if len(shape) == 4 else int(shape[1])
