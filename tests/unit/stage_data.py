"""Vectors that the tests of the stages share, and how a stage is fitted to them in this process."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import datasets

from embed_ops.registry import make_stage
from embed_ops.spec import parse_stage
from embed_ops.stages import rounds

Array = npt.NDArray[Any]
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def fitted(x: Array, seed: int = 0, **section: Any) -> Any:
    """Fit the stage of a section of the spec, as the cluster does but in this process, and give its model."""
    return rounds.fit(make_stage(parse_stage(section)), np.ascontiguousarray(x, np.float32), seed)


@cache
def digits() -> tuple[Array, Array]:
    """Give the digits of scikit-learn, (1797, 64) float32, and their classes."""
    x, y = datasets.load_digits(return_X_y=True)
    return x.astype(np.float32), y


@cache
def cancer() -> Array:
    """Give the breast cancer data of scikit-learn, standardised: (569, 30) float32."""
    x = datasets.load_breast_cancer().data
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


@cache
def blobs(rows: int = 6000, dim: int = 16, centers: int = 30, spread: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    """Draw isotropic blobs: (rows, dim) float32, and the blob of each row."""
    x, y = datasets.make_blobs(rows, dim, centers=centers, cluster_std=spread, random_state=seed)
    return x.astype(np.float32), y


def same_bits(left: Array, right: Array) -> bool:
    """Tell whether two arrays agree in every bit, kind and shape; -0.0 is not 0.0."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    kind = BITS[left.dtype.itemsize]
    return bool(np.array_equal(np.ascontiguousarray(left).view(kind), np.ascontiguousarray(right).view(kind)))
