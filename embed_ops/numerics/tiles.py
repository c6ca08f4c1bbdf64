"""Products in tiles of a fixed height, and rows of length 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.exact import norms_of

BLOCK_ROWS = 8192
"""Rows that are summarised together."""
TILE_ROWS = 1024
"""Rows of a matrix product: always the same, the last tile padded, since the shape of a product
decides its last bits."""
Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def in_tiles(
    function: Callable[[Vectors], npt.NDArray[Any]], x: Vectors, rows: int = TILE_ROWS
) -> npt.NDArray[Any]:
    """Compute row by row results in tiles of a fixed height.

    So that a row's bits do not depend on how many rows there are.

    Nor on its place in the tile, as long as the function does not let them: float64 products do not
    (a test rolls the rows under each kernel that the processor can run), float32 products do under
    some kernels (`exact.py`). The bits still name the kernel that computed them.

    Args:
        function: of `(rows, dim)`, gives an array of `rows` rows.
        x: (any, dim).
        rows: height of a tile; the last one is padded with zeros.
    """
    parts = []
    for first in range(0, max(1, len(x)), rows):
        tile = x[first : first + rows]
        if len(tile) < rows:
            padded = np.zeros((rows, x.shape[1]), x.dtype)
            padded[: len(tile)] = tile
            parts.append(function(padded)[: len(tile)])
        else:
            parts.append(function(tile))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def product(x: npt.NDArray[Any], mean: Floats | None, matrix: Floats) -> Vectors:
    """Compute (x - mean) @ matrix as (rows, columns) float32.

    Float64 inside, since a large mean would eat the digits of a difference.

    Args:
        x: (rows, dim).
        mean: (dim,), or None where nothing is to be taken off.
        matrix: (dim, columns).
    """

    def of_tile(tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        wide = tile.astype(np.float64)
        return ((wide if mean is None else wide - mean) @ matrix).astype(np.float32)

    projected: Vectors = in_tiles(of_tile, x)
    return projected


def unit_length(x: npt.NDArray[Any]) -> Vectors:
    """Divide each row by its L2 norm, as float32, the same on every processor.

    A row of zeros stays one.
    """
    norms = norms_of(x)
    unit: Vectors = (x / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    return unit
