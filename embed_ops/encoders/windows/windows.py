"""Long texts in overlapping windows, and which window speaks for a part of a text. Pure.

Legend: texts, tokens of a text without special ones, windows of all texts in order, parts (words,
tokens, chunks). A window that is cut off at the end of its text is shorter; the others are `width`
tokens, and begin `stride` tokens apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.ragged import Places, offsets_of, runs

_ENDLESS = np.iinfo(np.int64).max // 2
"""Context on the side where the text itself ends."""


@dataclass(frozen=True)
class Windows:
    """The windows of texts.

    Attributes:
        counts: (texts,) tokens of each text.
        width: tokens of a window, None where texts are not cut.
        stride: tokens from one window to the next.
        text: (windows,) the text of each; `begin` and `end`: the tokens of its text that it holds.
        first: (texts + 1,) the first window of each text.
    """

    counts: Places
    width: int | None
    stride: int
    text: Places
    begin: Places
    end: Places
    first: Places

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64], width: int | None, stride: int) -> Windows:
        """Cut texts of so many tokens each; a text without tokens has one window without tokens."""
        number = (
            np.ones(len(counts), np.int64)
            if width is None
            else np.maximum(0, -((width - counts) // stride)) + 1
        )
        text = np.repeat(np.arange(len(counts)), number)
        begin = runs(np.zeros(len(counts), np.int64), number) * stride
        end = counts[text] if width is None else np.minimum(counts[text], begin + width)
        return cls(counts, width, stride, text, begin, end, offsets_of(number))

    def best(self, text: Places, begin: Places, end: Places) -> Places:
        """Find for each part the window that gives it most context: (parts,), -1 for none.

        A part is its text, first token and token behind.

        Context is the shorter of the two sides; where the text ends on one, the other. The first of
        equals.
        """
        best, most = np.full(len(text), -1, np.int64), np.full(len(text), -1, np.int64)
        if self.width is None:
            return self.first[:-1][text]
        last = np.minimum(begin // self.stride, self.first[1:][text] - self.first[:-1][text] - 1)
        for back in range(-(-self.width // self.stride) + 1):
            number = last - back
            window = self.first[:-1][text] + np.maximum(0, number)
            left = np.where(number == 0, _ENDLESS, begin - self.begin[window])
            right = np.where(self.end[window] == self.counts[text], _ENDLESS, self.end[window] - end)
            # A later window is looked at first, and gives way to an earlier one of equal context.
            better = (number >= 0) & (self.end[window] >= end) & (np.minimum(left, right) >= most)
            most, best = np.where(better, np.minimum(left, right), most), np.where(better, window, best)
        return best


@dataclass(frozen=True)
class Pieces:
    """Stretches of windows, in the order of windows.

    A part that no window holds whole is several pieces.

    Attributes:
        window: (pieces,) where each is; `begin` and `end`: its tokens, counted from the window's
            first.
        part: (pieces,) the part that each belongs to, counted in its text.
    """

    window: Places
    begin: Places
    end: Places
    part: Places


def pieces_of(windows: Windows, text: Places, begin: Places, end: Places) -> Pieces:
    """Find the pieces of parts, in the order of texts.

    Of each part its text, first token and token behind are given, (parts,) each.
    """
    part = runs(np.zeros(len(windows.counts), np.int64), np.bincount(text, minlength=len(windows.counts)))
    window = windows.best(text, begin, end)
    split = np.flatnonzero(window < 0)
    if len(split):
        # Each token goes to its own best window; neighbours in the same one stay together.
        lengths = (end - begin)[split]
        of, token = np.repeat(split, lengths), runs(begin[split], lengths)
        at = windows.best(text[of], token, token + 1)
        new = np.flatnonzero(np.r_[True, (np.diff(of) != 0) | (np.diff(at) != 0)])
        behind = np.r_[new[1:], len(of)] - 1
        whole = window >= 0
        window = np.concatenate([window[whole], at[new]])
        begin = np.concatenate([begin[whole], token[new]])
        end = np.concatenate([end[whole], token[behind] + 1])
        part = np.concatenate([part[whole], part[of[new]]])
    order = np.lexsort((begin, part, window))
    window, begin, end, part = window[order], begin[order], end[order], part[order]
    return Pieces(window, begin - windows.begin[window], end - windows.begin[window], part)
