"""The reference: the same rows by other code than the encoder's.

One at a time, un-padded, in float32.

A folder of sentence-transformers without `encoder.outputs` goes through sentence-transformers if it
is installed; all else through plain transformers, with pooling in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.encoders.text.files import TextFiles
from embed_ops.encoders.text.positions import UNBOUNDED, table_positions
from embed_ops.encoders.text.prompts import Prompted, Prompts
from embed_ops.encoders.text.tokenizer import load_auto_tokenizer, lowercase_first
from embed_ops.encoders.text.transformer import load_config, model_class
from embed_ops.spec.encoder import OutputSpec

Vector = npt.NDArray[np.float64]
Computed = TypeVar("Computed")


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
    """What to compare with, loaded as its library's users load it.

    It is told what the spec asks for, and nothing that the encoder found out: where texts are cut
    follows from the tokenizer and the model as the library gives them.

    Attributes:
        files: where the model is, and what the spec asks of it.
        prompts: texts before rows.
        outputs: the vector columns.
        device: where it computes.
    """

    files: TextFiles
    prompts: Prompts
    outputs: tuple[OutputSpec, ...]
    device: str = "cpu"

    def embed(self, texts: Sequence[Any]) -> tuple[str, dict[str, FloatArray]]:
        """Embed texts, or such with prompts of their own.

        The reference's name, and {output: (texts, dim) float32}; NaN where a text has no token.
        """
        plain = self.files.adapter is None and not self.files.spec.outputs
        if self.files.pipeline is not None and plain:
            try:
                import sentence_transformers
            except ImportError:
                pass
            else:
                name = f"sentence-transformers {sentence_transformers.__version__}"
                of_texts = list(self._through_sentence_transformers(texts))
                return name, _stacked(of_texts, self.outputs)
        return name_of(self.files), _stacked(list(self._through_transformers(texts)), self.outputs)

    def _through_sentence_transformers(self, texts: Sequence[Any]) -> Iterator[dict[str, Any] | None]:
        import torch
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {
            "model_kwargs": {"dtype": torch.float32},
            "trust_remote_code": self.files.spec.trust_remote_code,
        }
        with quiet():
            model = SentenceTransformer(
                str(self.files.root), device=self.device, local_files_only=True, **options
            )

        def embed(text: str | Prompted, limit: int | None) -> npt.NDArray[Any]:
            if limit is not None:
                model.max_seq_length = limit
            asked, text = (self.files.spec.prompt, text) if isinstance(text, str) else text
            prompt = {"prompt_name" if asked in self.prompts.own else "prompt": asked}
            vectors = model.encode([text], batch_size=1, show_progress_bar=False, **prompt)
            vector: npt.NDArray[Any] = vectors[0]
            return vector

        tokenizer, own = model.tokenizer, model.max_seq_length
        limit = least(self.files.spec.max_tokens, own, self._table(model[0].auto_model))
        fewest = tokenizer.num_special_tokens_to_add() + 1
        for text in texts:
            ids = tokenizer(self.prompts.whole(text), truncation=False, verbose=False)["input_ids"]
            if not ids:
                yield None
                continue
            vector, limit = fitting(partial(embed, text), limit, fewest, len(ids))
            yield {self.outputs[0].name: vector}

    def _through_transformers(self, texts: Sequence[Any]) -> Iterator[dict[str, Any] | None]:
        import torch

        tokenizer = load_auto_tokenizer(self.files.tokenizer, self.files.spec.trust_remote_code)
        settings = self.files.pipeline.transformer if self.files.pipeline else None
        if settings and settings.lower:
            lowercase_first(tokenizer.backend_tokenizer)
        model = loaded_plainly(self.files, self.device)
        heads = self._heads(tokenizer)
        inner = any(output.layer != -1 for output in self.outputs)

        def run(text: str, limit: int | None) -> Any:
            cut: dict[str, Any] = {} if limit is None else {"truncation": True, "max_length": limit}
            given = tokenizer(text, return_tensors="pt", verbose=False, **cut).to(self.device)
            return model(**given, output_hidden_states=inner)

        own = tokenizer.model_max_length
        if settings is not None:
            stated = getattr(model.config, "max_position_embeddings", None)
            own = settings.max_seq_length or least(own, stated)
        limit = least(self.files.spec.max_tokens, own, self._table(model))
        fewest = tokenizer.num_special_tokens_to_add() + 1
        with torch.inference_mode():
            for text in texts:
                whole = self.prompts.whole(text)
                ids = tokenizer(whole, truncation=False, verbose=False)["input_ids"]
                if not ids:
                    yield None
                    continue
                states, limit = fitting(partial(run, whole), limit, fewest, len(ids))
                if heads:
                    prompt = self.prompts.before(text)
                    yield {self.outputs[0].name: heads(states.last_hidden_state.cpu(), prompt)}
                else:
                    yield {
                        output.name: _pool(output, layer_of(output.layer, states)) for output in self.outputs
                    }

    def _table(self, model: Any) -> int | None:
        """Look at the table of positions, where overrunning it ends the device."""
        return None if self.device == "cpu" else table_positions(model)

    def _heads(self, tokenizer: Any) -> Callable[[Any, str], npt.NDArray[Any]] | None:
        """Give the modules of the folder, for the case that sentence-transformers is not installed.

        None if they are not used.
        """
        if self.files.pipeline is None or self.files.spec.outputs:
            return None
        import torch

        from embed_ops.encoders.text.heads import Heads

        modules = Heads(self.files.pipeline.modules, self.files.root, "cpu")

        def run(hidden: Any, prompt: str) -> npt.NDArray[Any]:
            ids = tokenizer(prompt)["input_ids"] if prompt else []
            counted = len(ids) - int(bool(ids) and ids[-1] in tokenizer.all_special_ids)
            mask = torch.ones(hidden.shape[:2], dtype=torch.int64)
            vectors: npt.NDArray[Any] = modules(hidden, mask, counted)[0].numpy()
            return vectors

        return run


def name_of(files: TextFiles) -> str:
    """Name the library that `loaded_plainly` asks."""
    import transformers

    name = f"transformers {transformers.__version__}"
    if files.adapter is None:
        return name
    import peft

    return f"{name} with peft {peft.__version__}"


def loaded_plainly(files: TextFiles, device: str) -> Any:
    """Load a model in float32 as a user of transformers would, an adapter beside its weights."""
    import torch

    trusted = files.spec.trust_remote_code
    config = load_config(files.path, files.settings.config, trusted)
    with quiet():
        model = model_class(config).from_pretrained(
            files.path, config=config, dtype=torch.float32, trust_remote_code=trusted
        )
    if files.adapter is not None:
        model = files.adapter.attached(model)
    return model.eval().to(device)


def least(*limits: int | None) -> int | None:
    """Give the least of some limits of tokens; None, or a huge number, is none."""
    return min((limit for limit in limits if limit is not None and 0 < limit < UNBOUNDED), default=None)


def fitting(
    embed: Callable[[int | None], Computed], limit: int | None, fewest: int, tokens: int
) -> tuple[Computed, int | None]:
    """Call with a limit of tokens, or with the most that the model takes.

    Args:
        embed: embeds one text on a CPU, cut to a limit.
        limit: to begin with, None for none.
        fewest: tokens that a text may be cut to.
        tokens: of the whole text.

    Returns:
        what the call gave, and the limit that it fits.
    """
    from embed_ops.encoders.device import ran_out_of_memory

    try:
        return embed(limit), limit
    except (IndexError, RuntimeError, ValueError) as error:
        low, high = fewest, tokens if limit is None else min(tokens, limit)
        if ran_out_of_memory(error) or high <= low:
            raise
        fits = embed(low)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                fits, low = embed(middle), middle
            except (IndexError, RuntimeError, ValueError):
                high = middle
        return fits, low


def _stacked(
    of_texts: Sequence[Mapping[str, npt.NDArray[Any]] | None], outputs: Sequence[OutputSpec]
) -> dict[str, FloatArray]:
    """Stack the vectors of texts: {output: (texts, dim) float32}, NaN for a text without any."""
    known = next((vectors for vectors in of_texts if vectors is not None), None)
    if known is None:
        return {}
    nothing = {name: np.full(len(vector), np.nan) for name, vector in known.items()}
    return {
        output.name: np.stack([(vectors or nothing)[output.name] for vectors in of_texts]).astype(np.float32)
        for output in outputs
    }


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
