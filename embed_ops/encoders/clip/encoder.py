"""Images and texts to vectors of one space: CLIP, SigLIP and their like.

Which of the two a column holds is told by its type: bytes are images, strings are texts.
Importing this module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import (
    IMAGE,
    TEXT,
    FloatArray,
    IntArray,
    Launched,
    Modality,
    Output,
    Prepared,
    dims_of,
    no_vectors,
    outputs_of,
)
from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.images.decoding import PIXELS, is_image_column
from embed_ops.encoders.images.model import ImageModel
from embed_ops.encoders.images.towers import TOWERS
from embed_ops.encoders.text.cost import Cost, cost
from embed_ops.encoders.text.modules import entries
from embed_ops.encoders.text.prompts import Prompts
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, prepare_texts, token_counts
from embed_ops.encoders.text.transformer import load_config, load_weights, pad, require_weights
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import ClipEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

_BEHIND_PADDING = frozenset({"altclip"})
"""Models whose texts' positions begin behind the padding token's id."""
_PADDED = frozenset({"siglip", "siglip2"})
"""Models that were trained on texts padded to their full length, with the padding attended to."""


class ClipEncoder:
    """The clip family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are those of `get_image_features` and `get_text_features`, divided by their norm where
    an output asks for it.

    Raises:
        ModelError: the folder misses a part, or is no model of images and texts.
    """

    takes: ClassVar[Mapping[str, Modality]] = {"image": IMAGE, "text": TEXT}

    def __init__(self, spec: ClipEncoderSpec) -> None:
        self._spec = spec
        folder = folders.locate_model(spec.model, spec.revision, spec.trust_remote_code)
        part = clip_part(folder.path, own_modules=not spec.outputs)
        contents.check_config(folder.path / part)
        self._model = model = ImageModel(spec, folder, part)
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint
        self._kind = str(model.config.get("model_type"))
        if self._kind not in TOWERS:
            raise ModelError(
                f"{spec.model}: family clip knows models of images and texts of {', '.join(TOWERS)}, and "
                f"this is {self._kind}; choose another model"
            )
        self._path, self._columns, self._pixels = model.path, spec.named, model.pixels
        self._of_images = True

    @cached_property
    def _config(self) -> Any:
        return load_config(self._path, {}, self._spec.trust_remote_code)

    @cached_property
    def _limit(self) -> int:
        own = read_json(self._path / "tokenizer_config.json").get("model_max_length")
        texts = self._config.text_config
        positions = int(texts.max_position_embeddings)
        if self._kind in _BEHIND_PADDING:
            positions -= int(texts.pad_token_id) + 1
        return min(int(limit) for limit in (self._spec.max_tokens, own, positions) if limit)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._path, self._limit, False, self._spec.trust_remote_code)

    @property
    def _prompts(self) -> Prompts:
        return Prompts.of(None, self._spec.prompt)

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a column of texts, or decode one of images, each distinct one once.

        Returns:
            inputs with the column `tokens`, list<int32>, or `pixels`, fixed-size binary of height x
            width x 3.

        Raises:
            SourceError: the column holds neither.
        """
        if is_image_column(column):
            return self._model.prepare(column)
        return prepare_texts(column, partial(self._prompts.encode, self._tokenizer))

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit."""
        return self._model.most_rows(0, asked) if modality == "image" else asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each input, patches or tokens: (inputs,) int32."""
        if PIXELS in inputs.schema.names:
            return self._model.positions(len(inputs), extra=True)
        counts = token_counts(inputs)
        return np.full_like(counts, self._limit) if self._kind in _PADDED else counts

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some images black, or replace some texts."""
        return (
            self._model.blank(inputs, places)
            if PIXELS in inputs.schema.names
            else blank_tokens(inputs, places)
        )

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights of both towers to `device` in `dtype`.

        Raises:
            ModelError: weights are missing, broken or incomplete.
        """
        import transformers

        self._model.fetch(compiled=compiled)
        network, missing = load_weights(
            transformers.AutoModel, self._config, self._path, self._spec.trust_remote_code, dtype
        )
        require_weights(self._path, missing)
        self._model.hold(network, device, dtype)

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch with the column `pixels` or `tokens`.

        A text without any token gives NaN.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called.
        """
        network = self._model.network
        import torch

        from embed_ops.encoders.device import on_host
        from embed_ops.encoders.text.pooling import finish

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            vectors = self._features(batch, network).float()
            return on_host({column.name: finish(vectors, column) for column in self._columns})

    def _features(self, batch: pa.Table, network: Any) -> Tensor:
        from embed_ops.encoders.device import to_device

        self._of_images = PIXELS in batch.schema.names
        if self._of_images:
            return features(network.get_image_features(pixel_values=self._model.normalized(batch)))
        ids, mask = pad(batch.column(TOKENS), self._tokenizer.pad)
        none = ~mask.bool().any(dim=1, keepdim=True)
        options = {"attention_mask": to_device(mask, network.device)}
        if self._kind in _PADDED:
            from torch.nn.functional import pad as widen

            ids, options = widen(ids, (0, self._limit - ids.shape[1]), value=self._tokenizer.pad), {}
        vectors = features(network.get_text_features(input_ids=to_device(ids, network.device), **options))
        return vectors.masked_fill(to_device(none, network.device), float("nan"))

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order: all as wide as the shared space."""
        return outputs_of(self._spec, self._columns, self._width)

    def _width(self, column: OutputSpec) -> int:
        texts = self._config.text_config
        width = getattr(self._config, "projection_dim", None) or getattr(texts, "projection_size", None)
        return int(width or texts.hidden_size)

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
        return self._model.flops * len(lengths) if self._of_images else self._text_cost.flops(lengths)

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through transformers' own processors and model in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        import transformers

        from embed_ops.encoders.clip.reference import ClipReference

        self._model.fetch(compiled=False)
        judge = ClipReference(
            self._path, self._columns, self._spec, padded=self._kind in _PADDED, device=device
        )
        name = f"transformers {transformers.__version__}"
        if is_image_column(column):
            return name, judge.embed_images(self._model.accepted(column))
        texts = distinct(column)
        given = [self._prompts.whole(text) for text in texts.texts]
        return name, texts.to_rows(judge.embed_texts(given), dims_of(self.outputs()))

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        model = self._model
        return {
            "model": self._spec.model,
            "commit": model.folder.revision,
            "model_type": self._kind,
            "pixels": self._pixels,
            "max_tokens": self._limit,
            **self._prompts.told(self._spec),
            "outputs": {
                column.name: {"dim": self._width(column), "normalize": column.normalize}
                for column in self._columns
            },
            **contents.own_code(model.path, run=self._spec.trust_remote_code),
            **model.loaded,
        }


def features(given: Any) -> Tensor:
    """Give the vectors of `get_image_features` or `get_text_features`.

    transformers 5 puts them into an output.
    """
    vectors: Tensor = getattr(given, "pooler_output", given)
    return vectors


def clip_part(root: Path, *, own_modules: bool) -> str:
    """Say where the model is in a folder, "" where it is the folder itself.

    sentence-transformers may have put it into one of its own, such as 0_CLIPModel.

    Args:
        root: the model folder.
        own_modules: vectors are those of the folder as it is, not of outputs that the spec names.

    Raises:
        ModelError: more modules, or a length, make the vectors there.
    """
    listed = entries(root)
    if listed is None:
        return ""
    cut = read_json(root / "config_sentence_transformers.json").get("truncate_dim")
    more = [kind.rpartition(".")[2] for kind, _ in listed[1:]] + (["truncate_dim"] if cut else [])
    if more and own_modules:
        raise ModelError(
            f"{root / 'modules.json'}: {', '.join(more)} behind the model of images and texts can't be "
            "followed; name [[encoder.outputs]] to leave them out (normalize and dim are there too)"
        )
    return listed[0][1] if not (root / "config.json").is_file() else ""
