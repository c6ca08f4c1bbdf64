"""The section `[source]` of the spec: where the rows come from.

`SourceSpec` has what every kind has, and answers what is asked of any of them. A class for each
kind adds its own fields; `AnySource` is what the section may be, chosen by its word `kind`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from embed_ops.spec.source_parts import (
    DelimitedSpec,
    ReferringSourceSpec,
    RowsSourceSpec,
    SourceSpec,
    TableSourceSpec,
)
from embed_ops.spec.wording import Names, chosen_by

__all__ = [
    "AnySource",
    "CsvSourceSpec",
    "DelimitedSpec",
    "GraphSourceSpec",
    "ImagesSourceSpec",
    "JsonLinesSourceSpec",
    "ParquetSourceSpec",
    "ReferringSourceSpec",
    "RowsSourceSpec",
    "SourceSpec",
    "TableSourceSpec",
    "TextSourceSpec",
    "WebDatasetSourceSpec",
]


class ParquetSourceSpec(TableSourceSpec):
    """Parquet files."""

    HAS_LISTS = True
    kind: Literal["parquet"] = Field("parquet", description="Parquet files")


class JsonLinesSourceSpec(TableSourceSpec):
    """Files with a JSON object in each line."""

    HAS_LISTS = True
    kind: Literal["jsonl"] = Field("jsonl", description="files with a JSON object in each line")


class CsvSourceSpec(TableSourceSpec, DelimitedSpec):
    """CSV files."""

    kind: Literal["csv"] = Field("csv", description="CSV files, with a line of column names")


class TextSourceSpec(RowsSourceSpec):
    """Files of text, each line a row."""

    REMARK = "text files have lines, not columns"
    kind: Literal["text"] = Field("text", description="files of text, each line a row")

    @model_validator(mode="after")
    def _lines_have_no_columns(self) -> Self:
        if self.keep:
            raise ValueError("text files have lines, not columns: leave keep out")
        if self.modality == "image":
            raise ValueError("there are no images in templates and lines of text: name a column")
        return self


class ImagesSourceSpec(RowsSourceSpec):
    """Image files, each a row."""

    REMARK = "an image file is one image"
    kind: Literal["images"] = Field("images", description="image files, each a row")

    @model_validator(mode="after")
    def _images_are_embedded(self) -> Self:
        _refuse_texts(self)
        return self


class WebDatasetSourceSpec(ReferringSourceSpec):
    """WebDataset tars, each sample a row."""

    REMARK = "a member is named by column"
    kind: Literal["webdataset"] = Field("webdataset", description="WebDataset tars, each sample a row")
    column: str | None = Field(
        None, description="member that is embedded, by its ending; by default the one image"
    )

    @model_validator(mode="after")
    def _texts_are_named(self) -> Self:
        if self.column is None:
            _refuse_texts(self)
        return self

    @property
    def contents(self) -> str:
        """The member that is embedded."""
        return self.column or self.modality


class GraphSourceSpec(DelimitedSpec):
    """Two partitioned tables, nodes and edges, Parquet or CSV by the names of their files."""

    REMARK = "nodes have id and features, and are chosen by where"
    kind: Literal["graph"] = Field("graph", description="a node table and an edge table, Parquet or CSV")
    path: str | Names = Field(description="taken from nodes or features_run: leave it out")
    nodes: str | Names | None = Field(None, description="the node table, a row for each node; as path")
    edges: str | Names = Field(description="the edge table, a row for each edge; as path")
    id: str = Field(
        "id", min_length=1, description="node column of ids, integers or strings; kept in the output"
    )
    features: str | Names = Field("x", description="node column of vectors, or several columns of numbers")
    features_run: str | None = Field(
        None, description="a finished run that kept the ids; its rows are the nodes, instead of nodes"
    )
    src: str = Field("src", min_length=1, description="edge column of the ids that send")
    dst: str = Field("dst", min_length=1, description="edge column of the ids that receive")
    weight: str | None = Field(None, description="edge column of weights, for GCN")
    edge_features: Names = Field(
        (), description="edge columns of numbers, or one of vectors, for GAT with edge_dim"
    )
    undirected: bool = Field(False, description="let every edge count in both directions; a loop counts once")
    on_missing: Literal["error", "drop"] = Field(
        "error", description="an edge to a node that is not there: exit 2, or left out and counted"
    )
    fanout: int | None = Field(
        None, gt=0, description="at most so many in-edges of a node, chosen by a hash of seed and ends"
    )

    @model_validator(mode="before")
    @classmethod
    def _nodes_are_the_path(cls, tree: Any) -> Any:
        """Let the node table be what the run reads."""
        if not isinstance(tree, dict) or "path" in tree:
            return tree
        ids = tree.get("id", "id")
        kept = tree.get("keep", ())
        tree = {**tree, "keep": (ids, *(name for name in kept if name != ids)), "modality": "node"}
        given = [name for name in ("nodes", "features_run") if tree.get(name)]
        if len(given) != 1:
            raise ValueError("a graph needs exactly one of nodes and features_run")
        if given == ["nodes"]:
            return {**tree, "path": tree["nodes"]}
        return {
            **tree,
            "path": f"{str(tree['features_run']).rstrip('/')}/data",
            "features": tree.get("features", "embedding"),
        }

    @model_validator(mode="after")
    def _edges_have_two_ends(self) -> Self:
        if not self.edge_paths or not all(self.edge_paths):
            raise ValueError("a graph needs edges: the table of its edges")
        if self.src == self.dst:
            raise ValueError(f"src and dst are the same column {self.src!r}")
        return self

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The node columns that are features."""
        return (self.features,) if isinstance(self.features, str) else self.features

    @property
    def edge_paths(self) -> tuple[str, ...]:
        """The roots of the edge table, in order."""
        return (self.edges,) if isinstance(self.edges, str) else self.edges

    @property
    def edge_columns(self) -> tuple[str, ...]:
        """The edge columns that are read."""
        return (self.src, self.dst, *((self.weight,) if self.weight else ()), *self.edge_features)


def _refuse_texts(source: SourceSpec) -> None:
    if source.modality == "text":
        raise ValueError(
            "these are images, and the encoder embeds texts: choose encoder.family image, clip, onnx or keras"
        )


AnySource = Annotated[
    Annotated[ParquetSourceSpec, Tag("parquet")]
    | Annotated[JsonLinesSourceSpec, Tag("jsonl")]
    | Annotated[CsvSourceSpec, Tag("csv")]
    | Annotated[TextSourceSpec, Tag("text")]
    | Annotated[ImagesSourceSpec, Tag("images")]
    | Annotated[WebDatasetSourceSpec, Tag("webdataset")]
    | Annotated[GraphSourceSpec, Tag("graph")],
    chosen_by("kind", "parquet"),
]
"""What the section may be."""
