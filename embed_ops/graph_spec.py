"""The fields of `[source]` that describe a graph: two tables, nodes and edges."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from embed_ops.wording import Names, Section

GRAPH = "graph"


class GraphFields(Section):
    """Two partitioned tables, Parquet or CSV by the names of their files; every field is for `kind = "graph"` alone."""

    nodes: str | Names | None = Field(None, description="graph: the node table, a row for each node; as path")
    edges: str | Names | None = Field(None, description="graph: the edge table, a row for each edge; as path")
    id: str = Field("id", min_length=1, description="graph: node column of ids, integers or strings; kept in the output")
    features: str | Names = Field("x", description="graph: node column of vectors, or several columns of numbers")
    features_run: str | None = Field(None, description="graph: a finished run that kept the ids; its rows are the nodes, instead of nodes")
    src: str = Field("src", min_length=1, description="graph: edge column of the ids that send")
    dst: str = Field("dst", min_length=1, description="graph: edge column of the ids that receive")
    weight: str | None = Field(None, description="graph: edge column of weights, for GCN")
    edge_features: Names = Field((), description="graph: edge columns of numbers, or one of vectors, for GAT with edge_dim")
    undirected: bool = Field(False, description="graph: let every edge count in both directions; a loop counts once")
    on_missing: Literal["error", "drop"] = Field(
        "error", description="graph: an edge to a node that is not there: exit 2, or left out and counted"
    )
    fanout: int | None = Field(None, gt=0, description="graph: at most so many in-edges of a node, chosen by a hash of seed and ends")

    @model_validator(mode="before")
    @classmethod
    def _nodes_are_the_path(cls, tree: Any) -> Any:
        """Let the node table be what the run reads."""
        if not isinstance(tree, dict) or tree.get("kind") != GRAPH or "path" in tree:
            return tree
        ids = tree.get("id", "id")
        kept = tree.get("keep", ())
        tree = {**tree, "keep": (ids, *(name for name in kept if name != ids)), "modality": "node"}
        given = [name for name in ("nodes", "features_run") if tree.get(name)]
        if len(given) != 1:
            raise ValueError("a graph needs exactly one of nodes and features_run")
        if given == ["nodes"]:
            return {**tree, "path": tree["nodes"]}
        return {**tree, "path": f"{str(tree['features_run']).rstrip('/')}/data", "features": tree.get("features", "embedding")}

    @model_validator(mode="after")
    def _of_a_graph(self) -> Self:
        graph = getattr(self, "kind", None) == GRAPH
        given = [name for name, field in GraphFields.model_fields.items() if getattr(self, name) != field.default]
        if not graph and given:
            raise ValueError(f'{given[0]} is for kind = "graph"')
        if graph and not self.edges:
            raise ValueError("a graph needs edges: the table of its edges")
        for name in ("column", "template", "limit") if graph else ():
            if getattr(self, name, None) is not None:
                raise ValueError(
                    f"{name} is not for graphs: nodes have id and features" + ("; choose rows by where" if name == "limit" else "")
                )
        if graph and getattr(self, "on_change", "error") != "error":
            raise ValueError("on_change is not for graphs: one changed node changes the vectors of others; choose another sink.path")
        if graph and self.src == self.dst:
            raise ValueError(f"src and dst are the same column {self.src!r}")
        return self

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The node columns that are features."""
        return (self.features,) if isinstance(self.features, str) else self.features

    @property
    def edge_paths(self) -> tuple[str, ...]:
        """The roots of the edge table, in order."""
        return (self.edges,) if isinstance(self.edges, str) else self.edges or ()

    @property
    def edge_columns(self) -> tuple[str, ...]:
        """The edge columns that are read."""
        return (self.src, self.dst, *((self.weight,) if self.weight else ()), *self.edge_features)
