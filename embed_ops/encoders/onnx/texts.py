"""Texts for a graph: the tokenizer, where texts are cut, and what becomes of their tokens.

Importing this module imports no torch and no onnxruntime. Legend: B inputs, T tokens of the
longest input.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, IntArray, Prepared
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.onnx.cost import Cost, cost_of
from embed_ops.encoders.onnx.files import OnnxFiles
from embed_ops.encoders.onnx.session import Batch, Session
from embed_ops.encoders.onnx.tokens import IDS, MASK, check_inputs, token_batch
from embed_ops.encoders.onnx.wiring import Measured, Wire, wire
from embed_ops.encoders.text.module_types import Dense, LayerNorm
from embed_ops.encoders.text.module_types import width as width_behind
from embed_ops.encoders.text.modules import Pipeline, read_pipeline
from embed_ops.encoders.text.positions import UNBOUNDED
from embed_ops.encoders.text.prompts import Prompts, prompt_tokens
from embed_ops.encoders.text.settings import Transformer
from embed_ops.encoders.text.tokenizer import TextTokenizer
from embed_ops.encoders.text.tokens import TOKENS, blank_tokens, distinct, prepare_texts, token_counts
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OF_TEXTS, OnnxEncoderSpec, OutputSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from embed_ops.encoders.text.heads import Heads

_TOKENIZER = "tokenizer.json"
_TRIED = "A few words, to see what the model gives."
_OFFSET = ("roberta", "camembert", "mpnet", "longformer", "xmod")
"""Models that count positions from behind the padding token's id."""


