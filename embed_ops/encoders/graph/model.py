"""A graph model over tiles: layers with norm and activation, jumping knowledge, the final map.

What it computes is PyTorch Geometric 2.8's `BasicGNN.forward` in evaluation mode. Weights are plain
tensors by name: a training loop may ask gradients of them and call the same methods. States are (T,
width) with T = TILE rows, zeros behind the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embed_ops.encoders.graph.attention import Gat, GatV2
from embed_ops.encoders.graph.config import GatConfig, GcnConfig, GraphConfig, SageConfig
from embed_ops.encoders.graph.layers import CHUNK, Edges, Gcn, Layer, Sage
from embed_ops.encoders.graph.nodewise import squeezed
from embed_ops.errors import ModelError

_CLASSES = {
    squeezed(name): getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__
} | {"swish": nn.SiLU}


class GraphModel:
    """A model with its weights; layers count from 1 to `depth`.

    Attributes:
        config: what config.json says.
        weights: all weights by the names of `config.shapes()`; GAT may have
            `convs.{i}.lin_dst.weight` too.
        depth: number of layers.
        in_width: columns of the nodes' features.
        drops_loops: whether self loops are taken out of the edges before: the layer adds one for
            each node itself.
        weighted: whether it reads `Edges.weight`.
        loop_weight: with weights, that of the loop of a node that has none; without, loops weigh 1.
        edge_dim: columns of `Edges.attr`.
        needs_degree: whether it wants degrees: sums of the weights of the in-edges left, and of the
            loop.

    Raises:
        ModelError: the activation can't be built.
    """

    def __init__(self, config: GraphConfig, weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, dict(weights)
        self.depth, self.in_width = config.num_layers, config.in_channels
        self.drops_loops = (isinstance(config, GatConfig) and config.add_self_loops) or (
            isinstance(config, GcnConfig) and config.loops
        )
        self.weighted = isinstance(config, GcnConfig)
        self.loop_weight = 2.0 if isinstance(config, GcnConfig) and config.improved else 1.0
        self.edge_dim = config.edge_dim if isinstance(config, GatConfig) else None
        self.needs_degree = isinstance(config, GcnConfig) and config.normalize
        self._layers = [
            _layer(config, number, _under(self.weights, f"convs.{number - 1}."))
            for number in range(1, self.depth + 1)
        ]
        self._activation = _activation(config, self.weights)

    @property
    def device(self) -> torch.device:
        """Where its weights lie, and its layers run."""
        return next(iter(self.weights.values())).device

    def width(self, layer: int) -> int:
        """Give the columns of a layer's states; layer 0 is the input."""
        return self.config.width(layer)

    def out_width(self) -> int:
        """Give the columns of the output."""
        return self.config.width(-1)

    def message_width(self, layer: int) -> int:
        """Give the columns of what sources send in a layer."""
        return self._layers[layer - 1].message_width

    def sends_input(self, layer: int) -> bool:
        """Say whether a layer's messages are its input itself."""
        return self._layers[layer - 1].sends_input

    def uses_own(self, layer: int) -> bool:
        """Say whether a layer needs the destinations' own messages."""
        return self._layers[layer - 1].uses_own

    def messages(self, layer: int, x: Tensor, degree: Tensor | None) -> Tensor:
        """Compute what nodes send in a layer: (T, width before), (T,) -> (T, message width)."""
        return self._layers[layer - 1].messages(x, degree)

    def layer(
        self,
        layer: int,
        halo: Tensor,
        edges: Edges,
        x: Tensor,
        own: Tensor | None,
        degree: Tensor | None,
        chunk: int = CHUNK,
    ) -> Tensor:
        """Compute a layer's states of a tile, norm and activation included: (T, width).

        Args:
            layer: its number.
            halo: (sources, message width), contiguous.
            edges: the tile's in-edges.
            x: (T, width before).
            own: (T, message width) where `uses_own`.
            degree: (T,) where `needs_degree`.
            chunk: most edges that are summed at once.
        """
        x = self._layers[layer - 1].layer(halo, edges, x, own, degree, chunk)
        if not self.config.acts(layer):
            return x
        if self.config.act_first:
            return self._norm(layer, self._activation(x))
        return self._activation(self._norm(layer, x))

    def _norm(self, layer: int, x: Tensor) -> Tensor:
        norm = self.config.normalization()
        if norm is None:
            return x
        weights = _under(self.weights, f"norms.{layer - 1}.")
        scale, shift = weights.get("weight"), weights.get("bias")
        if norm.kind == "layer":
            return F.layer_norm(x, (x.shape[1],), scale, shift, norm.eps)
        return F.batch_norm(x, weights["running_mean"], weights["running_var"], scale, shift, eps=norm.eps)

    def output(self, states: list[Tensor]) -> Tensor:
        """Join the states of all layers, each (T, width), to the output (T, output width).

        Without jumping knowledge the last one.
        """
        jk = self.config.jk
        if jk is None:
            return states[-1]
        joined = states[-1]
        if jk == "cat":
            joined = torch.cat(states, dim=1)
        elif jk == "max":
            joined = torch.stack(states).amax(dim=0)
        elif jk == "lstm":
            joined = self._by_lstm(states)
        return F.linear(joined, self.weights["lin.weight"], self.weights["lin.bias"])

    def _by_lstm(self, states: list[Tensor]) -> Tensor:
        """Average states by attention from a bidirectional LSTM over layers (Xu et al. 2018)."""
        weights = _under(self.weights, "jk.lstm.")
        forth = _lstm(states, weights, "_l0")
        back = _lstm(states[::-1], weights, "_l0_reverse")[::-1]
        scores = [
            F.linear(torch.cat(both, dim=1), self.weights["jk.att.weight"], self.weights["jk.att.bias"])
            for both in zip(forth, back, strict=True)
        ]
        share = torch.cat(scores, dim=1).softmax(dim=1)
        return (torch.stack(states, dim=1) * share.unsqueeze(2)).sum(dim=1)


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the weights under a prefix, and the prefix off their names."""
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def _layer(config: GraphConfig, number: int, weights: Mapping[str, Tensor]) -> Layer:
    match config:
        case SageConfig():
            return Sage(config, number, weights)
        case GatConfig(v2=True):
            return GatV2(config, number, weights)
        case GatConfig():
            return Gat(config, number, weights)
        case GcnConfig():
            return Gcn(config, number, weights)
    raise ModelError(f"{type(config).__name__} has no layers; known: GraphSAGE, GAT, GCN")


def _activation(config: GraphConfig, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Find an activation as PyTorch Geometric does.

    A class of torch.nn by its name, in any spelling.
    """
    if config.act is None:
        return lambda x: x
    options = config.act_kwargs or {}
    try:
        activation: nn.Module = _CLASSES[squeezed(config.act)](**options)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"act_kwargs: {config.act} can't be built with {options} ({error}); correct config.json"
        ) from error
    return activation if squeezed(config.act) != "prelu" else lambda x: F.prelu(x, weights["act.weight"])


def _lstm(inputs: list[Tensor], weights: Mapping[str, Tensor], end: str) -> list[Tensor]:
    """Run one direction of an LSTM, [(T, in)] -> [(T, hidden)], with gates in torch's order.

    By hand, so that every product has the shape of a tile and gradients need no module.
    """
    hidden = inputs[0].new_zeros((len(inputs[0]), weights[f"weight_hh{end}"].shape[1]))
    cell = hidden
    states = []
    for x in inputs:
        gates = F.linear(x, weights[f"weight_ih{end}"], weights[f"bias_ih{end}"])
        gates = gates + F.linear(hidden, weights[f"weight_hh{end}"], weights[f"bias_hh{end}"])
        enter, forget, new, leave = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        states.append(hidden)
    return states
