"""The layers that attend: GAT and GATv2, with PyTorch Geometric's softmax.

The law of `layers` holds: a row's bits are its own.

Legend: T = TILE destinations, U sources (the halo), E in-edges of the tile, H heads, C columns of a
head, D columns of edge features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from embed_ops.encoders.graph.config import GatConfig
from embed_ops.encoders.graph.layers import Edges, Weights, bags, by_tile, mean, pieces, spans
from embed_ops.encoders.graph.partition import TILE

BLOCK = 1 << 18
"""Numbers of gathered messages at once (1 MiB of float32), so that they stay in a core's cache; at
least a tile of edges."""

Scores = Callable[[int, int, Tensor], Tensor]
"""(first edge, last edge, destination of each edge) -> (edges, H) what the softmax is taken of."""


def attend(
    scores: Scores, sent: Tensor, edges: Edges, loop: tuple[Tensor, Tensor] | None, heads: int, chunk: int
) -> Tensor:
    """Average messages by the softmax of their scores: minus the maximum, 1e-16 added to the sum.

    Temporaries hold about `chunk` scores. A destination with more is passed twice: first for its
    maximum, which is exact in any order, then for sums that are merged in the order of chunks.

    Args:
        scores: gives what the softmax is taken of.
        sent: (U * H, width), a row for each source and head.
        edges: the tile's in-edges.
        loop: score (T, H) and message (T, H, width) of a self loop of each destination.
        heads: H.
        chunk: most edges at once, to be divided by H.

    Returns:
        (T, H, width); no edges and no loop give 0.
    """
    most = max(1, chunk // heads)
    attended = []
    for first, last in pieces(edges.ends, most):
        own = None if loop is None else (loop[0][first:last], loop[1][first:last])
        attended.append(
            _attend_piece(scores, sent, edges, spans(edges, first, last, most), (first, last), own)
        )
    return torch.cat(attended)


def _attend_piece(
    scores: Scores,
    sent: Tensor,
    edges: Edges,
    steps: Sequence[tuple[int, int, Tensor]],
    rows: tuple[int, int],
    loop: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Attend for a run of destinations in one step, or for one destination in several.

    (rows, H, width).
    """
    place = torch.arange(*rows, device=edges.indptr.device)

    def scored(low: int, high: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
        at = place.repeat_interleave(offsets.diff(), output_size=high - low)
        return scores(low, high, at), at - rows[0]

    kept = scored(*steps[0]) if len(steps) == 1 else None
    tops = []
    for step in steps:
        # What is subtracted does not change the result, so no gradient flows through it.
        score = (kept or scored(*step))[0].detach()
        tops.append(bags("max", score, torch.arange(len(score), device=score.device), step[2]))
    top = functools.reduce(torch.maximum, tops)
    if loop is not None:
        some = edges.indptr[rows[0] : rows[1] + 1].diff().unsqueeze(1) > 0
        top = torch.where(some, torch.maximum(top, loop[0].detach()), loop[0].detach())
    totals, sums = [], []
    for low, high, offsets in steps:
        score, at = kept or scored(low, high, offsets)
        share = (score - top[at]).exp()
        totals.append(bags("sum", share, torch.arange(high - low, device=share.device), offsets))
        sums.append(_by_head(sent, edges.col[low:high], offsets, share))
    total, weighted = functools.reduce(torch.add, totals), functools.reduce(torch.add, sums)
    if loop is not None:
        share = (loop[0] - top).exp()
        total, weighted = total + share, weighted + share.unsqueeze(2) * loop[1]
    return weighted / (total + 1e-16).unsqueeze(2)


def _by_head(sent: Tensor, col: Tensor, offsets: Tensor, share: Tensor) -> Tensor:
    """Sum messages times each head's share.

    (U * H, width), (n,), (rows + 1,), (n, H) -> (rows, H, width).
    """
    index = col.long() * share.shape[1]
    sums = [
        bags("sum", sent, index + head, offsets, share[:, head].contiguous())
        for head in range(share.shape[1])
    ]
    return torch.stack(sums, dim=1)


def _loop_attr(config: GatConfig, edges: Edges, chunk: int) -> Tensor | None:
    """Give features (T, D) to the self loops that the layer adds.

    By default the mean of each destination's in-edges.
    """
    if edges.attr is None or config.edge_dim is None:
        return None
    if isinstance(config.fill_value, float):
        return edges.attr.new_full((TILE, config.edge_dim), config.fill_value)
    return mean(edges.attr, edges, chunk, by_edge=True)


def _finish(config: GatConfig, number: int, weights: Weights, by_head: Tensor, x: Tensor) -> Tensor:
    """Join heads, (T, H, C), and add what is the destination's own: (T, width)."""
    states = by_head.flatten(1) if config.concats(number) else by_head.mean(dim=1)
    if config.residual:
        states = states + F.linear(x, weights["res.weight"])
    return states + weights["bias"] if config.bias else states


@dataclass(frozen=True)
class Gat:
    """GAT: scores a_src * W x_j + a_dst * W x_i [+ a_edge * W_e e] (Velickovic et al. 2018).

    A message is W x_j and its a_src * W x_j for each head: so a head's columns stay together, and
    the sum over edges needs no copy of the halo. With `lin_dst.weight` among the weights the
    destination has a map of its own.
    """

    config: GatConfig
    number: int
    weights: Weights
    sends_input = False
    uses_own = True

    @property
    def message_width(self) -> int:
        """Columns of what sources send."""
        return self.config.heads * (self.config.channels(self.number) + 1)

    def messages(self, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send."""
        sent = F.linear(x, self.weights["lin.weight"]).view(len(x), self.config.heads, -1)
        return torch.cat([sent, (sent * self.weights["att_src"]).sum(-1, keepdim=True)], dim=2).flatten(1)

    def layer(
        self, halo: Tensor, edges: Edges, x: Tensor, own: Tensor | None, degree: Tensor | None, chunk: int
    ) -> Tensor:
        """Compute states."""
        heads, columns = self.config.heads, self.config.channels(self.number)
        mine = (self.messages(x, None) if own is None else own).view(len(x), heads, columns + 1)
        target = mine[..., :columns]
        if "lin_dst.weight" in self.weights:
            target = F.linear(x, self.weights["lin_dst.weight"]).view(len(x), heads, columns)
        target = (target * self.weights["att_dst"]).sum(-1)
        source = halo.view(len(halo), heads, columns + 1)[..., columns]
        of_edges = self._of_edges()

        def scores(low: int, high: int, at: Tensor) -> Tensor:
            score = source.index_select(0, edges.col[low:high]) + target[at]
            if edges.attr is not None and of_edges is not None:
                score = score + by_tile(edges.attr[low:high], of_edges)
            return F.leaky_relu(score, self.config.negative_slope)

        loop = None
        if self.config.add_self_loops:
            score, attr = mine[..., columns] + target, _loop_attr(self.config, edges, chunk)
            if attr is not None and of_edges is not None:
                score = score + F.linear(attr, of_edges)
            loop = F.leaky_relu(score, self.config.negative_slope), mine
        attended = attend(scores, halo.reshape(-1, columns + 1), edges, loop, heads, chunk)
        return _finish(self.config, self.number, self.weights, attended[..., :columns], x)

    def _of_edges(self) -> Tensor | None:
        """Give the map from edge features to scores, (H, D): a_edge * W_e at once."""
        if self.config.edge_dim is None:
            return None
        att = self.weights["att_edge"][0].unsqueeze(2)
        return (self.weights["lin_edge.weight"].view(len(att), -1, self.config.edge_dim) * att).sum(1)


@dataclass(frozen=True)
class GatV2:
    """GATv2: scores att * LeakyReLU(W_l x_j + W_r x_i [+ W_e e]) (Brody, Alon, Yahav 2022).

    A message is W_l x_j.
    """

    config: GatConfig
    number: int
    weights: Weights
    sends_input = False

    @property
    def uses_own(self) -> bool:
        """Whether `layer` needs the destinations' own messages."""
        return self.config.add_self_loops or self.config.share_weights

    @property
    def message_width(self) -> int:
        """Columns of what sources send."""
        return self.config.heads * self.config.channels(self.number)

    def messages(self, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send."""
        return F.linear(x, self.weights["lin_l.weight"], self.weights.get("lin_l.bias"))

    def layer(
        self, halo: Tensor, edges: Edges, x: Tensor, own: Tensor | None, degree: Tensor | None, chunk: int
    ) -> Tensor:
        """Compute states."""
        heads = self.config.heads
        mine = self.messages(x, None) if own is None else own
        target = (
            mine
            if self.config.share_weights
            else F.linear(x, self.weights["lin_r.weight"], self.weights.get("lin_r.bias"))
        )
        rows = max(1, BLOCK // (TILE * halo.shape[1])) * TILE

        def scores(low: int, high: int, at: Tensor) -> Tensor:
            blocks = []
            for start in range(low, max(high, low + 1), rows):
                end = min(high, start + rows)
                sent = halo.index_select(0, edges.col[start:end])
                blocks.append(
                    self._score(
                        sent,
                        target[at[start - low : end - low]],
                        None if edges.attr is None else edges.attr[start:end],
                    )
                )
            return torch.cat(blocks)

        loop = None
        if self.config.add_self_loops:
            loop = (
                self._score(mine, target, _loop_attr(self.config, edges, chunk)),
                mine.view(len(x), heads, -1),
            )
        attended = attend(
            scores, halo.reshape(-1, self.config.channels(self.number)), edges, loop, heads, chunk
        )
        return _finish(self.config, self.number, self.weights, attended, x)

    def _score(self, sent: Tensor, target: Tensor, attr: Tensor | None) -> Tensor:
        """Score edges: (n, H * C), (n, H * C), (n, D) -> (n, H)."""
        both = sent + target
        if attr is not None and self.config.edge_dim is not None:
            both = both + by_tile(attr, self.weights["lin_edge.weight"])
        both = F.leaky_relu(both, self.config.negative_slope)
        return (both.view(len(both), *self.weights["att"].shape[1:]) * self.weights["att"]).sum(-1)
