"""What a graph model's config.json says.

The arguments of PyTorch Geometric's GraphSAGE, GAT and GCN, with their names and defaults.

Needs no torch. Layers count from 1 to `num_layers`; layer 0 is the input, and -1 the model's
output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from embed_ops.encoders.graph.nodewise import ACTIVATIONS, Norm, norm_of, squeezed

AGGREGATORS = {"mean": "mean", "sum": "sum", "add": "sum", "max": "max"}


class Axis(NamedTuple):
    """One axis of a weight: its length, and the settings that it follows from."""

    size: int
    of: str


Shapes = dict[str, tuple[Axis, ...]]


class GraphConfig(BaseModel, ABC):
    """Settings that all models have."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: str
    in_channels: int = Field(gt=0, description="width of the nodes' features")
    hidden_channels: int = Field(gt=0, description="width of the hidden layers")
    num_layers: int = Field(gt=0, description="number of layers")
    out_channels: int | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, le=1)
    act: str | None = "relu"
    act_first: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm: str | None = None
    norm_kwargs: dict[str, Any] | None = None
    jk: Literal["last", "cat", "max", "lstm"] | None = None
    bias: bool = True

    @field_validator("act")
    @classmethod
    def _known_activation(cls, name: str | None) -> str | None:
        if name is not None and squeezed(name) not in ACTIVATIONS:
            raise ValueError(f"this activation is not supported; known: {', '.join(sorted(ACTIVATIONS))}")
        return name

    @model_validator(mode="after")
    def _norm_of_a_node(self) -> Self:
        self.normalization()
        return self

    def normalization(self) -> Norm | None:
        """Give the norm after hidden layers; raises a ValueError for one that needs other nodes."""
        return None if self.norm is None else norm_of(self.norm, self.norm_kwargs or {})

    def width(self, layer: int) -> int:
        """Give the columns of a layer's states."""
        return self._axis(layer).size

    def _axis(self, layer: int) -> Axis:
        if layer == 0:
            return Axis(self.in_channels, "in_channels")
        if self.out_channels is not None and (layer == -1 or (self.jk is None and layer == self.num_layers)):
            return Axis(self.out_channels, "out_channels")
        return Axis(self.hidden_channels, "hidden_channels")

    def acts(self, layer: int) -> bool:
        """Say whether norm and activation follow a layer.

        Not the last one, unless layers are joined.
        """
        return self.jk is not None or layer < self.num_layers

    @abstractmethod
    def _conv(self, layer: int) -> Shapes:
        """Give the weights of a layer's convolution; each kind of model has its own."""

    def shapes(self) -> Shapes:
        """Give all weights of the model.

        Those of PyTorch Geometric 2.8, but norms have no `module.` in their names.
        """
        shapes: Shapes = {}
        norm = self.normalization()
        names = ["weight", "bias"] if norm and norm.affine else []
        names += ["running_mean", "running_var"] if norm and norm.kind == "batch" else []
        for layer in range(1, self.num_layers + 1):
            shapes |= {f"convs.{layer - 1}.{name}": shape for name, shape in self._conv(layer).items()}
            if self.acts(layer):
                shapes |= {f"norms.{layer - 1}.{name}": (self._axis(layer),) for name in names}
        if self.act is not None and squeezed(self.act) == "prelu":
            count = (self.act_kwargs or {}).get("num_parameters", 1)
            shapes["act.weight"] = (
                Axis(count if isinstance(count, int) else 1, "act_kwargs.num_parameters"),
            )
        return shapes | self._joined()

    def _joined(self) -> Shapes:
        if self.jk is None:
            return {}
        hidden, out = self._axis(1), self._axis(-1)
        shapes: Shapes = {}
        if self.jk == "lstm":
            half = self.num_layers * hidden.size // 2
            side, gates = (
                Axis(half, "num_layers * hidden_channels / 2"),
                Axis(4 * half, "2 * num_layers * hidden_channels"),
            )
            for end in ("", "_reverse"):
                weights = {
                    "weight_ih": (gates, hidden),
                    "weight_hh": (gates, side),
                    "bias_ih": (gates,),
                    "bias_hh": (gates,),
                }
                shapes |= {f"jk.lstm.{name}_l0{end}": shape for name, shape in weights.items()}
            shapes |= {
                "jk.att.weight": (Axis(1, "jk"), Axis(2 * half, "num_layers * hidden_channels")),
                "jk.att.bias": (Axis(1, "jk"),),
            }
        wide = (
            Axis(self.num_layers * hidden.size, "num_layers * hidden_channels")
            if self.jk == "cat"
            else hidden
        )
        return shapes | {"lin.weight": (out, wide), "lin.bias": (out,)}


