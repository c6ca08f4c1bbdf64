"""Kernels over one tile of destinations, and the layers that only sum: GraphSAGE and GCN.

Legend: T = TILE destinations, U sources (the halo), E in-edges of the tile, D columns of edge
features. A row's bits depend on its own edges alone: dense products have one shape (T rows, padded
with zeros), sums run along a row's edges in their order, and everything else is element by element.
That holds for one thread of torch; with more, for a row at one place of a tile. Nothing here goes
through the whole halo: every step is bounded by the tile's edges.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from embed_ops.encoders.graph.config import GcnConfig, SageConfig
from embed_ops.encoders.graph.partition import TILE

CHUNK = 1 << 20
"""Edges of one destination that are summed at once; more are merged in the order of chunks."""

Weights = Mapping[str, Tensor]
"""The weights of one layer, by their names in PyTorch Geometric 2.8."""


@dataclass(frozen=True)
class Edges:
    """In-edges of one tile, sorted by (destination, source).

    Attributes:
        indptr: (T + 1,) int64, relative to the tile's first edge.
        ends: the same as numbers, which no device has to be asked for.
        col: (E,) int64 or int32, row of the source in the halo.
        weight: (E,) model dtype; GCN's edge weights.
        attr: (E, D) model dtype; edge features of GAT and GATv2.
        loop: (T,) weight of each node's own self loop (GCN with weights); None: 1.
    """

    indptr: Tensor
    ends: Sequence[int]
    col: Tensor
    weight: Tensor | None = None
    attr: Tensor | None = None
    loop: Tensor | None = None


class Layer(Protocol):
    """What the model asks of a layer; `number` counts from 1."""

    @property
    def message_width(self) -> int:
        """Columns of what sources send."""

    @property
    def sends_input(self) -> bool:
        """Whether messages are the states themselves."""

    @property
    def uses_own(self) -> bool:
        """Whether `layer` needs the destinations' own messages."""

    def messages(self, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send: (T, width before), (T,) -> (T, message width)."""

    def layer(
        self, halo: Tensor, edges: Edges, x: Tensor, own: Tensor | None, degree: Tensor | None, chunk: int
    ) -> Tensor:
        """Compute states, (T, width).

        Shapes: `halo` (U, message width), `x` (T, width before), `own` (T, message width),
        `degree` (T,).
        """


def pieces(ends: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) destination of runs that have at most `most` edges together.

    One alone may have more.
    """
    first = 0
    while first < len(ends) - 1:
        last = max(first + 1, bisect.bisect_right(ends, ends[first] + most) - 1)
        yield first, last
        first = last


def spans(edges: Edges, first: int, last: int, most: int) -> list[tuple[int, int, Tensor]]:
    """Cut a piece into (first edge, last edge, offsets of bags).

    One, or for a long destination several at multiples of `most`.
    """
    low, high = edges.ends[first], edges.ends[last]
    if high - low <= most:
        return [(low, high, edges.indptr[first : last + 1] - low)]
    steps = [(start, min(high, start + most)) for start in range(low, high, most)]
    return [(start, end, torch.tensor([0, end - start], device=edges.indptr.device)) for start, end in steps]


def bags(mode: str, table: Tensor, index: Tensor, offsets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Reduce rows of a table: (rows, width), (n,), (bags + 1,) -> (bags, width).

    An empty bag gives 0.
    """
    offsets = offsets.to(index.dtype)
    return F.embedding_bag(
        index, table, offsets, mode=mode, include_last_offset=True, per_sample_weights=weight
    )


def aggregate(
    mode: str, table: Tensor, edges: Edges, chunk: int, weight: Tensor | None = None, *, by_edge: bool = False
) -> Tensor:
    """Reduce what each destination's edges point to: (rows, width) -> (T, width); no edges give 0.

    Args:
        mode: sum or max.
        table: messages (U, width), or with `by_edge` a row for each edge (E, width).
        edges: the tile's in-edges.
        chunk: most edges at once.
        weight: (E,) factors of a sum.
        by_edge: the table's rows are the edges themselves.
    """
    merge = torch.add if mode == "sum" else torch.maximum
    reduced = []
    for first, last in pieces(edges.ends, chunk):
        parts = []
        for low, high, offsets in spans(edges, first, last, chunk):
            index = torch.arange(low, high, device=table.device) if by_edge else edges.col[low:high]
            parts.append(bags(mode, table, index, offsets, None if weight is None else weight[low:high]))
        reduced.append(functools.reduce(merge, parts))
    return torch.cat(reduced)


def mean(table: Tensor, edges: Edges, chunk: int, *, by_edge: bool = False) -> Tensor:
    """Average what each destination's edges point to; arguments as `aggregate`."""
    total = aggregate("sum", table, edges, chunk, by_edge=by_edge)
    return total / edges.indptr.diff().clamp(min=1).to(total.dtype).unsqueeze(1)


def by_tile(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply any number of rows in tiles: (n, in), (out, in) -> (n, out)."""
    if not len(values):
        return values.new_zeros((0, len(weight)))
    padded = F.pad(values, (0, 0, 0, -len(values) % TILE))
    return torch.cat(
        [F.linear(padded[start : start + TILE], weight) for start in range(0, len(padded), TILE)]
    )[: len(values)]


@dataclass(frozen=True)
class Sage:
    """GraphSAGE: lin_l(mean, sum or max of neighbours) + lin_r(own), perhaps of unit length.

    Hamilton, Ying, Leskovec 2017.
    """

    config: SageConfig
    number: int
    weights: Weights
    uses_own = False

    @property
    def _before(self) -> bool:
        """Whether lin_l stands before the sum: where it commutes and messages become narrower."""
        return self.config.aggr != "max" and self.config.width(self.number) < self.config.width(
            self.number - 1
        )

    @property
    def sends_input(self) -> bool:
        """Whether messages are the states themselves."""
        return not self._before and not self.config.project

    @property
    def message_width(self) -> int:
        """Columns of what sources send."""
        return self.config.width(self.number if self._before else self.number - 1)

    def messages(self, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send."""
        if self.config.project:
            x = F.linear(x, self.weights["lin.weight"], self.weights["lin.bias"]).relu()
        return F.linear(x, self.weights["lin_l.weight"]) if self._before else x

    def layer(
        self, halo: Tensor, edges: Edges, x: Tensor, own: Tensor | None, degree: Tensor | None, chunk: int
    ) -> Tensor:
        """Compute states."""
        states = (
            mean(halo, edges, chunk)
            if self.config.aggr == "mean"
            else aggregate(self.config.aggr, halo, edges, chunk)
        )
        if not self._before:
            states = F.linear(states, self.weights["lin_l.weight"])
        if self.config.bias:
            states = states + self.weights["lin_l.bias"]
        if self.config.root_weight:
            states = states + F.linear(x, self.weights["lin_r.weight"])
        return F.normalize(states, dim=-1) if self.config.normalize else states


@dataclass(frozen=True)
class Gcn:
    """GCN: sum of weight * lin(x) / sqrt(degree of source * degree of destination).

    Kipf, Welling 2017.
    """

    config: GcnConfig
    number: int
    weights: Weights

    @property
    def _before(self) -> bool:
        """Whether the linear map stands before the sum: unless messages become wider."""
        return self.config.width(self.number) <= self.config.width(self.number - 1)

    @property
    def uses_own(self) -> bool:
        """Whether every node sends to itself."""
        return self.config.loops

    @property
    def sends_input(self) -> bool:
        """Whether messages are the states themselves."""
        return not self._before and not self.config.normalize

    @property
    def message_width(self) -> int:
        """Columns of what sources send."""
        return self.config.width(self.number if self._before else self.number - 1)

    def _scaled(self, values: Tensor, degree: Tensor | None) -> Tensor:
        """Divide by the root of the degree.

        A degree of 0 gives 0, as PyTorch Geometric's gcn_norm does.
        """
        if degree is None or not self.config.normalize:
            return values
        root = degree.pow(-0.5)
        return values * root.masked_fill(root == float("inf"), 0.0).unsqueeze(1)

    def messages(self, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send."""
        return self._scaled(F.linear(x, self.weights["lin.weight"]) if self._before else x, degree)

    def layer(
        self, halo: Tensor, edges: Edges, x: Tensor, own: Tensor | None, degree: Tensor | None, chunk: int
    ) -> Tensor:
        """Compute states."""
        states = aggregate("sum", halo, edges, chunk, edges.weight)
        if own is not None and self.config.loops:
            states = states + (own if edges.loop is None else own * edges.loop.unsqueeze(1))
        states = self._scaled(states, degree)
        if not self._before:
            states = F.linear(states, self.weights["lin.weight"])
        return states + self.weights["bias"] if self.config.bias else states
