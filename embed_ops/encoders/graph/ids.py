"""Ids of nodes to places: a dictionary in buckets by hash, of which only one is held at a time.

The place of a node is the number of its row in the node table: file after file, row after row.
Where the ids are these numbers already, no dictionary is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.graph.partition import Ints

NODES_PER_BUCKET = 2_000_000
UNKNOWN, REJECTED = -1, -2
"""Instead of a place: no row has the id, or its row is a reject."""
_MOST_BUCKETS = 4096


@dataclass(frozen=True)
class Ids:
    """How ids become places.

    Attributes:
        nodes: rows of the node table.
        type: Arrow type of the ids, as text.
        buckets: of the dictionary; 0 where ids are places.
    """

    nodes: int
    type: str
    buckets: int


def bucket_count(nodes: int) -> int:
    """Choose the buckets for about so many nodes."""
    return max(1, min(_MOST_BUCKETS, -(-nodes // NODES_PER_BUCKET)))


def buckets_of(ids: pa.Array, count: int) -> Ints:
    """Give the bucket of each id, (rows,) int64; ids are not null."""
    if count == 1:
        return np.zeros(len(ids), np.int64)
    values = ids.to_numpy(zero_copy_only=False)
    hashes = pd.util.hash_array(values, categorize=False)
    return np.asarray(hashes % np.uint64(count), dtype=np.int64)


def split_by_bucket(ids: pa.Array, places: Ints, count: int) -> list[pa.RecordBatch]:
    """Divide (id, place) by bucket, a record batch each; null ids are left out."""
    held = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
    ids, places = ids.take(pa.array(held)), places[held]
    buckets = buckets_of(ids, count)
    order = np.argsort(buckets, kind="stable")
    ends = np.searchsorted(buckets[order], np.arange(count + 1))
    sorted_ids, sorted_places = ids.take(pa.array(order)), places[order]
    return [
        pa.record_batch({"id": sorted_ids[first:last], "place": pa.array(sorted_places[first:last])})
        for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


def join_bucket(batches: list[pa.RecordBatch], offsets: list[int]) -> tuple[pa.RecordBatch, Ints]:
    """Make one bucket of those of all spans, in order: the first row with an id has it.

    Args:
        batches: a bucket's (id, place in its span) of each span; the place of a reject is `-1 -
            place`.
        offsets: places that come before each span.

    Returns:
        (id, place), `REJECTED` for rejects, and the places of rows whose id an earlier row has.
    """
    places: list[Ints] = []
    dead: list[npt.NDArray[np.bool_]] = []
    for batch, offset in zip(batches, offsets, strict=True):
        local = batch.column("place").to_numpy()
        dead.append(local < 0)
        places.append(np.where(local < 0, -1 - local, local) + offset)
    ids = pa.concat_arrays([batch.column("id") for batch in batches])
    whole, rejected = np.concatenate(places), np.concatenate(dead)
    again = pd.Series(ids.to_numpy(zero_copy_only=False)).duplicated(keep="first").to_numpy()
    kept = ids.filter(pa.array(~again))
    table = pa.record_batch({"id": kept, "place": pa.array(np.where(rejected, REJECTED, whole)[~again])})
    return table, whole[again & ~rejected]


def look_up(ids: Ids, values: pa.Array, bucket: Callable[[int], pa.RecordBatch]) -> Ints:
    """Find the place of each id, (rows,) int64; `UNKNOWN` or `REJECTED` where there is none.

    Null ids are unknown.
    """
    places = np.full(len(values), UNKNOWN, np.int64)
    held = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
    values = values.take(pa.array(held)) if len(held) < len(values) else values
    if ids.buckets == 0:
        numbers = values.to_numpy()
        places[held] = np.where((numbers >= 0) & (numbers < ids.nodes), numbers, UNKNOWN)
        return places
    buckets = buckets_of(values, ids.buckets)
    for number in np.unique(buckets).tolist():
        mine = np.flatnonzero(buckets == number)
        table = bucket(number)
        indices = pc.fill_null(
            pc.index_in(values.take(pa.array(mine)), value_set=table.column("id")), -1
        ).to_numpy()
        of_bucket = np.append(table.column("place").to_numpy(), UNKNOWN)
        places[held[mine]] = of_bucket[indices]
    return places
