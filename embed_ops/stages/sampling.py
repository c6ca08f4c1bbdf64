"""Draws that depend on seed, purpose and row alone, and the sample of a run that they choose.

A generator would draw by the order of the rows it is asked for; a hash of the row's index does not
care who asks, and when.
"""

from __future__ import annotations

import numpy as np

from embed_ops.numerics.hashing import splitmix64, uniform
from embed_ops.numerics.tiles import Ints, Vectors
from embed_ops.stages.base import SHARDS

SAMPLE_TAG, ORDER_TAG = 1, 2


def collect(x: Vectors, ids: Ints, total: int, rows: int, seed: int) -> tuple[Vectors, Ints, Ints]:
    """Choose the rows of a sample, and put them into the order that it has.

    Args:
        x: (rows, dim) vectors.
        ids: (rows,) their global row indexes.
        total: rows of the run.
        rows: about how many rows of the run the sample is to have.
        seed: of the run.

    Returns:
        chosen vectors and ids, ordered by shard and by hash in it, and the rows of each shard
        (SHARDS,).
    """
    chosen = np.flatnonzero(uniform(seed, SAMPLE_TAG, ids) < rows / total)
    order, sizes = shard_order(ids[chosen], seed)
    return x[chosen[order]], ids[chosen[order]], sizes


def shard_order(ids: Ints, seed: int) -> tuple[Ints, Ints]:
    """Order rows of a sample by hash, and so by shard.

    The order as indexes (rows,), and the rows of each shard (SHARDS,).
    """
    drawn = splitmix64(seed, ORDER_TAG, ids)
    shards = (drawn >> np.uint64(64 - SHARDS.bit_length() + 1)).astype(np.int64)
    return np.argsort(drawn, kind="stable"), np.bincount(shards, minlength=SHARDS).astype(np.int64)


def shard_slices(begin: int, rows: int | None, size: int) -> list[tuple[int, int]]:
    """List the stretches of a shard that a round reads: from `begin` on, around its end."""
    if size == 0:
        return []
    if rows is None or rows >= size:
        return [(0, size)]
    begin %= size
    end = begin + rows
    return [(begin, end)] if end <= size else [(begin, size), (0, end - size)]
