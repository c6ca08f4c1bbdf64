"""A model over the rows of one partition, tile by tile: arrays in, arrays out.

Every dense product is one of a whole tile, zeros behind the last row, and tiles begin at multiples
of `TILE` of a node's place: so a row's bits do not depend on how nodes are divided. They run where
the model's weights lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from embed_ops.encoders.device import on_host, to_device
from embed_ops.encoders.graph.layers import CHUNK, Edges
from embed_ops.encoders.graph.model import GraphModel
from embed_ops.encoders.graph.partition import TILE, Csr

if TYPE_CHECKING:
    from embed_ops.encoders.base import Launched

Values = npt.NDArray[Any]


def tiles(rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) row of each tile."""
    for first in range(0, rows, TILE):
        yield first, min(rows, first + TILE)


def padded(model: GraphModel, values: Values, first: int, last: int) -> torch.Tensor:
    """Give rows as a tensor of a whole tile, where the model is."""
    tile = torch.zeros((TILE, *values.shape[1:]), dtype=getattr(torch, str(values.dtype)))
    tile[: last - first] = torch.from_numpy(np.array(values[first:last]))
    return to_device(tile, model.device)


def _fill(rows: Values, of_tiles: Iterable[tuple[int, int, torch.Tensor]]) -> Values:
    """Write tiles into their rows, each while the next one computes; gives the rows."""
    waiting = None
    for first, last, tile in of_tiles:
        launched = first, last, on_host({"": tile})
        if waiting is not None:
            _write(rows, *waiting)
        waiting = launched
    if waiting is not None:
        _write(rows, *waiting)
    return rows


def _write(rows: Values, first: int, last: int, launched: Launched) -> None:
    rows[first:last] = launched()[""][: last - first]


def messages(model: GraphModel, layer: int, states: Values, degree: Values | None) -> Values:
    """Compute what nodes send in a layer: (rows, width before) -> (rows, message width)."""
    sent = np.empty((len(states), model.message_width(layer)), states.dtype)

    def of_tile(first: int, last: int) -> torch.Tensor:
        given = None if degree is None else padded(model, degree, first, last)
        return model.messages(layer, padded(model, states, first, last), given)

    with torch.inference_mode():
        return _fill(sent, ((first, last, of_tile(first, last)) for first, last in tiles(len(states))))


def aggregate(
    model: GraphModel,
    layer: int,
    halo: Values,
    csr: Csr,
    states: Values,
    own: Values | None,
    degree: Values | None,
    rows: npt.NDArray[np.bool_],
    *,
    weighted: bool,
    chunk: int = CHUNK,
) -> Values:
    """Compute the states of a layer, (rows, width).

    Tiles without a row that is asked for stay zero.

    Args:
        model: the model.
        layer: 1 to its depth.
        halo: (sources, message width), what was received, in the order of `csr.halo`.
        csr: in-edges of the rows.
        states: (rows, width before).
        own: (rows, message width) what the rows themselves send, where the layer wants that.
        degree: (rows,) where the model wants it.
        rows: those that are asked for.
        weighted: whether the first column of `csr.extra` is a weight.
        chunk: edges of one row that are summed at once.
    """
    after = np.zeros((len(states), model.width(layer)), states.dtype)
    sent = torch.from_numpy(halo).to(model.device)

    def of_tile(first: int, last: int) -> torch.Tensor:
        edges = _edges(model, csr, first, last, sent.dtype, weighted=weighted)
        given = [None if values is None else padded(model, values, first, last) for values in (own, degree)]
        return model.layer(layer, sent, edges, padded(model, states, first, last), given[0], given[1], chunk)

    with torch.inference_mode():
        asked = ((first, last) for first, last in tiles(len(states)) if rows[first:last].any())
        return _fill(after, ((first, last, of_tile(first, last)) for first, last in asked))


def _edges(
    model: GraphModel, csr: Csr, first: int, last: int, dtype: torch.dtype, *, weighted: bool
) -> Edges:
    """Cut one tile's in-edges out of a partition's."""
    begin, end = int(csr.indptr[first]), int(csr.indptr[last])
    indptr = np.full(TILE + 1, end - begin, np.int64)
    indptr[: last - first + 1] = csr.indptr[first : last + 1] - begin
    extra = torch.from_numpy(np.array(csr.extra[begin:end])).to(dtype)
    loop = None
    if weighted and model.weighted and len(csr.loop):
        loop = padded(model, np.nan_to_num(csr.loop[:, 0], nan=model.loop_weight), first, last).to(dtype)
    return Edges(
        to_device(torch.from_numpy(indptr), model.device),
        indptr.tolist(),
        to_device(torch.from_numpy(np.array(csr.col[begin:end])), model.device),
        to_device(extra[:, 0].contiguous(), model.device) if weighted and model.weighted else None,
        to_device(extra[:, int(weighted) :].contiguous(), model.device) if model.edge_dim else None,
        loop,
    )


def outputs(model: GraphModel, layers: Sequence[Values]) -> Values:
    """Put the states of all layers together: what the model gives, (rows, output width)."""
    joined = np.empty((len(layers[0]), model.out_width()), layers[0].dtype)

    def of_tile(first: int, last: int) -> torch.Tensor:
        return model.output([padded(model, states, first, last) for states in layers])

    with torch.inference_mode():
        return _fill(joined, ((first, last, of_tile(first, last)) for first, last in tiles(len(joined))))