class SageConfig(GraphConfig):
    """GraphSAGE (Hamilton, Ying, Leskovec 2017)."""

    type: Literal["GraphSAGE"]
    aggr: str = "mean"
    normalize: bool = False
    root_weight: bool = True
    project: bool = False

    @field_validator("aggr", mode="before")
    @classmethod
    def _known_aggregator(cls, name: Any) -> Any:
        if not isinstance(name, str) or name not in AGGREGATORS:
            why = {"lstm": " (it depends on the order of neighbours)"}.get(str(name), "")
            raise ValueError(
                f"this aggregator is not supported{why}: only mean, sum and max are; choose another model"
            )
        return AGGREGATORS[name]

    def _conv(self, layer: int) -> Shapes:
        before, after = self._axis(layer - 1), self._axis(layer)
        shapes: Shapes = {"lin_l.weight": (after, before)} | ({"lin_l.bias": (after,)} if self.bias else {})
        if self.root_weight:
            shapes["lin_r.weight"] = (after, before)
        if self.project:
            shapes |= {"lin.weight": (before, before), "lin.bias": (before,)}
        return shapes


class GatConfig(GraphConfig):
    """GAT (Velickovic et al. 2018), and with `v2` GATv2 (Brody, Alon, Yahav 2022)."""

    type: Literal["GAT"]
    v2: bool = False
    heads: int = Field(1, gt=0)
    concat: bool = True
    negative_slope: float = 0.2
    add_self_loops: bool = True
    edge_dim: int | None = Field(None, gt=0)
    fill_value: float | Literal["mean"] = "mean"
    residual: bool = False
    share_weights: bool = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.share_weights and not self.v2:
            raise ValueError("share_weights is for v2: take it out, or set v2 to true")
        for layer in range(1, self.num_layers + 1):
            size, name = self._axis(layer)
            if self.concats(layer) and size % self.heads:
                raise ValueError(
                    f"{name} is {size}, which {self.heads} heads don't divide; correct heads, or set "
                    "concat to false"
                )
        return self

    def concats(self, layer: int) -> bool:
        """Say whether a layer's heads stand side by side.

        Else their mean is taken, as always in a last layer that gives the output.
        """
        return self.concat and self._axis(layer).of != "out_channels"

    def channels(self, layer: int) -> int:
        """Give the columns of one head."""
        return self.width(layer) // self.heads if self.concats(layer) else self.width(layer)

    def _conv(self, layer: int) -> Shapes:
        before, after = self._axis(layer - 1), self._axis(layer)
        wide = Axis(
            self.heads * self.channels(layer), after.of if self.concats(layer) else f"heads * {after.of}"
        )
        head = (
            Axis(1, "type"),
            Axis(self.heads, "heads"),
            Axis(self.channels(layer), f"{after.of} and heads"),
        )
        shapes: Shapes = {}
        if self.v2:
            for side in ("lin_l",) if self.share_weights else ("lin_l", "lin_r"):
                shapes |= {f"{side}.weight": (wide, before)} | (
                    {f"{side}.bias": (wide,)} if self.bias else {}
                )
            shapes["att"] = head
        else:
            shapes |= {"lin.weight": (wide, before), "att_src": head, "att_dst": head}
        if self.edge_dim is not None:
            shapes["lin_edge.weight"] = (wide, Axis(self.edge_dim, "edge_dim"))
            shapes |= {} if self.v2 else {"att_edge": head}
        if self.residual:
            shapes["res.weight"] = (after, before)
        return shapes | ({"bias": (after,)} if self.bias else {})


class GcnConfig(GraphConfig):
    """GCN (Kipf, Welling 2017)."""

    type: Literal["GCN"]
    improved: bool = False
    cached: bool = False
    add_self_loops: bool | None = None
    normalize: bool = True

    @model_validator(mode="after")
    def _loops_are_normalized(self) -> Self:
        if self.add_self_loops and not self.normalize:
            raise ValueError("add_self_loops needs normalize: set one of them to match the other")
        return self

    @property
    def loops(self) -> bool:
        """Whether every node gets a self loop: by default if weights are normalised."""
        return self.normalize if self.add_self_loops is None else self.add_self_loops

    def _conv(self, layer: int) -> Shapes:
        before, after = self._axis(layer - 1), self._axis(layer)
        return {"lin.weight": (after, before)} | ({"bias": (after,)} if self.bias else {})
