"""The section `[fit]` of a spec, for `fit-graph`: how weights of a graph model are trained."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FitSpec(BaseModel):
    """How GraphSAGE weights are trained."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    hidden_channels: int = Field(64, gt=0, description="width of the layers")
    out_channels: int = Field(64, gt=0, description="width of the vectors")
    num_layers: int = Field(2, gt=0, description="layers: how many steps a node sees")
    aggr: str = Field("mean", description="mean, sum or max of neighbours")
    steps: int = Field(150, gt=0, description="training steps, each over the whole graph")
    learning_rate: float = Field(0.005, gt=0, description="of Adam")
    negatives: int = Field(1, gt=0, description="nodes drawn for each edge")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of the edges held out, to measure")
    max_nodes: int = Field(
        200_000, gt=1, description="train on a part that grows from some nodes where the graph has more"
    )
    seed: int = Field(0, ge=0, description="of everything that draws")
