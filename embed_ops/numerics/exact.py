"""Float64 sums whose order is written here: they decide where float32 products only choose.

The last bits of a matrix product name the kernel that computed it. OpenBLAS picks one by the
processor, and in some of them (Haswell, Zen: float32) a row's bits depend on its place in the tile
as well. `np.vecdot` calls such kernels too. So labels, neighbours and duplicates are found in two
steps:

    products choose    all candidates within twice `product_error` of the last rank asked for
    sums decide        `dots` or `squared_distances` of the few in doubt; ties: the lower index

Elementwise operations and square roots are rounded correctly (IEEE 754) on every processor, and
nothing else is used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.numerics import products

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TERMS = 262_144
"""Terms that are computed at once (1 or 2 MB): more would leave the cache."""


def row_sums(terms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sum each row of (rows, terms): neighbours are added, then their sums, until one is left.

    Returns:
        (rows,) of the same type.
    """
    if terms.shape[1] % 2 == 0:
        # Two terms as one complex number, whose parts are added separately: numpy is faster at
        # that.
        pairs = _halved(np.ascontiguousarray(terms).view(np.result_type(terms, np.complex64)))
        sums: npt.NDArray[Any] = pairs.real + pairs.imag
        return sums
    return _halved(terms)


def _halved(terms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    while (width := terms.shape[1]) > 1:
        halved = terms[:, 0 : width - 1 : 2] + terms[:, 1::2]
        if width % 2:
            halved[:, -1] += terms[:, -1]
        terms = halved
    return terms[:, 0]


def dots(left: npt.NDArray[Any], one: Ints, right: npt.NDArray[Any], other: Ints) -> Floats:
    """Compute the dot product of `left[one]` and `right[other]`, pair by pair: (pairs,).

    Args:
        left: (rows, dim), finite.
        one: (pairs,) rows of `left`.
        right: (others, dim), finite.
        other: (pairs,) rows of `right`.
    """
    scores = np.empty(len(one))
    for part in blocks(len(one), left.shape[1]):
        scores[part] = row_sums(_wide(left, one[part]) * _wide(right, other[part]))
    return scores


def squared_distances(left: npt.NDArray[Any], one: Ints, right: npt.NDArray[Any], other: Ints) -> Floats:
    """Compute the squared distances of `left[one]` and `right[other]`, as `dots` does: (pairs,)."""
    scores = np.empty(len(one))
    for part in blocks(len(one), left.shape[1]):
        apart = _wide(left, one[part])
        apart -= _wide(right, other[part])
        apart *= apart
        scores[part] = row_sums(apart)
    return scores


def squared_norms(x: npt.NDArray[Any]) -> Floats:
    """Compute the squared L2 norm of each row of (rows, dim): (rows,)."""
    squares = np.empty(len(x))
    for part in blocks(len(x), x.shape[1]):
        wide = x[part].astype(np.float64)
        wide *= wide
        squares[part] = row_sums(wide)
    return squares


def norms_of(x: npt.NDArray[Any]) -> Floats:
    """Compute the L2 norm of each row of (rows, dim): (rows,)."""
    return np.sqrt(squared_norms(x))


def ordered(group: Ints, place: Ints, score: Floats) -> Ints:
    """Order candidates by group (from 0), then by descending score, then by place.

    (candidates,).
    """
    order = np.argsort(group, kind="stable")
    group, place, score = group[order], place[order], score[order]
    follows = (score[1:] < score[:-1]) | ((score[1:] == score[:-1]) & (place[1:] > place[:-1]))
    # Most groups are in order as they come: only the others are sorted.
    mixed = np.zeros(group.max(initial=-1) + 1, np.bool_)
    mixed[group[1:][(group[1:] == group[:-1]) & ~follows]] = True
    some = np.flatnonzero(mixed[group])
    order[some] = order[some][np.lexsort((place[some], -score[some], group[some]))]
    return order


def ranked(group: Ints, place: Ints, score: Floats) -> tuple[Ints, Ints]:
    """Order candidates as `ordered` does, and give in that order the rank of each in its group."""
    order = ordered(group, place, score)
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    return order, np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))


def product_error(dim: int, kind: Any) -> float:
    """Bound the error of a dot product of `dim` terms, added in any order.

    It is a share of the product of the two norms.

    Higham (2002), section 3.1, and some more for the rounding of what is multiplied and of what is
    done with the product.

    Args:
        dim: terms.
        kind: float32 or float64.
    """
    return (dim + 32) * float(np.finfo(kind).eps) / 2


def kernel_name() -> str:
    """Name what matrix products run on, such as "openblas Haswell"; with a GPU "torch cuda" too."""
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = {
        f"{library['internal_api']} {library.get('architecture') or ''}".strip() for library in libraries
    }
    if (device := products.device()) is not None:
        names.add(f"torch {device}")
    return ", ".join(sorted(names))


def _wide(x: npt.NDArray[Any], rows: Ints) -> Floats:
    return x.take(rows, axis=0).astype(np.float64, copy=False)


def blocks(rows: int, dim: int) -> Iterator[slice]:
    """Cut rows into blocks of about as many terms as stay in the cache."""
    step = max(1, _TERMS // max(1, dim))
    return (slice(first, first + step) for first in range(0, rows, step))
