"""Draws by hash: what is drawn of a row depends on its index and the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.tiles import Floats


def splitmix64(seed: int, tag: int, ids: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Draw a 64-bit number for each row, from seed, purpose and row index alone.

    SplitMix64 (Steele et al. 2014).

    Args:
        seed: of the run.
        tag: of the purpose: equal tags draw equal numbers.
        ids: (rows,) integers.
    """
    gamma, first, second = (
        np.uint64(0x9E3779B97F4A7C15),
        np.uint64(0xBF58476D1CE4E5B9),
        np.uint64(0x94D049BB133111EB),
    )

    def mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        start = mix(np.array([seed], np.uint64) * gamma + np.uint64(tag) + gamma)
        return mix(mix(ids.astype(np.uint64) * gamma + start) + gamma)


def uniform(seed: int, tag: int, ids: npt.NDArray[Any]) -> Floats:
    """Draw a number in [0, 1) for each row, from seed, purpose and row index alone."""
    drawn: Floats = (splitmix64(seed, tag, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn
