"""What outputs have vectors for, of segmented texts.

Windows, chunks, words and tokens, and the columns that tell which they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.text.tokens import TOKENS
from embed_ops.encoders.windows.segments import Segmented, trimmed
from embed_ops.encoders.windows.windows import Pieces, Windows, pieces_of
from embed_ops.numerics.ragged import offsets_of
from embed_ops.spec.encoder import COMPANIONS, LanguageEncoderSpec

LISTED = ("word", "token", "chunk")
"""Kinds of which a window has any number; of rows and windows it has one."""
BEGIN, END, PART = "_begin", "_end", "_part"
"""Behind the kind's name: list columns of the inputs. Tokens of the window, the special ones too;
which part of the text."""
DOCUMENT, TEXT_TOKENS = "document", "text_tokens"
"""Columns of the inputs: the distinct text of each window, and its tokens without special ones and
prompt."""
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Parts:
    """The parts of one kind.

    Attributes:
        pieces: of the parts in windows; None where the parts are the windows themselves.
        beside: columns beside the vectors.
    """

    pieces: Pieces | None
    beside: Mapping[str, pa.ListArray]


class Targets:
    """Words to keep, whatever their case and the punctuation around them."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = {folded(word) for word in words}

    def mask(self, words: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tell which are among them: (words,)."""
        return np.array([folded(word) in self._words for word in words], np.bool_)


def folded(word: str) -> str:
    """Give what two spellings of a word have in common.

    A word of punctuation alone stays as it is.
    """
    plain = word.casefold()
    return _EDGES.sub("", plain) or plain


def parts_of(kind: str, texts: Sequence[Segmented], windows: Windows, spec: LanguageEncoderSpec) -> Parts:
    """Find the parts of texts of one kind."""
    stretches = (
        [_OF_KIND[kind](text, spec) for text in texts] if kind != "window" else _windows(texts, windows)
    )
    counts = np.array([len(columns[0]) for _, _, columns in stretches], np.int64)
    beside = {}
    for place, name in enumerate(COMPANIONS[kind]):
        values = [columns[place] for _, _, columns in stretches]
        strings = name == kind
        flat = (
            pa.array([word for part in values for word in part], pa.string())
            if strings
            else pa.array(_join(values), pa.int32())
        )
        beside[name] = pa.ListArray.from_arrays(pa.array(offsets_of(counts), pa.int32()), flat)
    if kind == "window":
        return Parts(None, beside)
    of_text = np.repeat(np.arange(len(texts)), counts)
    return Parts(
        pieces_of(
            windows,
            of_text,
            _join([begin for begin, _, _ in stretches]),
            _join([end for _, end, _ in stretches]),
        ),
        beside,
    )


_Stretches = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Sequence[Any]]
"""Of one text: first token and token behind of each part, and the columns beside."""


def _words(text: Segmented, spec: LanguageEncoderSpec) -> _Stretches:
    first, behind, begin, end, number = text.words()
    words = [text.text[one:other] for one, other in zip(begin.tolist(), end.tolist(), strict=True)]
    if spec.targets:
        mask = Targets(spec.targets).mask(words)
        first, behind, begin, end, number = (values[mask] for values in (first, behind, begin, end, number))
        words = [word for word, kept in zip(words, mask.tolist(), strict=True) if kept]
    return first, behind, (words, number, begin, end, behind - first)


def _tokens(text: Segmented, spec: LanguageEncoderSpec) -> _Stretches:
    place = np.arange(len(text.ids))
    return place, place + 1, (text.pieces, text.begin, text.end)


def _chunks(text: Segmented, spec: LanguageEncoderSpec) -> _Stretches:
    first = np.arange(0, len(text.ids), spec.chunk)
    behind = np.minimum(first + (spec.chunk or 1), len(text.ids))
    begin, end = trimmed(text.text, *_characters(text, first, behind))
    return first, behind, (begin, end, behind - first)


_OF_KIND: Mapping[str, Callable[[Segmented, LanguageEncoderSpec], _Stretches]] = {
    "word": _words,
    "token": _tokens,
    "chunk": _chunks,
}


def _windows(texts: Sequence[Segmented], windows: Windows) -> list[_Stretches]:
    stretches: list[_Stretches] = []
    for place, text in enumerate(texts):
        mine = slice(windows.first[place], windows.first[place + 1])
        first, behind = windows.begin[mine], windows.end[mine]
        begin, end = _characters(text, first, behind)
        stretches.append((first, behind, (begin, end, behind - first)))
    return stretches


def _characters(
    text: Segmented, first: npt.NDArray[np.int64], behind: npt.NDArray[np.int64]
) -> tuple[Any, Any]:
    """Give the characters of stretches of tokens.

    From where the first begins to where the token behind the last does.

    What no token stands for belongs to the stretch before it, at the start of a text to the first:
    nothing is left out.
    """
    starts = np.r_[np.maximum.accumulate(text.begin), len(text.text)].astype(np.int64)
    starts[0] = 0
    return starts[first], starts[behind] if len(text.ids) else np.full(len(behind), len(text.text))


def _join(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.concatenate(values).astype(np.int64) if values else np.zeros(0, np.int64)


def inputs_of(
    texts: Sequence[Segmented],
    windows: Windows,
    parts: Mapping[str, Parts],
    special: tuple[list[int], list[int]],
    prompt_tokens: int,
    *,
    whole: bool,
) -> pa.Table:
    """Make the inputs: a row for each window, but for those in which nothing is asked for.

    Args:
        texts: of a column.
        windows: of the texts.
        parts: by kind.
        special: ids in front of and behind every window.
        prompt_tokens: most tokens of the prompt, which stands in every window.
        whole: each window is needed, since whole texts have a vector.
    """
    pieces = {kind: part.pieces for kind, part in parts.items() if part.pieces is not None}
    number = np.arange(len(windows.text))
    keep = np.ones(len(number), np.bool_)
    if not whole and "window" not in parts:
        keep = np.isin(number, np.concatenate([piece.window for piece in pieces.values()]))
    ids = []
    for place in number[keep].tolist():
        text = texts[windows.text[place]]
        middle = text.ids[windows.begin[place] : windows.end[place]]
        ids.append(np.r_[special[0], text.prompt[:prompt_tokens], middle, special[1]].astype(np.int32))
    columns = {
        TOKENS: _lists(
            np.array([len(part) for part in ids], np.int64),
            np.concatenate(ids) if ids else np.zeros(0, np.int32),
        ),
        DOCUMENT: pa.array(windows.text[keep], pa.int32()),
        TEXT_TOKENS: pa.array((windows.end - windows.begin)[keep], pa.int32()),
    }
    before = len(special[0]) + np.array([min(prompt_tokens, len(text.prompt)) for text in texts], np.int64)
    for kind, piece in pieces.items():
        counts = np.bincount(piece.window, minlength=len(number))[keep]
        shift = before[windows.text[piece.window]]
        columns |= {
            kind + BEGIN: _lists(counts, piece.begin + shift),
            kind + END: _lists(counts, piece.end + shift),
            kind + PART: _lists(counts, piece.part),
        }
    return pa.table(columns)


def _lists(counts: npt.NDArray[np.integer[Any]], values: npt.NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets_of(counts), pa.int32()), pa.array(values, pa.int32()))
