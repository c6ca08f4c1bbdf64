"""Text to token ids on CPU workers, with the ids that transformers' AutoTokenizer gives.

Importing transformers costs seconds and imports torch. A plain BERT tokenizer is therefore read
straight from its file (`plain_bert.py`); everything else goes through AutoTokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import BoolArray, IntArray
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.text.plain_bert import read_plain_bert
from embed_ops.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

CHUNK = 1024
"""Texts tokenized in one call: bounds the memory of the encodings, which are far larger than the
ids."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, one after the other: text i has values[offsets[i]:offsets[i + 1]].

    (texts,) bool says which were cut.
    """

    offsets: IntArray
    values: IntArray
    truncated: BoolArray


def lowercase_first(backend: Tokenizer) -> None:
    """Put a lowercase step first, as sentence-transformers does for `do_lower_case`."""
    from tokenizers import normalizers

    there: Any = backend.normalizer
    # The type stubs do not know that a Sequence can be walked.
    walk: Any = list
    steps = walk(there) if isinstance(there, normalizers.Sequence) else [] if there is None else [there]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def space_first(backend: Tokenizer) -> None:
    """Take each word of a list as behind a space, as transformers does with `add_prefix_space`."""
    from tokenizers import pre_tokenizers

    there: Any = backend.pre_tokenizer
    walk: Any = list
    for step in walk(there) if isinstance(there, pre_tokenizers.Sequence) else [there]:
        if isinstance(step, pre_tokenizers.ByteLevel):
            step.add_prefix_space = True


class TextTokenizer:
    """The tokenizer of a transformer's folder.

    Args:
        folder: the transformer's folder.
        limit: most tokens of a text, special tokens included; None for no limit.
        lower: lower the text first, as sentence-transformers does for `do_lower_case`.
        trust_remote_code: run the folder's own tokenizer code.
        direct: read tokenizer.json without transformers where that is the same.
        given: the tokenizer itself, where the model brings no other.

    Raises:
        ModelError: the tokenizer can't be loaded, or has a form that models would not understand
            here.
    """

    def __init__(
        self,
        folder: Path,
        limit: int | None,
        lower: bool,
        trust_remote_code: bool,
        direct: bool = True,
        given: Tokenizer | None = None,
    ) -> None:
        self.limit = limit
        self._folder = folder
        self._slow: Any = None
        backend = read_plain_bert(folder) if direct and given is None else given
        if backend is not None:
            config, file = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
            side = (
                config.get("truncation_side")
                or (file.get("truncation") or {}).get("direction", "right").lower()
            )
            added = backend.get_added_tokens_decoder()
            self.special = frozenset(number for number, token in added.items() if token.special)
            self.pad, self.source = backend.token_to_id("[PAD]") or 0, "tokenizer.json"
        else:
            whole = load_auto_tokenizer(folder, trust_remote_code)
            self.special, self.source, side = (
                frozenset(whole.all_special_ids),
                type(whole).__name__,
                whole.truncation_side,
            )
            self.pad = whole.pad_token_id if whole.pad_token_id is not None else 0
            backend = whole.backend_tokenizer if whole.is_fast else None
            self._slow = None if whole.is_fast else whole
            if lower and backend is None:
                raise ModelError(
                    f"{folder}: do_lower_case with the slow tokenizer {self.source} is not supported; "
                    "choose another model"
                )
        self._backend = backend
        if backend is not None:
            if lower:
                lowercase_first(backend)
            self._configure(backend, side)

    def _configure(self, backend: Tokenizer, side: str) -> None:
        """Set truncation and padding: tokenizer.json carries its own, often of a shorter length."""
        backend.no_padding()
        special = backend.num_special_tokens_to_add(False)
        if self.limit is not None and self.limit <= special:
            raise ModelError(
                f"{self._folder}: {self.limit} tokens leave no room beside {special} special tokens; "
                "raise encoder.max_tokens"
            )
        if self.limit is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(self.limit, direction=side)
        if any(backend.encode("a").type_ids):
            raise ModelError(
                f"{self._folder}: the tokenizer gives a single text token types other than 0; choose "
                "another model"
            )

    @property
    def backend(self) -> Tokenizer | None:
        """The tokenizer itself, None where it is Python code."""
        return self._backend

    def encode(self, texts: Sequence[str], prefix: str = "") -> Tokens:
        """Tokenize `prefix + text` for each text, cut to the limit; special tokens are kept."""
        lengths: list[IntArray] = []
        values: list[IntArray] = []
        cut: list[BoolArray] = []
        for start in range(0, len(texts), CHUNK):
            part = (
                [prefix + text for text in texts[start : start + CHUNK]]
                if prefix
                else list(texts[start : start + CHUNK])
            )
            ids, truncated = (
                self._encode_slow(part) if self._backend is None else self._encode_fast(self._backend, part)
            )
            lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
            values.append(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
            cut.append(truncated)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(_join(lengths, np.int32), out=offsets[1:])
        if offsets[-1] > np.iinfo(np.int32).max:
            raise ModelError(
                f"one unit has {offsets[-1]} tokens, more than an Arrow list can hold; lower "
                "resources.unit_rows"
            )
        return Tokens(offsets.astype(np.int32), _join(values, np.int32), _join(cut, np.bool_))

    def _encode_fast(self, backend: Tokenizer, texts: list[str]) -> tuple[list[list[int]], BoolArray]:
        encodings = backend.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        return ids, np.fromiter(self._cut(encodings, ids), np.bool_, len(ids))

    def _cut(self, encodings: Sequence[Encoding], ids: Sequence[list[int]]) -> Iterator[bool]:
        # A text of exactly the limit is whole, so only the overflow tells; asking for it costs, so
        # most rows are not asked.
        for encoding, row in zip(encodings, ids, strict=True):
            yield self.limit is not None and len(row) >= self.limit and len(encoding.overflowing) > 0

    def _encode_slow(self, texts: list[str]) -> tuple[list[list[int]], BoolArray]:
        whole: list[list[int]] = self._slow(texts, truncation=False, verbose=False)["input_ids"]
        truncated = np.array([self.limit is not None and len(row) > self.limit for row in whole], np.bool_)
        for row in np.flatnonzero(truncated):
            whole[row] = self._slow(texts[row], truncation=True, max_length=self.limit)["input_ids"]
        return whole, truncated

    def prompt_length(self, prompt: str) -> int:
        """Count the tokens of a prompt at the start of a text, as sentence-transformers does."""
        if not prompt:
            return 0
        ids = self.encode([prompt]).values
        return len(ids) - int(len(ids) > 0 and int(ids[-1]) in self.special)


def _join(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def load_auto_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """Load the tokenizer through transformers.

    Raises:
        ModelError: transformers can't load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # each tokenizer class fails in its own way
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder}: the tokenizer can't be loaded ({reason}); save it again with its model"
        ) from error
