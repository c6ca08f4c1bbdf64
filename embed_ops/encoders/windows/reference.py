"""The reference of texts in windows.

Plain loops over one text at a time, through transformers' own tokenizer and model.

Every window goes through the model alone, un-padded, in float32; what lies where is found token by
token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.encoders.text.reference import POOL, layer_of, loaded_plainly, name_of
from embed_ops.encoders.text.tokenizer import load_auto_tokenizer, lowercase_first, space_first
from embed_ops.encoders.windows.parts import folded
from embed_ops.numerics.ragged import Ragged, offsets_of
from embed_ops.spec.encoder import OutputSpec

Vector = npt.NDArray[np.float64]


class WindowedReference:
    """What to compare with.

    Args:
        backbone: of the encoder.
        width: tokens of text in a window, None for whole texts.
        stride: tokens from one window to the next.
        device: where it computes.
    """

    def __init__(self, backbone: Backbone, width: int | None, stride: int, device: str = "cpu") -> None:
        self.name = name_of(backbone.files)
        self._at, self._width, self._stride, self._device = backbone, width, stride, device
        self._spec, self._outputs = backbone.spec, backbone.columns

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = load_auto_tokenizer(self._at.files.tokenizer, self._spec.trust_remote_code)
        if self._at.files.settings.lower:
            lowercase_first(tokenizer.backend_tokenizer)
        return tokenizer

    @cached_property
    def _tokenizer_of_lists(self) -> Any:
        tokenizer = load_auto_tokenizer(self._at.files.tokenizer, self._spec.trust_remote_code)
        space_first(tokenizer.backend_tokenizer)
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        return loaded_plainly(self._at.files, self._device)

    def embed(self, texts: Sequence[Any], dims: Mapping[str, int]) -> dict[str, FloatArray | Ragged]:
        """Embed texts, or lists of words, None for a reject: {output.

        (texts, dim) float32, or a list for each}.
        """
        lists_of: dict[str, list[list[Vector]]] = {output.name: [] for output in self._outputs}
        for text in texts:
            missing = text is None or (not isinstance(text, str) and None in text)
            of_text = {output.name: [] for output in self._outputs} if missing else self._one(text)
            for name, vectors in of_text.items():
                lists_of[name].append(vectors)
        by_output: dict[str, FloatArray | Ragged] = {}
        for output in self._outputs:
            lists, dim = lists_of[output.name], dims[output.name]
            if self._spec.each(output) == "row":
                by_output[output.name] = np.array(
                    [of[0] if of else np.full(dim, np.nan) for of in lists], np.float32
                ).reshape(-1, dim)
            else:
                flat = np.array([vector for of in lists for vector in of], np.float32).reshape(-1, dim)
                by_output[output.name] = Ragged(
                    flat, offsets_of(np.array([len(of) for of in lists], np.int64))
                )
        return by_output

    def _one(self, text: Any) -> dict[str, list[Vector]]:
        lists = not isinstance(text, str)
        tokenizer, prompt = (
            (self._tokenizer_of_lists, "") if lists else (self._tokenizer, self._at.prompts.every)
        )
        given = list(text) if lists else prompt + text
        whole = tokenizer(
            given, is_split_into_words=lists, return_offsets_mapping=True, truncation=False, verbose=False
        )
        own = [place for place, of in enumerate(whole.sequence_ids(0)) if of == 0]
        front, behind = (
            ([], whole["input_ids"])
            if not own
            else (whole["input_ids"][: own[0]], whole["input_ids"][own[-1] + 1 :])
        )
        if not whole["input_ids"]:
            return {output.name: [] for output in self._outputs}
        spans, ids, words = whole["offset_mapping"], whole["input_ids"], whole.word_ids(0)
        before = [place for place in own if prompt and spans[place][1] <= len(prompt)]
        own = own[len(before) :]
        front = (
            front
            + [ids[place] for place in before][: len(tokenizer.encode(prompt, add_special_tokens=False))]
        )
        windows, states = [], []
        begin = 0
        while True:
            end = len(own) if self._width is None else min(len(own), begin + self._width)
            windows.append((begin, end))
            states.append(self._states([*front, *(ids[place] for place in own[begin:end]), *behind]))
            if end == len(own):
                break
            begin += self._stride
        at = {"windows": windows, "states": states, "front": len(front), "count": len(own)}
        labels = [words[place] for place in own]
        spelled = {word: self._spelled(given, spans, words, word) for word in labels}
        return {
            output.name: [self._finish(output, vector) for vector in self._of(output, at, labels, spelled)]
            for output in self._outputs
        }

    @staticmethod
    def _spelled(given: Any, spans: list[tuple[int, int]], words: list[Any], word: Any) -> str:
        """Give a word as it stands in the text, or in the list."""
        if not isinstance(given, str):
            return str(given[word]).strip()
        mine = [span for span, of in zip(spans, words, strict=True) if of == word]
        return given[min(begin for begin, _ in mine) : max(end for _, end in mine)].strip()

    def _states(self, ids: list[int]) -> Any:
        import torch

        with torch.inference_mode():
            given = torch.tensor([ids], dtype=torch.int64, device=self._device)
            inner = any(output.layer != -1 for output in self._outputs)
            return self._model(
                input_ids=given, attention_mask=torch.ones_like(given), output_hidden_states=inner
            )

    def _of(
        self, output: OutputSpec, at: Mapping[str, Any], labels: list[Any], spelled: Mapping[Any, str]
    ) -> list[Vector]:
        """Give the vectors of one text, not normalised."""
        each, windows = self._spec.each(output), at["windows"]
        if each in ("row", "window"):
            of_window = [self._pooled(output, states) for states in at["states"]]
            if each == "window":
                return of_window
            return [_joined(output.pooling, of_window, [end - begin for begin, end in windows])]
        if each == "token":
            groups = [[place] for place in range(at["count"])]
        elif each == "chunk":
            step = self._spec.chunk or 1
            groups = [
                list(range(first, min(first + step, at["count"]))) for first in range(0, at["count"], step)
            ]
        else:
            wanted = {folded(word) for word in self._spec.targets}
            kept = [
                word
                for word in dict.fromkeys(labels)
                if spelled[word] and (not wanted or folded(spelled[word]) in wanted)
            ]
            groups = [[place for place, of in enumerate(labels) if of == word] for word in kept]
        return [self._group(output, at, group) for group in groups]

    def _group(self, output: OutputSpec, at: Mapping[str, Any], group: list[int]) -> Vector:
        """Pool a stretch of tokens.

        From the window that has most context on its shorter side, or from those of its parts.
        """
        best = self._best(at, group[0], group[-1] + 1)
        runs: list[tuple[int | None, list[int]]] = [] if best is None else [(best, group)]
        if best is None:
            for token in group:
                window = self._best(at, token, token + 1)
                if runs and runs[-1][0] == window:
                    runs[-1][1].append(token)
                else:
                    runs.append((window, [token]))
        pieces = []
        for window, tokens in runs:
            first = at["front"] - at["windows"][window][0]
            hidden = layer_of(output.layer, at["states"][window])[[first + token for token in tokens]]
            mode = "cls" if output.pooling == "first" else output.pooling
            pieces.append(POOL[mode](hidden))
        return _joined(output.pooling, pieces, [len(tokens) for _, tokens in runs])

    @staticmethod
    def _best(at: Mapping[str, Any], first: int, behind: int) -> int | None:
        best, most = None, -1.0
        for place, (begin, end) in enumerate(at["windows"]):
            if begin <= first and behind <= end:
                left = float("inf") if begin == 0 else first - begin
                right = float("inf") if end == at["count"] else end - behind
                if min(left, right) > most:
                    best, most = place, min(left, right)
        return best

    def _pooled(self, output: OutputSpec, states: Any) -> Vector:
        if self._at.modules:
            import torch

            from embed_ops.encoders.text.heads import Heads

            hidden = states.last_hidden_state.cpu()
            heads = Heads(self._at.modules, self._at.files.root, "cpu")
            vector: Vector = (
                heads(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64), self._at.prompt_tokens)[0]
                .double()
                .numpy()
            )
            return vector
        return POOL[output.pooling](layer_of(output.layer, states))

    def _finish(self, output: OutputSpec, vector: Vector) -> Vector:
        from embed_ops.encoders.text.module_types import Normalize

        normal = output.normalize or (self._at.modules and isinstance(self._at.modules[-1], Normalize))
        return finished(vector, output.model_copy(update={"normalize": bool(normal)}))


def _joined(pooling: str, vectors: list[Vector], weights: list[int]) -> Vector:
    if pooling == "max":
        greatest: Vector = np.max(vectors, 0)
        return greatest
    if pooling in ("first", "last"):
        return vectors[0 if pooling == "first" else -1]
    if len(vectors) == 1:
        return vectors[0]
    counted = np.maximum(1, weights)
    joined: Vector = (
        sum(weight * vector for weight, vector in zip(counted, vectors, strict=True)) / counted.sum()
    )
    return joined
