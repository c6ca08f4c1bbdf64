"""The reference: the same rows by other code than the encoder's.

One at a time, un-padded, in float32.

A folder of sentence-transformers without `encoder.outputs` goes through sentence-transformers if it
is installed; all else through plain transformers, with pooling in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.encoders.text.modules import Pipeline
from embed_ops.encoders.text.tokenizer import load_auto_tokenizer, lowercase_first
from embed_ops.encoders.text.transformer import load_config, model_class
from embed_ops.spec.encoder import LanguageEncoderSpec, OutputSpec

Vector = npt.NDArray[np.float64]


def _weighted(hidden: Vector) -> Vector:
    weights = np.arange(1, len(hidden) + 1)[:, None]
    total: Vector = (hidden * weights).sum(0) / weights.sum()
    return total


POOL: Mapping[str, Callable[[Vector], Vector]] = {
    "mean": lambda hidden: hidden.mean(0),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(0),
    "last": lambda hidden: hidden[-1],
    "weighted_mean": _weighted,
    "mean_sqrt_len": lambda hidden: hidden.sum(0) / np.sqrt(len(hidden)),
}


@dataclass(frozen=True)
class Reference:
    """What to compare with.

    Attributes:
        spec: of the encoder.
        root: the model folder.
        folder: the transformer's folder, the root or below.
        pipeline: what a sentence-transformers folder asks for.
        prompt: text before every row.
        limit: most tokens.
        outputs: the vector columns.
        device: where it computes.
    """

    spec: LanguageEncoderSpec
    root: Path
    folder: Path
    pipeline: Pipeline | None
    prompt: str
    limit: int | None
    outputs: tuple[OutputSpec, ...]
    device: str = "cpu"

    def embed(self, texts: Sequence[str]) -> tuple[str, dict[str, FloatArray]]:
        """Embed texts: the reference's name, and {output: (texts, dim) float32}."""
        if self.pipeline is not None and not self.spec.outputs:
            try:
                import sentence_transformers
            except ImportError:
                pass
            else:
                name = f"sentence-transformers {sentence_transformers.__version__}"
                return name, {self.outputs[0].name: self._through_sentence_transformers(texts)}
        import transformers

        rows: dict[str, list[FloatArray]] = {output.name: [] for output in self.outputs}
        for row in self._through_transformers(texts):
            for name, vector in row.items():
                rows[name].append(vector.astype(np.float32))
        return f"transformers {transformers.__version__}", {
            name: np.stack(vectors) for name, vectors in rows.items()
        }

    def _through_sentence_transformers(self, texts: Sequence[str]) -> FloatArray:
        import torch
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {
            "model_kwargs": {"dtype": torch.float32},
            "trust_remote_code": self.spec.trust_remote_code,
        }
        with quiet():
            model = SentenceTransformer(str(self.root), device=self.device, local_files_only=True, **options)
        if self.limit is not None:
            model.max_seq_length = self.limit
        asked = self.spec.prompt
        named = asked is not None and self.pipeline is not None and asked in self.pipeline.prompts
        prompt = {"prompt_name": asked} if named else {"prompt": asked}
        vectors = [model.encode([text], batch_size=1, show_progress_bar=False, **prompt) for text in texts]
        return np.concatenate(vectors).astype(np.float32)

    def _through_transformers(self, texts: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        import torch

        tokenizer = load_auto_tokenizer(self.folder, self.spec.trust_remote_code)
        settings = self.pipeline.transformer if self.pipeline else None
        if settings and settings.lower:
            lowercase_first(tokenizer.backend_tokenizer)
        config = load_config(self.folder, settings.config if settings else {}, self.spec.trust_remote_code)
        trusted = {"trust_remote_code": self.spec.trust_remote_code}
        with quiet():
            loaded = model_class(config).from_pretrained(
                self.folder, config=config, dtype=torch.float32, **trusted
            )
        model = loaded.eval().to(self.device)
        heads = self._heads(tokenizer)
        cut: dict[str, Any] = {} if self.limit is None else {"truncation": True, "max_length": self.limit}
        with torch.inference_mode():
            for text in texts:
                given = tokenizer(self.prompt + text, return_tensors="pt", **cut).to(self.device)
                states = model(
                    **given, output_hidden_states=any(output.layer != -1 for output in self.outputs)
                )
                if heads:
                    yield {self.outputs[0].name: heads(states.last_hidden_state.cpu())}
                else:
                    yield {
                        output.name: _pool(output, layer_of(output.layer, states)) for output in self.outputs
                    }

    def _heads(self, tokenizer: Any) -> Callable[[Any], npt.NDArray[Any]] | None:
        """Give the modules of the folder, for the case that sentence-transformers is not installed.

        None if they are not used.
        """
        if self.pipeline is None or self.spec.outputs:
            return None
        import torch

        from embed_ops.encoders.text.heads import Heads

        modules = Heads(self.pipeline.modules, self.root, "cpu")
        ids = tokenizer(self.prompt)["input_ids"] if self.prompt else []
        prompt = len(ids) - int(bool(ids) and ids[-1] in tokenizer.all_special_ids)
        return lambda hidden: modules(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64), prompt)[
            0
        ].numpy()


def layer_of(asked: int | str, given: Any) -> Vector:
    """Give the hidden states that `layer` names, of what transformers gave for one text.

    (T, D * layers) float64.
    """
    if asked == -1:
        last: Vector = given.last_hidden_state[0].cpu().double().numpy()
        return last
    states: list[Vector] = [state[0].cpu().double().numpy() for state in given.hidden_states]
    if isinstance(asked, int):
        return states[asked]
    how, _, listed = asked.replace(" ", "").rstrip(")").partition("(")
    first, colon, end = listed.partition(":")
    chosen = (
        states[int(first or 0) : int(end) if end else None]
        if colon
        else [states[int(number)] for number in listed.split(",")]
    )
    if how == "concat":
        return np.concatenate(chosen, -1)
    total: Vector = np.mean(chosen, 0) if how == "mean" else np.sum(chosen, 0)
    return total


def _pool(output: OutputSpec, hidden: Vector) -> Vector:
    return finished(POOL[output.pooling](hidden), output)
