"""Long texts in windows, and vectors of the windows, chunks, words and tokens of texts.

A text is one window, or several that overlap. Each window is an input of its own; what an output
has a vector for lies in one window, or in several, whose parts are put together. Importing this
module imports no torch: CPU workers call `prepare` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import (
    TEXT,
    FloatArray,
    Launched,
    Modality,
    Prepared,
    dims_of,
    no_vectors,
    pooled_by,
)
from embed_ops.encoders.text.backbone import Backbone
from embed_ops.encoders.text.module_types import Normalize
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, most_texts, token_counts
from embed_ops.encoders.windows.gathering import of_parts, of_texts, of_windows, read_lists
from embed_ops.encoders.windows.parts import BEGIN, END, LISTED, inputs_of, parts_of
from embed_ops.encoders.windows.segments import Segmenter
from embed_ops.encoders.windows.windows import Windows
from embed_ops.errors import ModelError
from embed_ops.numerics.norms import normalized
from embed_ops.numerics.ragged import Places, Ragged
from embed_ops.spec.encoder import LanguageEncoderSpec, OutputSpec

if TYPE_CHECKING:
    import torch

    from embed_ops.encoders.text.layers import Layers


class WindowedEncoder:
    """Families text and words in windows.

    Implements `embed_ops.encoders.base.Encoder` and `InWindows`.

    Raises:
        ModelError: the folder misses a part, its tokenizer knows no offsets or no words, or the
            window does not fit the model.
    """

    takes: ClassVar[Mapping[str, Modality]] = {"text": TEXT, "words": TEXT}
    most_rows = staticmethod(most_texts)
    lengths = staticmethod(token_counts)
    blank = staticmethod(blank_tokens)

    def __init__(self, spec: LanguageEncoderSpec) -> None:
        self._spec = spec
        self._backbone = at = Backbone(spec, pooled_by(spec.named, "mean"))
        # What the transformer does alike for all families of texts.
        self.outputs, self.load, self.flops = at.outputs, at.load, at.flops
        self.weight_bytes, self.fingerprint = at.weight_bytes, at.fingerprint
        self._kinds = tuple(dict.fromkeys(map(spec.each, spec.named)))
        self._segmenters: dict[bool, Segmenter] = {}
        self.window, self.stride = self._cut(self._segmenter(lists=False))
        if "word" in self._kinds and not self._segmenter(lists=False).splits_words():
            self._refused = (
                f"{spec.model}: its tokenizer splits no text to words; give lists of words "
                "(source.modality), or tokens"
            )
        else:
            self._refused = ""

    def _segmenter(self, *, lists: bool) -> Segmenter:
        if lists not in self._segmenters:
            at = self._backbone
            whole = TextTokenizer(
                at.files.tokenizer, None, at.files.settings.lower, self._spec.trust_remote_code
            )
            self._segmenters[lists] = Segmenter(whole, "" if lists else at.prompts.every, lists=lists)
        return self._segmenters[lists]

    def _cut(self, segmenter: Segmenter) -> tuple[int | None, int]:
        """Give the tokens of a window, and those from one window to the next.

        Special tokens and those of the prompt do not count.
        """
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
            `parts`); and beside them a row for each distinct text with the columns that stand
            beside lists of vectors.

        Raises:
            SourceError: the column holds neither texts nor lists of them.
            ModelError: the tokenizer knows no words.
        """
        lists = pa.types.is_list(column.type)
        if self._refused and not lists:
            raise ModelError(self._refused)
        segmenter = self._segmenter(lists=lists)
        width, stride = self._cut(segmenter)
        unique = distinct(column)
        texts = list(segmenter(unique.texts))
        if not any(segmenter.special) and {"row", "window"} & set(self._kinds):
            # Lists of words and tokens may be empty; a window without any token has no vector.
            bare = [number for number, text in enumerate(texts) if not len(text.ids) + len(text.prompt)]
            if bare:
                unique = unique.without(np.array(bare))
                texts = [text for text in texts if len(text.ids) + len(text.prompt)]
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
        return Prepared(inputs, unique.index, np.zeros(len(texts), np.bool_), unique.rejects, beside=beside)

    def counts(self, inputs: pa.Table, output: str) -> Places | None:
        """Count the vectors that each window gives to an output, (inputs,) int64.

        None: one each.
        """
        each = next(self._spec.each(column) for column in self._backbone.columns if column.name == output)
        return read_lists(inputs.column(each + BEGIN)).counts if each in LISTED else None

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch of windows.

        Returns:
            a function that waits for {output: (vectors, dim) float32}, those of each window as
            `counts` tells, not normalised.

        Raises:
            ModelError: `load` was not called.
        """
        import torch

        from embed_ops.encoders.device import on_host

        if batch.num_rows == 0:
            return no_vectors(self)
        with torch.inference_mode():
            states, mask = self._backbone.states(batch.column(TOKENS))
            return on_host(
                {column.name: self._vectors(column, batch, states, mask) for column in self._backbone.columns}
            )

    def _vectors(
        self, column: OutputSpec, batch: pa.Table, states: Mapping[int, torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        from embed_ops.encoders.text.pooling import pool, pool_pieces

        at, each = self._backbone, self._spec.each(column)
        none = ~mask.bool().any(dim=1, keepdim=True)
        if at.heads is not None:
            return at.heads(states[-1], mask, at.prompt_tokens).masked_fill(none, float("nan"))
        layers: Layers = at.layers(column)
        hidden = layers.of(states)
        if each not in LISTED:
            vectors = pool(column.pooling, hidden, mask).masked_fill(none, float("nan"))
        else:
            begin, end = (read_lists(batch.column(each + place)) for place in (BEGIN, END))
            window = np.repeat(np.arange(batch.num_rows), begin.counts)  # (pieces,)
            vectors = pool_pieces(column.pooling, hidden, window, begin.values, end.values)
        return vectors[:, : column.dim]

    def gather(
        self, inputs: pa.Table, vectors: Mapping[str, FloatArray], documents: int
    ) -> dict[str, FloatArray | Ragged]:
        """Put the vectors of windows together to those of distinct texts.

        (documents, dim), or a list for each.

        What lies in several windows has the mean of their vectors by tokens, summed in float64;
        with pooling max the greatest values, with first and last those of the first and last
        window. Normalisation comes last.
        """
        gathered: dict[str, FloatArray | Ragged] = {}
        for column in self._backbone.columns:
            each, own = self._spec.each(column), vectors[column.name]
            if each == "row":
                gathered[column.name] = self._normalized(column, of_texts(column.pooling, inputs, own))
                continue
            lists = (
                of_windows(inputs, own, documents)
                if each == "window"
                else of_parts(each, column.pooling, inputs, own, documents)
            )
            gathered[column.name] = Ragged(self._normalized(column, lists.values), lists.offsets)
        return gathered

    def _normalized(self, column: OutputSpec, vectors: FloatArray) -> FloatArray:
        modules = self._backbone.modules
        if not (column.normalize or (modules and isinstance(modules[-1], Normalize))):
            return vectors
        unit: FloatArray = normalized(vectors).astype(np.float32)
        return unit

    def reference(
        self, column: pa.Array, device: str = "cpu"
    ) -> tuple[str, Mapping[str, FloatArray | Ragged]]:
        """Embed rows one window at a time through transformers in float32.

        Returns:
            the reference's name, and {output: (rows, dim) float32, or a list for each row}; rejects
            are NaN, or have no vectors.
        """
        from embed_ops.encoders.windows.reference import WindowedReference

        at = self._backbone
        at.fetch()
        width, stride = self._cut(self._segmenter(lists=pa.types.is_list(column.type)))
        judge = WindowedReference(at, width, stride, device)
        return judge.name, judge.embed(column.to_pylist(), dims_of(self.outputs()))

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        each = {column.name: {"each": self._spec.each(column)} for column in self._backbone.columns}
        return self._backbone.describe(each) | {
            "window": self.window,
            "stride": self.stride,
            "chunk": self._spec.chunk,
        }
