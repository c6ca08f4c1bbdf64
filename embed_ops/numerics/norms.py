"""Vectors of unit length, as torch's `normalize` makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.exact import norms_of

LEAST_NORM = 1e-12
"""A shorter vector is divided by this, so that one of zeros stays one."""


def finite(vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which vectors, (rows, dim), have neither NaN nor infinity in them: (rows,)."""
    fine: npt.NDArray[np.bool_] = np.isfinite(vectors).all(axis=1)
    return fine


def normalized(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Divide vectors, (..., dim), by their L2 norms; float64, and so are the sums."""
    norms = norms_of(vectors.reshape(-1, vectors.shape[-1])).reshape(*vectors.shape[:-1], 1)
    unit: npt.NDArray[np.float64] = vectors / np.maximum(norms, LEAST_NORM)
    return unit
