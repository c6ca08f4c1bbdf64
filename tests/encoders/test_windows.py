"""Windows and pieces against plain loops over every text, and lists of vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embed_ops.encoders.windows.windows import Windows, pieces_of
from embed_ops.numerics.ragged import Ragged, offsets_of, runs


def windows_by_hand(count: int, width: int, stride: int) -> list[tuple[int, int]]:
    """Cut one text."""
    found, begin = [], 0
    while True:
        found.append((begin, min(count, begin + width)))
        if begin + width >= count:
            return found
        begin += stride


def best_by_hand(cut: list[tuple[int, int]], count: int, begin: int, end: int) -> int | None:
    """Look at every window."""
    best, most = None, -1
    for place, (first, behind) in enumerate(cut):
        if first <= begin and end <= behind:
            sides = [begin - first] * (first > 0) + [behind - end] * (behind < count)
            context = min(sides, default=1 << 60)
            if context > most:
                best, most = place, context
    return best


@pytest.mark.parametrize(("width", "stride"), [(8, 4), (8, 8), (7, 3), (5, 1), (1, 1), (6, 5)])
def test_windows_and_pieces_are_those_of_plain_loops(width: int, stride: int) -> None:
    """Every text is covered, and every part lies where a loop over all windows finds most context.

    Long parts are split.
    """
    draw = np.random.default_rng(3)
    counts = np.array([0, 1, width - 1, width, width + 1, 3 * width, *draw.integers(0, 60, 20)]).astype(
        np.int64
    )
    windows = Windows.of(counts, width, stride)
    parts: list[tuple[int, int, int]] = []
    for text, count in enumerate(counts.tolist()):
        cuts = sorted({0, count, *draw.integers(0, count + 1, draw.integers(0, 12)).tolist()})
        parts += [(text, first, behind) for first, behind in itertools.pairwise(cuts)]
    pieces = pieces_of(windows, *(np.array(column, np.int64) for column in zip(*parts, strict=True)))
    expected = []
    for text, count in enumerate(counts.tolist()):
        cut = windows_by_hand(count, width, stride)
        mine = slice(windows.first[text], windows.first[text + 1])
        assert list(zip(windows.begin[mine].tolist(), windows.end[mine].tolist(), strict=True)) == cut
        for part, (_, begin, end) in enumerate([part for part in parts if part[0] == text]):
            whole = best_by_hand(cut, count, begin, end)
            if whole is not None:
                expected.append(
                    (int(windows.first[text]) + whole, begin - cut[whole][0], end - cut[whole][0], part)
                )
                continue
            runs_of: list[list[int]] = []
            for token in range(begin, end):
                at = best_by_hand(cut, count, token, token + 1)
                assert at is not None
                if runs_of and runs_of[-1][0] == at:
                    runs_of[-1][2] = token + 1
                else:
                    runs_of.append([at, token, token + 1])
            expected += [
                (int(windows.first[text]) + at, one - cut[at][0], behind - cut[at][0], part)
                for at, one, behind in runs_of
            ]
    found = list(
        zip(
            *(column.tolist() for column in (pieces.window, pieces.begin, pieces.end, pieces.part)),
            strict=True,
        )
    )
    assert found == sorted(expected, key=lambda piece: (piece[0], piece[3], piece[1]))


def test_texts_that_are_not_cut_are_one_window() -> None:
    """Without a width every text is whole, and every part is one piece."""
    windows = Windows.of(np.array([5, 0, 900]), None, 1)
    assert windows.begin.tolist() == [0, 0, 0]
    assert windows.end.tolist() == [5, 0, 900]
    pieces = pieces_of(windows, np.array([0, 2, 2]), np.array([1, 0, 10]), np.array([5, 10, 900]))
    assert (pieces.window.tolist(), pieces.begin.tolist(), pieces.part.tolist()) == (
        [0, 2, 2],
        [1, 0, 10],
        [0, 0, 1],
    )


def test_lists_are_taken_and_thinned() -> None:
    """Rows are chosen by index, twice too, and by mask; vectors by mask.

    A row without vectors stays one.
    """
    lists = Ragged(np.arange(10).reshape(5, 2), offsets_of(np.array([2, 0, 3])))
    assert len(lists) == 3
    again = lists.take(np.array([2, 0, 2, 1]))
    assert again.offsets.tolist() == [0, 3, 5, 8, 8]
    assert again.values[:, 0].tolist() == [4, 6, 8, 0, 2, 4, 6, 8]
    assert lists.take(np.array([False, True, True])).values[:, 0].tolist() == [4, 6, 8]
    thin = lists.keep(np.array([False, True, True, False, False]))
    assert (thin.offsets.tolist(), thin.values[:, 0].tolist()) == ([0, 1, 1, 2], [2, 4])
    assert lists.all(np.array([True, False, True, True, True])).tolist() == [False, True, True]
    assert runs(np.array([4, 9, 0]), np.array([2, 0, 1])).tolist() == [4, 5, 0]
