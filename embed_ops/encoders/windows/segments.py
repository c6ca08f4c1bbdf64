"""Texts, or lists of words, to tokens that know which characters and which word they come from.

Offsets count Unicode code points, as Python's slices do. A list of words stands for its words
joined by single spaces.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.text.tokenizer import TextTokenizer, space_first
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import Places, offsets_of

if TYPE_CHECKING:
    from tokenizers import Encoding

Text = str | Sequence[str]
_AT_ONCE = 1 << 18
"""Characters tokenized in one call: encodings with offsets take some hundred bytes for each."""


@dataclass(frozen=True)
class Segmented:
    """One text.

    Attributes:
        ids: (tokens,) without special tokens and without those of a prompt.
        prompt: ids of the prompt, as they were in front of this text.
        begin, end: (tokens,) characters of each token, without white space around them.
        word: (tokens,) the word that the tokenizer, or the list, puts each into.
        pieces: (tokens,) each token as the vocabulary spells it.
        text: the text, or the words joined by spaces.
    """

    ids: npt.NDArray[np.int32]
    prompt: list[int]
    begin: Places
    end: Places
    word: Places
    pieces: list[str]
    text: str

    def words(self) -> tuple[Places, Places, Places, Places, Places]:
        """Find the words; white space is none.

        Of each: first token, token behind, first character, character behind, and number.
        """
        first = np.flatnonzero(np.r_[True, np.diff(self.word) != 0])[: len(self.word)]
        behind = np.r_[first[1:], len(self.word)].astype(np.int64)[: len(first)]
        if not len(first):
            return first, behind, first, first, first
        begin, end = np.minimum.reduceat(self.begin, first), np.maximum.reduceat(self.end, first)
        begin, end = trimmed(self.text, begin, end)
        fine = begin < end
        return first[fine], behind[fine], begin[fine], end[fine], self.word[first][fine]


def trimmed(text: str, begin: Places, end: Places) -> tuple[Places, Places]:
    """Leave white space at both ends of stretches of characters out."""
    begin, end = begin.copy(), end.copy()
    for place, (first, behind) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        while first < behind and text[first].isspace():
            first += 1
        while first < behind and text[behind - 1].isspace():
            behind -= 1
        begin[place], end[place] = first, behind
    return begin, end


class Segmenter:
    """Tokenizes whole texts; `special` are the ids in front of and behind every text.

    Args:
        tokenizer: that cuts nothing.
        prompt: text in front of every text, of which no token is given; for lists of words there is
            none.
        lists: texts are lists of words.

    Raises:
        ModelError: the tokenizer is one of Python code, which knows no offsets.
    """

    def __init__(self, tokenizer: TextTokenizer, prompt: str, *, lists: bool = False) -> None:
        backend = tokenizer.backend
        if backend is None:
            raise ModelError(
                f"the tokenizer {tokenizer.source} knows no offsets: words, tokens and windows need a "
                "fast one"
            )
        self._backend, self._prompt, self._lists = backend, prompt, lists
        if lists:
            space_first(backend)
        probe = backend.encode("a")
        mask = [place is None for place in probe.sequence_ids]
        behind = len(mask) - mask[::-1].index(False) if False in mask else len(mask)
        front = mask.index(False) if False in mask else len(mask)
        self.special = probe.ids[:front], probe.ids[behind:]

    def splits_words(self) -> bool:
        """Tell whether the tokenizer splits texts to words before it splits words to tokens."""
        return self._lists or len(set(self._backend.encode("a b").word_ids) - {None}) > 1

    def prompt_length(self) -> int:
        """Count the tokens of the prompt alone."""
        return len(self._backend.encode(self._prompt, add_special_tokens=False).ids) if self._prompt else 0

    def __call__(self, texts: Sequence[Text]) -> Iterator[Segmented]:
        """Tokenize texts, a portion at a time."""
        sizes = np.cumsum([sum(map(len, text)) for text in texts]) // _AT_ONCE
        for _, portion in itertools.groupby(
            zip(sizes.tolist(), texts, strict=True), key=lambda pair: pair[0]
        ):
            given = [text for _, text in portion]
            told: list[Any] = [list(text) if self._lists else self._prompt + str(text) for text in given]
            encodings = self._backend.encode_batch(told, is_pretokenized=self._lists)
            yield from (
                self._segment(text, encoding) for text, encoding in zip(given, encodings, strict=True)
            )

    def _segment(self, text: Text, encoding: Encoding) -> Segmented:
        front, behind = len(self.special[0]), len(encoding.ids) - len(self.special[1])
        spans = np.array(encoding.offsets[front:behind], np.int64).reshape(-1, 2)
        ids = np.array(encoding.ids[front:behind], np.int32)
        word = np.array(
            [-1 if place is None else place for place in encoding.word_ids[front:behind]], np.int64
        )
        pieces = encoding.tokens[front:behind]
        prompt = 0
        if self._lists:
            starts = offsets_of(np.array([len(part) + 1 for part in text], np.int64))
            spans = spans + starts[word][:, None]
            # Some tokenizers trim a space that no list has; a word's first token begins where the
            # word does.
            first = np.r_[True, np.diff(word) != 0][: len(word)]
            spans[first, 0] = starts[word[first]]
            text = " ".join(text)
        else:
            text = str(text)
            # A token that begins in the prompt, with the space between, and ends in the text is the
            # text's.
            prompt = int((spans[:, 1] <= len(self._prompt)).sum()) if self._prompt else 0
            spans = np.maximum(spans[prompt:] - len(self._prompt), 0)
        begin, end = trimmed(text, spans[:, 0], spans[:, 1])
        return Segmented(
            ids[prompt:], ids[:prompt].tolist(), begin, end, word[prompt:], pieces[prompt:], text
        )
