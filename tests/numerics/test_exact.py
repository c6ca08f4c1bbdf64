"""The sums that decide: every term once, close to the exact sum, for any width and blocks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from embed_ops.numerics import exact


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 8, 31, 100, 384])
def test_every_term_is_added_once(width: int) -> None:
    """Sums of powers of two are exact; all others are within the bound of pairwise summation."""
    powers = 2.0 ** (np.arange(width)[None] % 50)
    assert exact.row_sums(powers).tolist() == [math.fsum(powers[0])]
    terms = np.random.default_rng(width).standard_normal((200, width))
    for found, row in zip(exact.row_sums(terms.copy()), terms, strict=True):
        bound = (math.ceil(math.log2(width)) + 1) * 2.0**-53 * math.fsum(np.abs(row))
        assert abs(found - math.fsum(row)) <= bound


def test_pairs_in_blocks_are_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks change no bit of products, distances and norms."""
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((30, 11)).astype(np.float32), draw.standard_normal((20, 11))
    one, other = draw.integers(0, 30, 500), draw.integers(0, 20, 500)
    whole = [
        exact.dots(left, one, right, other),
        exact.squared_distances(left, one, right, other),
        exact.squared_norms(left),
    ]
    monkeypatch.setattr(exact, "_TERMS", 40)
    parts = [
        exact.dots(left, one, right, other),
        exact.squared_distances(left, one, right, other),
        exact.squared_norms(left),
    ]
    for mine, theirs in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(
        whole[0],
        [left[i].astype(float) @ right[j] for i, j in zip(one, other, strict=True)],
        rtol=1e-12,
        atol=1e-14,
    )
    np.testing.assert_allclose(whole[1], ((left[one] - right[other]) ** 2).sum(axis=1), rtol=1e-13)


def test_order_and_rank() -> None:
    """Candidates come by group, the greatest score first, of equal ones the lower place.

    None is no error.
    """
    draw = np.random.default_rng(1)
    group, place, score = (
        draw.integers(0, 40, 900),
        draw.permutation(900),
        draw.integers(0, 5, 900).astype(np.float64),
    )
    order, rank = exact.ranked(group, place, score)
    np.testing.assert_array_equal(order, np.lexsort((place, -score, group)))
    for one in range(40):
        assert rank[group[order] == one].tolist() == list(range(int((group == one).sum())))
    none = np.empty(0, np.int64)
    assert [len(part) for part in exact.ranked(none, none, np.empty(0))] == [0, 0]


def test_products_are_within_their_bound() -> None:
    """A float32 product is wrong by less than its bound, also where nearly everything cancels."""
    draw = np.random.default_rng(2)
    for dim in (1, 8, 384):
        x, y = draw.standard_normal((2, 60, dim)).astype(np.float32)
        y[:, dim // 2 :] = -y[:, : dim - dim // 2]
        error = exact.product_error(dim, np.float32) * exact.norms_of(x) * exact.norms_of(y)
        for row, other, found, bound in zip(x, y, (x * y).sum(axis=1, dtype=np.float32), error, strict=True):
            true = sum(
                (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, other, strict=True)),
                Fraction(0),
            )
            assert abs(float(Fraction(float(found)) - true)) <= bound
