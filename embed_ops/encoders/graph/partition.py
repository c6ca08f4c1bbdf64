"""Edges to partitions: sorted chunks, ranges of destinations, the in-edges of one range as CSR.

Legend: a place is a node's number, 0 to N - 1; a tile is `TILE` places; a partition is a range of
whole tiles; its halo is the sorted places that send to it. Edges are sorted by (destination,
source, order of the edge table), so what a sum adds up, and in which order, depends on the graph
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
TILE = 1024
"""Destinations computed together, always a zero-padded (TILE, width) matrix: the shape of a product
picks its kernel and so its bits."""
_ROW_COST = 4
"""What the dense part of a row costs, in edges."""
_BUILD_BYTES = 48
"""Bytes of an edge while a partition is sorted."""
PARTITION_BYTES = 1 << 30
"""Aim for the memory of one partition's task. Half of it is what it receives and shares with the
object store. Fewer partitions exchange fewer rows: at 400,000 nodes of width 128, 4 of them are 1.8
times as fast as 24."""
MOST_PARTITIONS = 4096


@dataclass(frozen=True)
class EdgeChunk:
    """Some edges, sorted by destination.

    `dst`, `src` (edges,), `extra` (edges, columns) float32, `tiles`: first edge of each tile.
    """

    dst: Ints
    src: Ints
    extra: Floats
    tiles: Ints


def sort_chunk(src: Ints, dst: Ints, extra: Floats, nodes: int, *, undirected: bool) -> EdgeChunk:
    """Sort edges by destination; undirected ones count in both directions, loops once."""
    if undirected:
        back = np.flatnonzero(src != dst)
        src, dst, extra = (
            np.append(src, dst[back]),
            np.append(dst, src[back]),
            np.concatenate([extra, extra[back]]),
        )
    order = np.argsort(dst, kind="stable")
    dst = dst[order]
    tiles = np.searchsorted(dst, np.arange(-(-nodes // TILE) + 1, dtype=np.int64) * TILE)
    small = np.int32 if nodes < 1 << 31 else np.int64
    return EdgeChunk(dst.astype(small), src[order].astype(small), extra[order], tiles.astype(np.int64))


def partition_count(nodes: int, edges: int, widths: tuple[int, int], workers: int) -> int:
    """Choose the number of partitions.

    Some for each worker, and as many as keep a task's memory near `PARTITION_BYTES`.

    Args:
        nodes: in all.
        edges: in all, both directions counted.
        widths: greatest columns of a message, and of a node's states in and out.
        workers: tasks that run at once.
    """
    message, states = widths
    tiles = max(1, -(-nodes // TILE))
    count = min(tiles, 2 * workers)
    while count < min(tiles, MOST_PARTITIONS):
        of_edges, of_nodes = edges / count, nodes / count
        aggregate = min(of_edges, nodes) * message * 8 + of_nodes * states * 8 + of_edges * 16
        if max(of_edges * _BUILD_BYTES, aggregate) <= PARTITION_BYTES:
            break
        count += max(1, count // 8)
    return min(count, tiles, MOST_PARTITIONS)


def boundaries(in_edges: Ints, nodes: int, count: int) -> list[int]:
    """Cut the nodes into at most `count` ranges of whole tiles with about equal work.

    `in_edges`: of each tile.
    """
    cost = np.cumsum(in_edges + _ROW_COST * TILE)
    shares = cost[-1] * np.arange(1, count) / count if len(cost) else np.zeros(0)
    cuts = np.unique(np.searchsorted(cost, shares, side="left") + 1)
    ends = [int(cut) * TILE for cut in cuts if cut * TILE < nodes]
    return [0, *ends, nodes]


@dataclass(frozen=True)
class Csr:
    """In-edges of one partition.

    Attributes:
        indptr: (rows + 1,) first edge of each destination.
        col: (edges,) int32, row of the halo that sends.
        halo: sorted places that send.
        extra: (edges, columns) weight and features of each edge.
        loop: (rows, columns) those of each node's own loop, NaN where it has none; no rows unless
            loops were taken out.
    """

    indptr: Ints
    col: npt.NDArray[np.int32]
    halo: Ints
    extra: Floats
    loop: Floats


def build_csr(
    chunks: list[tuple[Ints, Ints, Floats]],
    first: int,
    last: int,
    *,
    drop_loops: bool,
    fanout: int | None,
    seed: int,
) -> Csr:
    """Sort the in-edges of destinations `first` to `last` as CSR.

    Args:
        chunks: the slices (dst, src, extra) of all chunks, in order.
        first: the first destination.
        last: the one behind the last.
        drop_loops: whether self loops are taken out of the edges.
        fanout: most in-edges of a destination, None for all.
        seed: of the hash that chooses among them.
    """
    dst = np.concatenate([chunk[0] for chunk in chunks]).astype(np.int64) - first
    src = np.concatenate([chunk[1] for chunk in chunks]).astype(np.int64)
    extra = np.concatenate([chunk[2] for chunk in chunks])
    order = np.lexsort((src, dst))
    dst, src, extra = dst[order], src[order], extra[order]
    loop = np.zeros((0, extra.shape[1]), np.float32)
    if drop_loops:
        loops = dst + first == src
        loop = np.full((last - first, extra.shape[1]), np.nan, np.float32)
        loop[dst[loops]] = extra[loops]
        dst, src, extra = dst[~loops], src[~loops], extra[~loops]
    if fanout is not None:
        kept = _sampled(dst, src, first, fanout, seed)
        dst, src, extra = dst[kept], src[kept], extra[kept]
    indptr = np.zeros(last - first + 1, np.int64)
    np.cumsum(np.bincount(dst, minlength=last - first), out=indptr[1:])
    halo, col = np.unique(src, return_inverse=True)
    return Csr(indptr, col.astype(np.int32), halo, extra, loop)


def _sampled(dst: Ints, src: Ints, first: int, fanout: int, seed: int) -> Ints:
    """Choose each destination's edges with the least hashes, in their order.

    The hash is one of (seed, source, destination).
    """
    hashes = mix(mix(src.astype(np.uint64) + np.uint64(seed)) ^ (dst + first).astype(np.uint64))
    order = np.lexsort((hashes, dst))
    starts = np.searchsorted(dst, dst)
    rank = np.empty(len(dst), np.int64)
    rank[order] = np.arange(len(dst)) - starts[order]
    return np.flatnonzero(rank < fanout)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread 64-bit numbers evenly: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def restrict(csr: Csr, rows: npt.NDArray[np.bool_]) -> Csr:
    """Keep the in-edges of some destinations only, and of the halo what sends to them."""
    degrees = np.diff(csr.indptr)
    edges = np.repeat(rows, degrees)
    used, col = np.unique(csr.col[edges], return_inverse=True)
    indptr = np.concatenate([[0], np.cumsum(np.where(rows, degrees, 0))])
    return Csr(indptr, col.astype(np.int32), csr.halo[used], csr.extra[edges], csr.loop)