class TextInputs:
    """The tokens of texts, and the vector columns that a graph gives for them.

    Follows `inputs.Inputs`.

    Raises:
        ModelError: a part is missing, or the graph takes something else than tokens.
    """

    modality: ClassVar[str] = "text"

    def __init__(self, spec: OnnxEncoderSpec, files: OnnxFiles) -> None:
        self._spec, self._files = spec, files
        if named := ", ".join(spec.of_images):
            raise ModelError(f"{spec.model}: {named} is for images, and the file takes texts; leave it out")
        self.home = _home(files)
        check_inputs(files.file, files.graph)
        listed = read_pipeline(self.home, transformer_only=True)
        self._sentences = listed is not None
        self._settings = listed.transformer if listed else Transformer()
        self.prompts = Prompts.of(listed, spec.prompt)
        self._heads: Heads | None = None

    def prompted(self, prompt: str) -> TextInputs:
        """Give the same with another prompt: a text, or the name of one of the model's own."""
        other = copy.copy(self)
        other._spec = self._spec.model_copy(update={"prompt": prompt, "prompt_column": None, "prompts": {}})
        other.prompts = Prompts.of(read_pipeline(self.home, transformer_only=True), prompt)
        return other

    @property
    def alone(self) -> bool:
        """Whether each input goes through the graph by itself, un-padded.

        Where a graph would let its neighbours or its padding reach it.
        """
        asked = {tensor.name: tensor.shape for tensor in self._files.graph.inputs}
        one = any(shape is not None and shape[0] == 1 for shape in asked.values())
        return one or MASK not in asked or self._files.graph.quantized_together

    def prepare(self, column: pa.Array) -> Prepared:
        """Tokenize a column of texts, or of structs of a prompt and a text; each distinct one once.

        Null and non-UTF-8 rows become rejects.

        Returns:
            inputs with the column `tokens`, list<int32>; of such structs `prompt_tokens` too.

        Raises:
            SourceError: the column is not text.
        """
        encode, lengths = (partial(f, self.tokenizer) for f in (self.prompts.encode, self.prompts.lengths))
        return prepare_texts(column, encode, lengths)

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Take as many rows as are asked for: units of text are cut by their bytes."""
        return asked

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Count the tokens of each input, shape (inputs,) int32."""
        return token_counts(inputs)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace the tokens of some inputs."""
        return blank_tokens(inputs, places)

    @cached_property
    def limit(self) -> int | None:
        """Most tokens of a text, special ones included; None for no limit."""
        config = read_json(self.home / "config.json")
        told, stated = read_json(self.home / "tokenizer_config.json"), config.get("max_position_embeddings")
        positions = self._files.graph.positions or _number(stated)
        if positions is not None and any(name in str(config.get("model_type")) for name in _OFFSET):
            positions -= int(config.get("pad_token_id") or 0) + 1
        own = self._settings.max_seq_length or _number(told.get("model_max_length"))
        limits = [own, positions]
        if not any(limit and limit < UNBOUNDED for limit in limits):
            truncation: Mapping[str, Any] = self._backend.truncation or {}
            limits.append(truncation.get("max_length"))
        return min(
            (limit for limit in (self._spec.max_tokens, *limits) if limit and 0 < limit < UNBOUNDED),
            default=None,
        )

    @cached_property
    def _backend(self) -> Tokenizer:
        from tokenizers import Tokenizer

        file = self.home / _TOKENIZER
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # what tokenizers raises has no class of its own
            raise ModelError(
                f"{file}: the tokenizer can't be read ({error}); save it again with its model"
            ) from error

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, which cuts at the limit."""
        return TextTokenizer(self.home, self.limit, self._settings.lower, False, given=self._backend)

    @property
    def _prompt_tokens(self) -> int:
        """Count the tokens of the prompt; modules that pool without it leave them out."""
        return self.tokenizer.prompt_length(self.prompts.every)

    @cached_property
    def _filler(self) -> int:
        """The id that fills rows up."""
        stated = read_json(self.home / "config.json").get("pad_token_id")
        return stated if isinstance(stated, int) and stated >= 0 else 0

    def batches(self, inputs: pa.Table) -> Iterator[Batch]:
        """Give ids and mask, (B, T) int64, of all inputs, or of one after the other."""
        from embed_ops.encoders.text.transformer import pad

        for part in (inputs.slice(row, 1) for row in range(len(inputs))) if self.alone else [inputs]:
            ids, mask = pad(part.column(TOKENS), self._filler)
            yield token_batch(ids.numpy(), mask.numpy(), prompt_tokens(part, self._prompt_tokens))

    def tried(self) -> tuple[Batch, Batch]:
        """Give a text, once without its last token."""
        ids = np.array([self.tokenizer.encode([_TRIED]).values], np.int64)
        return token_batch(ids[:, :-1]), token_batch(ids)

    def trial(self) -> pa.Table:
        """Give the inputs of one text, to see what the loaded graph gives."""
        ids = self.tried()[1].feeds[IDS]
        return pa.table({TOKENS: pa.chunked_array([pa.array(ids.tolist(), pa.list_(pa.int32()))])})

    def wire(self, column: OutputSpec, measured: Measured) -> Wire:
        """Choose the tensor of a column.

        Raises:
            ModelError: as `wiring.wire`.
        """
        files = self._files
        return wire(column, files.file, files.graph, measured, OF_TEXTS, self._sentences)

    def _pipeline(self, wires: Collection[Wire]) -> Pipeline | None:
        """Give what stands behind the transformer, where a column is what it gives."""
        return read_pipeline(self.home) if any(each.way == "modules" for each in wires) else None

    def _modules(self, wires: Collection[Wire]) -> tuple[Any, ...]:
        pipeline = self._pipeline(wires)
        return pipeline.modules if pipeline else ()

    def width(self, wire: Wire) -> int:
        """Give the width of a column's vectors before they are shortened."""
        return width_behind(self._modules([wire]), wire.width) if wire.way == "modules" else wire.width

    def begin(self, wires: Collection[Wire]) -> None:
        """Load the modules behind the transformer, where a column is what they give."""
        if modules := self._modules(wires):
            from embed_ops.encoders.text.heads import Heads

            self._heads = Heads(modules, self.home, "cpu")

    def pooled(self, wire: Wire, hidden: Tensor, batch: Batch) -> Tensor:
        """Make one vector a row of a tensor of the graph: (B, dim) float32.

        Raises:
            ModelError: it has another shape than was expected.
        """
        import torch

        from embed_ops.encoders.text.pooling import pool

        mask = torch.from_numpy(batch.feeds[MASK])
        expected = (*mask.shape[: 1 if wire.way == "as it is" else 2], wire.width)
        if hidden.shape != expected:
            raise ModelError(
                f"{self._files.file}: {wire.tensor} has the shape {tuple(hidden.shape)} for {batch.shown}, "
                f"and {expected} was expected; name another tensor"
            )
        if wire.way == "pooled":
            return pool(wire.column.pooling, hidden, mask)
        if wire.way == "modules" and self._heads is not None:
            return self._heads(hidden, mask, batch.prompts)
        return hidden

    def flops(self, lengths: IntArray) -> float | None:
        """Count the operations of texts of these lengths; None where the graph does not tell."""
        return self._cost.flops(lengths) if self._cost else None

    @cached_property
    def _cost(self) -> Cost | None:
        return cost_of(self._files.graph)

    def one_by_one(
        self, session: Session, wires: Collection[Wire], column: pa.Array, dims: Mapping[str, int]
    ) -> dict[str, FloatArray]:
        """Embed rows one at a time, un-padded: {output: (rows, dim) float32}, NaN for rejects."""
        from embed_ops.encoders.onnx.reference import embed_texts

        texts = distinct(column)
        self.begin(wires)
        rows: list[Batch | None] = []
        for text in texts.texts:
            ids = self.prompts.encode(self.tokenizer, [text]).values
            before = self.tokenizer.prompt_length(self.prompts.before(text))
            rows.append(token_batch(np.array([ids], np.int64), prompts=before) if len(ids) else None)
        return texts.to_rows(embed_texts(session, wires, rows, self._heads), dims)

    def hashed(self, wires: Collection[Wire]) -> dict[str, Path]:
        """Name the files of the modules behind the transformer, {name: file}."""
        pipeline = self._pipeline(wires)
        if pipeline is None:
            return {}
        weighted = [module.path for module in pipeline.modules if isinstance(module, Dense | LayerNorm)]
        patterns: list[tuple[str, tuple[str, ...]]] = [(part, ("*.json",)) for part in pipeline.folders]
        patterns += [(part, ("*.safetensors", "*.bin")) for part in weighted]
        return {
            file.relative_to(self.home).as_posix(): file
            for part, kinds in patterns
            for kind in kinds
            for file in (self.home / part).glob(kind)
        }

    def told(self, wires: Collection[Wire]) -> dict[str, Any]:
        """Say what becomes of a text, for `run.json`."""
        modules = [repr(module) for module in self._modules(wires)]
        return {"max_tokens": self.limit, **self.prompts.told(self._spec), "modules": modules}


def _home(files: OnnxFiles) -> Path:
    """Find the folder with the tokenizer and the configurations.

    Raises:
        ModelError: there is none.
    """
    home = files.beside((_TOKENIZER,))
    if home is None:
        raise ModelError(
            f"{files.file}: no {_TOKENIZER} beside it, nor in {files.file.absolute().parent.parent}; save "
            "the model's tokenizer there (AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER))"
        )
    return home


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
