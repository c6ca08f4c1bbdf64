"""The reference of images and texts.

One at a time, through transformers' own processors and model in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.encoders.images.reference import each_image, load_processor, processed
from embed_ops.encoders.text.positions import table_positions
from embed_ops.encoders.text.reference import least
from embed_ops.encoders.text.tokenizer import load_auto_tokenizer
from embed_ops.spec.encoder import ClipEncoderSpec, OutputSpec


class ClipReference:
    """A loaded model of images and texts.

    Args:
        folder: of the model.
        outputs: the vector columns.
        spec: of the encoder.
        padded: texts are padded to the most tokens that the model takes.
        device: where it computes.
    """

    def __init__(
        self,
        folder: Path,
        outputs: Sequence[OutputSpec],
        spec: ClipEncoderSpec,
        *,
        padded: bool,
        device: str = "cpu",
    ) -> None:
        import torch
        from transformers import AutoModel

        self._folder, self._outputs, self._spec, self._padded = folder, outputs, spec, padded
        with quiet():
            loaded = AutoModel.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=spec.trust_remote_code
            )
        self._model = loaded.eval().to(device)

    def embed_images(self, column: pa.Array) -> dict[str, FloatArray]:
        """Embed a column of images' bytes: {output.

        (rows, dim) float32}, NaN where there is no image.
        """
        processor = load_processor(self._folder, self._spec.trust_remote_code)

        def embed(image: Any) -> dict[str, npt.NDArray[Any]]:
            return self._vectors(self._model.get_image_features, processed(processor, image))

        return each_image(column, embed)

    def embed_texts(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Embed texts: {output: (texts, dim) float32}."""
        tokenizer = load_auto_tokenizer(self._folder, self._spec.trust_remote_code)
        table = table_positions(self._model.text_model)
        length: dict[str, Any] = {
            "max_length": least(self._spec.max_tokens, tokenizer.model_max_length, table)
        }
        if self._padded:
            length["padding"] = "max_length"
        rows = []
        for text in texts:
            given = dict(tokenizer(text, truncation=True, return_tensors="pt", **length))
            kept = ("input_ids",) if self._padded else ("input_ids", "attention_mask")
            rows.append(self._vectors(self._model.get_text_features, {name: given[name] for name in kept}))
        return {
            name: np.stack([row[name] for row in rows]).astype(np.float32)
            for name in (rows[0] if rows else {})
        }

    def _vectors(self, call: Any, given: Any) -> dict[str, npt.NDArray[Any]]:
        import torch

        with torch.inference_mode():
            features = call(**{name: value.to(self._model.device) for name, value in given.items()})
        vector = getattr(features, "pooler_output", features)[0].cpu().double().numpy()
        return {output.name: finished(vector, output) for output in self._outputs}
