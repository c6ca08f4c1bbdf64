"""Images and texts to vectors of one space: CLIP, SigLIP and their like.

Which of the two a column holds is told by its type: bytes are images, strings are texts.
Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared, no_vectors, not_loaded
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.decoding import (
    PIXELS,
    Normalizer,
    blank_images,
    is_image_column,
    most_images,
    prepare_images,
)
from embed_ops.encoders.images.pixels import read_preprocessing
from embed_ops.encoders.images.towers import TOWERS, flops_of_image, read_shape, weightless_tower
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, prepare_texts, token_counts
from embed_ops.encoders.text.transformer import (
    Cost,
    cost,
    load_config,
    load_weights,
    pad,
    require_weights,
    to_device,
)
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ClipEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

_PADDED = frozenset({"siglip", "siglip2"})
"""Models that were trained on texts padded to their full length, with the padding attended to."""


class ClipEncoder:
    """The clip family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are those of `get_image_features` and `get_text_features`, divided by their norm where
    an output asks for it.

    Raises:
        ModelError: the folder misses a part, or is no model of images and texts.
    """

    def __init__(self, spec: ClipEncoderSpec) -> None:
        self._spec = spec
        self._folder = folders.locate(spec.model, spec.revision, spec.trust_remote_code)
        self._path = self._folder.path
        folders.check_config(self._path)
        if self._folder.local:
            folders.check_weights(self._path)
        self._kind = str(read_json(self._path / "config.json").get("model_type"))
        if self._kind not in TOWERS:
            raise ModelError(
                f"{spec.model}: {self._kind} is no model of images and texts; family clip knows "
                f"{', '.join(TOWERS)}"
            )
        self._steps = read_preprocessing(self._path)
        self._columns = spec.outputs or (OutputSpec(),)
        self._model: Any = None
        self._normalizer: Normalizer | None = None
        self._of_images = True
        self._loaded: dict[str, Any] = {}

    @cached_property
    def _config(self) -> Any:
        return load_config(self._path, {}, self._spec.trust_remote_code)

    @cached_property
    def _limit(self) -> int:
        own = read_json(self._path / "tokenizer_config.json").get("model_max_length")
        positions = int(self._config.text_config.max_position_embeddings)
        return min(int(limit) for limit in (self._spec.max_tokens, own, positions) if limit)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._path, self._limit, False, self._spec.trust_remote_code)

    @property
    def _prompt(self) -> str:
        return self._spec.prompt or ""

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a column of texts, or decode, resize and crop one of images, each distinct one once.

        Returns:
            inputs with the column `tokens`, list<int32>, or `pixels`, fixed-size binary of height x
            width x 3.

        Raises:
            SourceError: the column holds neither.
        """
        if is_image_column(column):
            return prepare_images(column, self._steps, self._spec.max_pixels, draft=self._spec.draft is True)
        return prepare_texts(column, lambda texts: self._tokenizer.encode(texts, self._prompt))

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit."""
        return most_images(self._steps, 0, asked) if modality == "image" else asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each input, patches or tokens: (inputs,) int32."""
        if PIXELS in inputs.schema.names:
            positions = read_shape(self._path).patches(self._steps.height, self._steps.width) + 1
            return np.full(len(inputs), positions, np.int32)
        counts = token_counts(inputs)
        return np.full_like(counts, self._limit) if self._kind in _PADDED else counts

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black, or replace some texts."""
        return (
            blank_images(inputs, places, self._steps)
            if PIXELS in inputs.schema.names
            else blank_tokens(inputs, places)
        )

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights of both towers to `device` in `dtype`.

        Raises:
            ModelError: weights are missing, broken or incomplete.
        """
        import torch
        import transformers

        if compiled:
            raise ModelError(
                f"{self._spec.model}: models of images and texts are not compiled; leave encoder.compile out"
            )
        folders.fetch_weights(self._folder)
        model, missing = load_weights(
            transformers.AutoModel, self._config, self._path, self._spec.trust_remote_code, dtype
        )
        require_weights(self._path, missing)
        self._model = model.to(device)
        self._normalizer = Normalizer(self._steps, self._model.device, getattr(torch, dtype))
        self._loaded = {"device": device, "dtype": dtype, "attention": str(model.config._attn_implementation)}

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Start embedding a batch with the column `pixels` or `tokens`.

        A text without any token gives NaN.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        if self._model is None:
            raise not_loaded(self._spec.model)
        import torch
        from torch.nn.functional import normalize

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            vectors = self._features(batch).float()
            found = {
                column.name: normalize(vectors, dim=-1) if column.normalize else vectors
                for column in self._columns
            }
        return lambda: {name: values.cpu().numpy() for name, values in found.items()}

    def _features(self, batch: pa.Table) -> Tensor:
        self._of_images = PIXELS in batch.schema.names
        if self._of_images and self._normalizer is not None:
            return features(self._model.get_image_features(pixel_values=self._normalizer(batch)))
        ids, mask = pad(batch.column(TOKENS), self._tokenizer.pad)
        none = ~mask.bool().any(dim=1, keepdim=True)
        options = {"attention_mask": to_device(mask, self._model.device)}
        if self._kind in _PADDED:
            from torch.nn.functional import pad as widen

            ids, options = widen(ids, (0, self._limit - ids.shape[1]), value=self._tokenizer.pad), {}
        found = features(
            self._model.get_text_features(input_ids=to_device(ids, self._model.device), **options)
        )
        return found.masked_fill(to_device(none, self._model.device), float("nan"))

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: there is no such output.
        """
        if output not in self.outputs():
            raise ModelError(
                f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}"
            )
        width = getattr(self._config, "projection_dim", None) or getattr(
            self._config.text_config, "projection_size", None
        )
        return int(width or self._config.text_config.hidden_size)

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    @cached_property
    def _image_flops(self) -> float:
        return flops_of_image(
            weightless_tower(self._path, self._spec.trust_remote_code), self._steps.height, self._steps.width
        )

    @cached_property
    def _text_cost(self) -> Cost:
        import torch
        import transformers

        auto: Any = transformers.AutoModel
        with torch.device("meta"):
            return cost(
                auto.from_config(self._config, trust_remote_code=self._spec.trust_remote_code).text_model
            )

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of inputs of what was embedded last.

        Projections are left out.
        """
        return self._image_flops * len(lengths) if self._of_images else self._text_cost.flops(lengths)

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through transformers' own processors and model in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        import transformers

        from embed_ops.encoders.clip.reference import ClipReference

        folders.fetch_weights(self._folder)
        judge = ClipReference(
            self._path, self._columns, self._spec, self._limit if self._kind in _PADDED else None
        )
        name = f"transformers {transformers.__version__}"
        if is_image_column(column):
            return name, judge.embed_images(column)
        found = distinct(column)
        result = {
            output: np.full((len(found.index), self.dim(output)), np.nan, np.float32)
            for output in self.outputs()
        }
        valid = found.index >= 0
        for output, rows in judge.embed_texts(
            [self._prompt + text for text in found.texts], self._limit
        ).items():
            result[output][valid] = rows[found.index[valid]]
        return name, result

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        return {
            "model": self._spec.model,
            "commit": self._folder.revision,
            "model_type": self._kind,
            "pixels": [self._steps.height, self._steps.width],
            "max_tokens": self._limit,
            "prompt": self._prompt,
            "outputs": {
                column.name: {"dim": self.dim(column.name), "normalize": column.normalize}
                for column in self._columns
            },
            **self._loaded,
        }

    def weight_bytes(self) -> int:
        """Give the size of the weight files, 0 where they are not on this machine yet."""
        return folders.weight_bytes(self._path)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return folders.fingerprint(self._folder, self._spec.trust_remote_code)


def features(found: Any) -> Tensor:
    """Give the vectors of `get_image_features` or `get_text_features`, which transformers 5 puts into an output."""
    vectors: Tensor = getattr(found, "pooler_output", found)
    return vectors
