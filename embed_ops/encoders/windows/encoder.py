"""Long texts in windows, and vectors of the windows, chunks, words and tokens of texts.

A text is one window, or several that overlap. Each window is an input of its own; what an output
has a vector for lies in one window, or in several, whose parts are put together. Importing this
module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared, no_vectors
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.encoders.text.modules import Normalize
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, token_counts
from embed_ops.encoders.windows.parts import (
    BEGIN,
    DOCUMENT,
    END,
    LISTED,
    PART,
    TEXT_TOKENS,
    inputs_of,
    parts_of,
)
from embed_ops.encoders.windows.segments import Segmenter
from embed_ops.encoders.windows.windows import Windows
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import Places, Ragged, offsets_of
from embed_ops.spec.encoder import LanguageEncoderSpec, OutputSpec

if TYPE_CHECKING:
    import torch

    from embed_ops.encoders.text.layers import Layers

_LEAST_NORM = 1e-12


class WindowedEncoder:
    """Families text and words in windows.

    Implements `embed_ops.encoders.base.Encoder` and `InWindows`.

    Raises:
        ModelError: the folder misses a part, its tokenizer knows no offsets or no words, or the
            window does not fit the model.
    """

    def __init__(self, spec: LanguageEncoderSpec) -> None:
        self._spec = spec
        self._backbone = Backbone(spec)
        self._columns = tuple(
            column.model_copy(update={"pooling": "mean"}) if column.pooling == "auto" else column
            for column in spec.named
        )
        self._kinds = tuple(dict.fromkeys(map(spec.each, spec.named)))
        self._segmenters: dict[bool, Segmenter] = {}
        self.window, self.stride = self._cut(self._segmenter(lists=False))
        if "word" in self._kinds and not self._segmenter(lists=False).splits_words():
            self._refused = f"{spec.model}: its tokenizer splits no text to words; give lists of words (source.modality), or tokens"
        else:
            self._refused = ""

    def _segmenter(self, *, lists: bool) -> Segmenter:
        if lists not in self._segmenters:
            at = self._backbone
            whole = TextTokenizer(at.path, None, at.settings.lower, self._spec.trust_remote_code)
            self._segmenters[lists] = Segmenter(whole, "" if lists else at.prompt, lists=lists)
        return self._segmenters[lists]

    def _cut(self, segmenter: Segmenter) -> tuple[int | None, int]:
        """Give the tokens of a window without special ones and prompt, and those from one window to the next."""
        limit, asked = self._backbone.limit, self._spec.window
        if asked is not None and limit is not None and asked > limit:
            raise ModelError(
                f"{self._spec.model}: encoder.window is {asked}, and the model takes {limit} tokens; "
                "make the window smaller"
            )
        total = asked or limit
        if total is None:
            return None, 1
        width = total - sum(map(len, segmenter.special)) - segmenter.prompt_length()
        if width < 1:
            raise ModelError(
                f"{self._spec.model}: a window of {total} tokens leaves no room beside special tokens "
                "and prompt; enlarge it"
            )
        stride = self._spec.stride or max(1, width // 2)
        if stride > width:
            raise ModelError(
                f"{self._spec.model}: encoder.stride is {stride}, and a window holds {width} tokens of "
                "text: those between would be lost"
            )
        return width, stride

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize texts or lists of words, each distinct one once, and cut them to windows.

        Nulls become rejects.

        Returns:
            inputs, one for each window: `tokens`, and where the parts of its text are (see
                `parts`); and beside them a row for
            each distinct text with the columns that stand beside lists of vectors.

        Raises:
            SourceError: the column holds neither texts nor lists of them.
            ModelError: the tokenizer knows no words.
        """
        lists = pa.types.is_list(column.type)
        if self._refused and not lists:
            raise ModelError(self._refused)
        segmenter = self._segmenter(lists=lists)
        width, stride = self._cut(segmenter)
        found = distinct(column)
        texts = list(segmenter(found.texts))
        windows = Windows.of(np.array([len(text.ids) for text in texts], np.int64), width, stride)
        parts = {kind: parts_of(kind, texts, windows, self._spec) for kind in self._kinds if kind != "row"}
        inputs = inputs_of(
            texts, windows, parts, segmenter.special, segmenter.prompt_length(), whole="row" in self._kinds
        )
        beside = (
            pa.table({name: column for part in parts.values() for name, column in part.beside.items()})
            if parts
            else None
        )
        return Prepared(inputs, found.index, np.zeros(len(texts), np.bool_), found.rejects, beside=beside)

    def most_rows(self, modality: str, asked: int) -> int:
        """Take what is asked: units of text are cut by their bytes."""
        return asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Count the tokens of each window, special ones too, shape (inputs,) int32."""
        return token_counts(inputs)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace the tokens of some windows, special ones too, by the first of the vocabulary."""
        return blank_tokens(inputs, places)

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` in `dtype`; pooling and what follows it stay in float32.

        Raises:
            ModelError: weights are missing, broken or incomplete, or can't be compiled.
        """
        self._backbone.load(device, dtype, self._columns, compiled=compiled)

    def counts(self, inputs: pa.Table, output: str) -> Places | None:
        """Count the vectors that each window gives to an output, (inputs,) int64.

        None: one each.
        """
        kind = self._kind(output)
        if kind not in LISTED:
            return None
        return offsets_of_lists(inputs.column(kind + BEGIN))[1]

    def launch(self, batch: pa.Table) -> Callable[[], Mapping[str, FloatArray]]:
        """Start embedding a batch of windows.

        Returns:
            a function that waits for {output: (vectors, dim) float32}, those of each window as
            `counts` tells, not normalised.

        Raises:
            ModelError: `load` was not called.
        """
        import torch

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            states, mask = self._backbone.states(batch.column(TOKENS))
            found = {column.name: self._vectors(column, batch, states, mask) for column in self._columns}
        return lambda: {name: vectors.cpu().numpy() for name, vectors in found.items()}

    def _vectors(
        self, column: OutputSpec, batch: pa.Table, states: Mapping[int, torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        from embed_ops.encoders.text.pooling import pool, pool_pieces

        at, kind = self._backbone, self._spec.each(column)
        none = ~mask.bool().any(dim=1, keepdim=True)
        if at.heads is not None:
            return at.heads(states[-1], mask, at.prompt_tokens).masked_fill(none, float("nan"))
        layers: Layers = at.layers(column)
        hidden = layers.of(states)
        if kind in LISTED:
            begin, counts = offsets_of_lists(batch.column(kind + BEGIN))
            window = np.repeat(np.arange(batch.num_rows), counts)
            found = pool_pieces(
                column.pooling, hidden, window, begin, offsets_of_lists(batch.column(kind + END))[0]
            )
        else:
            found = pool(column.pooling, hidden, mask).masked_fill(none, float("nan"))
        return found[:, : column.dim]

    def gather(
        self, inputs: pa.Table, vectors: Mapping[str, FloatArray], documents: int
    ) -> dict[str, FloatArray | Ragged]:
        """Put the vectors of windows together to those of distinct texts.

        (documents, dim), or a list for each.

        What lies in several windows has the mean of their vectors by tokens, summed in float64;
        with pooling max the greatest values, with first and last those of the first and last
        window. Normalisation comes last.
        """
        of_window = inputs.column(DOCUMENT).to_numpy().astype(np.int64)
        found: dict[str, FloatArray | Ragged] = {}
        for column in self._columns:
            kind, values = self._spec.each(column), vectors[column.name]
            if kind == "window":
                found[column.name] = Ragged(
                    self._normalized(column, values), offsets_of(np.bincount(of_window, minlength=documents))
                )
            elif kind == "row":
                weights = np.maximum(1, inputs.column(TEXT_TOKENS).to_numpy())
                found[column.name] = self._normalized(
                    column, _joined(column.pooling, values, of_window, weights)
                )
            else:
                begin, counts = offsets_of_lists(inputs.column(kind + BEGIN))
                part, end = (
                    offsets_of_lists(inputs.column(kind + PART))[0],
                    offsets_of_lists(inputs.column(kind + END))[0],
                )
                text = np.repeat(of_window, counts)
                order = np.lexsort((part, text))
                text, part = text[order], part[order]
                new = np.flatnonzero(np.r_[True, (np.diff(text) != 0) | (np.diff(part) != 0)])[: len(text)]
                whole = np.repeat(np.arange(len(new)), np.diff(np.r_[new, len(text)]))
                joined = _joined(column.pooling, values[order], whole, (end - begin)[order])
                found[column.name] = Ragged(
                    self._normalized(column, joined),
                    offsets_of(np.bincount(text[new], minlength=documents).astype(np.int64)),
                )
        return found

    def _normalized(self, column: OutputSpec, vectors: FloatArray) -> FloatArray:
        modules = self._backbone.modules
        if not (column.normalize or (modules and isinstance(modules[-1], Normalize))):
            return vectors
        norms = np.sqrt(np.vecdot(vectors, vectors, dtype=np.float64))
        normal: FloatArray = (vectors / np.maximum(norms, _LEAST_NORM)[:, None]).astype(np.float32)
        return normal

    def _kind(self, output: str) -> str:
        return self._spec.each(self._column(output))

    def _column(self, output: str) -> OutputSpec:
        for column in self._columns:
            if column.name == output:
                return column
        raise ModelError(f"{self._spec.model}: no output {output!r}, there are {', '.join(self.outputs())}")

    def dim(self, output: str) -> int:
        """Give the width of an output's vectors.

        Raises:
            ModelError: there is no such output.
        """
        return self._backbone.dim(self._column(output))

    def outputs(self) -> tuple[str, ...]:
        """Name the vector columns, in order."""
        return tuple(column.name for column in self._columns)

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of windows of these lengths.

        Padding is not counted.
        """
        return self._backbone.flops(lengths)

    def reference(self, column: pa.Array) -> tuple[str, Mapping[str, FloatArray | Ragged]]:
        """Embed rows one window at a time through transformers in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32, or a list for each row}; rejects
            are NaN, or have no vectors.
        """
        from embed_ops.encoders.windows.reference import WindowedReference

        self._backbone.fetch()
        lists = pa.types.is_list(column.type)
        width, stride = self._cut(self._segmenter(lists=lists))
        judge = WindowedReference(self._spec, self._backbone, self._columns, width, stride)
        return judge.name, judge.embed(column.to_pylist(), {name: self.dim(name) for name in self.outputs()})

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        own = bool(self._backbone.modules)
        outputs = {
            column.name: {
                "dim": self.dim(column.name),
                "each": self._spec.each(column),
                **({} if own else column.told()),
            }
            for column in self._columns
        }
        return self._backbone.describe(outputs) | {
            "window": self.window,
            "stride": self.stride,
            "chunk": self._spec.chunk,
        }

    def weight_bytes(self) -> int:
        """Give the size of the transformer's weight files, 0 where they are not on this machine yet."""
        return self._backbone.weight_bytes()

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return self._backbone.fingerprint()


def offsets_of_lists(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Places]:
    """Give the values of a list column, one after the other, and how many each row has."""
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.int64), np.diff(
        array.offsets.to_numpy()
    ).astype(np.int64)


def _joined(pooling: str, vectors: FloatArray, of: Places, weights: npt.NDArray[Any]) -> FloatArray:
    """Join vectors that stand side by side and belong together, (vectors,) the same number each."""
    first = np.flatnonzero(np.r_[True, np.diff(of) != 0])[: len(of)]
    if len(first) == len(of):
        return vectors
    if pooling == "max":
        greatest: FloatArray = np.maximum.reduceat(vectors, first, axis=0)
        return greatest
    if pooling in ("first", "last"):
        return vectors[first if pooling == "first" else np.r_[first[1:], len(of)] - 1]
    joined = vectors[first].copy()
    several = np.flatnonzero(np.diff(np.r_[first, len(of)]) > 1)
    for place in several.tolist():
        mine = slice(first[place], first[place + 1] if place + 1 < len(first) else len(of))
        joined[place] = np.average(vectors[mine].astype(np.float64), axis=0, weights=weights[mine])
    return joined
