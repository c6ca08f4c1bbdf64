"""A model with an image tower: its folder, its images, and its weights once they are loaded.

Importing this module imports no torch: CPU workers decode images only.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import IntArray, Prepared, not_loaded
from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.decoding import (
    Normalizer,
    accepted_images,
    blank_images,
    most_images,
    prepare_images,
)
from embed_ops.encoders.images.pixels import Preprocessing
from embed_ops.encoders.images.processors import read_preprocessing
from embed_ops.encoders.images.towers import Shape, flops_of_image, read_shape, weightless_tower
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ClipEncoderSpec, ImageEncoderSpec


class ImageModel:
    """What families of images hold: the folder, how images are prepared, the loaded network.

    Attributes:
        spec: of the encoder.
        folder: where the model is; `path`: of its files, in it or in a part of it.
        loaded: device, dtype and attention, for `run.json`; empty before `hold`.
    """

    def __init__(
        self, spec: ImageEncoderSpec | ClipEncoderSpec, folder: folders.Folder, part: str = ""
    ) -> None:
        self.spec, self.folder, self.path, self._part = spec, folder, folder.path / part, part
        if folder.local:
            contents.check_weights(self.path)
        config = self.config.get("vision_config") or self.config
        if (channels := config.get("num_channels", 3)) != 3:
            raise ModelError(
                f"{self.path / 'config.json'}: the model takes images of {channels} channels (num_channels), "
                "and images are made RGB; choose another model"
            )
        self.loaded: dict[str, Any] = {}
        self._network: Any = None
        self._normalizer: Normalizer | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as it stands in the folder."""
        return read_json(self.path / "config.json")

    @cached_property
    def steps(self) -> Preprocessing:
        """What its image processor does."""
        return read_preprocessing(self.path)

    @property
    def pixels(self) -> list[int]:
        """Height and width of what the network takes."""
        return [self.steps.height, self.steps.width]

    @cached_property
    def shape(self) -> Shape:
        """What the configuration says of positions."""
        pixels = self.steps.height, self.steps.width
        return read_shape(self.path, pixels, self.spec.trust_remote_code)

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.shape.patches(self.steps.height, self.steps.width)

    def prepare(self, column: pa.Array) -> Prepared:
        """Decode, resize and crop a column of images' bytes, each distinct one once.

        Returns:
            inputs with the column `pixels`, fixed-size binary of height x width x 3.

        Raises:
            SourceError: the column holds no bytes.
        """
        return prepare_images(column, self.steps, self.spec.max_pixels, draft=self.spec.draft is True)

    def accepted(self, column: pa.Array) -> pa.Array:
        """Give a column of images' bytes with nulls for those that become rejects."""
        return accepted_images(column, self.prepare(column))

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Give the most images of a unit; `vector_bytes`: of all vectors of one."""
        return most_images(self.steps, vector_bytes, asked)

    def positions(self, images: int, *, extra: bool) -> IntArray:
        """Give the positions of each image, all the same: (images,) int32.

        `extra`: a class token has one too.
        """
        return np.full(images, self.patches + extra, np.int32)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black."""
        return blank_images(inputs, places, self.steps)

    def fetch(self, *, compiled: bool) -> None:
        """Fetch the weights.

        Raises:
            ModelError: there are none, or they are to be compiled.
        """
        if compiled:
            raise ModelError(
                f"{self.spec.model}: models of images are not compiled; leave encoder.compile out"
            )
        folders.fetch_weights(self.folder, [self._part])

    def hold(self, network: Any, device: str, dtype: str) -> None:
        """Keep a loaded network, on its device."""
        import torch

        self._network = network.to(device)
        self._normalizer = Normalizer(self.steps, self._network.device, getattr(torch, dtype))
        attention = str(network.config._attn_implementation)
        self.loaded = {"device": device, "dtype": dtype, "attention": attention}

    @property
    def network(self) -> Any:
        """The loaded network.

        Raises:
            ModelError: `hold` was not called.
        """
        if self._network is None:
            raise not_loaded(self.spec.model)
        return self._network

    def normalized(self, batch: pa.Table) -> Any:
        """Give what the network takes of a batch of images: (B, 3, height, width).

        Raises:
            ModelError: `hold` was not called.
        """
        if self._normalizer is None:
            raise not_loaded(self.spec.model)
        return self._normalizer(batch)

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one image."""
        tower = weightless_tower(self.path, self.spec.trust_remote_code)
        return flops_of_image(tower, self.steps.height, self.steps.width)

    def weight_bytes(self) -> int:
        """Give the size of the weight files, 0 where they are not on this machine yet."""
        return folders.weight_bytes(self.path)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return folders.fingerprint(self.folder, self.spec.trust_remote_code, [self._part])
