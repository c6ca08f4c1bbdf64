"""The fields of `[source]` that describe a graph: two tables, nodes and edges."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from embed_ops.schema import GRAPH
from embed_ops.spec.wording import Names, Section


class GraphFields(Section):
    """Two partitioned tables, Parquet or CSV by the names of their files.

    Every field is for `kind = "graph"` alone.
    """

    nodes: str | Names | None = Field(None, description="graph: the node table, a row for each node; as path")
    edges: str | Names | None = Field(None, description="graph: the edge table, a row for each edge; as path")
    id: str = Field(
        "id", min_length=1, description="graph: node column of ids, integers or strings; kept in the output"
    )
    features: str | Names = Field(
        "x", description="graph: node column of vectors, or several columns of numbers"
    )
    features_run: str | None = Field(
        None, description="graph: a finished run that kept the ids; its rows are the nodes, instead of nodes"
    )
    src: str = Field("src", min_length=1, description="graph: edge column of the ids that send")
    dst: str = Field("dst", min_length=1, description="graph: edge column of the ids that receive")
    weight: str | None = Field(None, description="graph: edge column of weights, for GCN")
    edge_features: Names = Field(
        (), description="graph: edge columns of numbers, or one of vectors, for GAT with edge_dim"
    )
    undirected: bool = Field(
        False, description="graph: let every edge count in both directions; a loop counts once"
    )
    on_missing: Literal["error", "drop"] = Field(
        "error", description="graph: an edge to a node that is not there: exit 2, or left out and counted"
    )
    fanout: int | None = Field(
        None, gt=0, description="graph: at most so many in-edges of a node, chosen by a hash of seed and ends"
    )

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
        return {
            **tree,
            "path": f"{str(tree['features_run']).rstrip('/')}/data",
            "features": tree.get("features", "embedding"),
        }

    @model_validator(mode="after")
    def _of_a_graph(self) -> Self:
        graph = getattr(self, "kind", None) == GRAPH
        given = [
            name for name, field in GraphFields.model_fields.items() if getattr(self, name) != field.default
        ]
        if not graph and given:
            raise ValueError(f'{given[0]} is for kind = "graph"')
        if graph and not self.edges:
            raise ValueError("a graph needs edges: the table of its edges")
        for name in ("column", "template", "limit") if graph else ():
            if getattr(self, name, None) is not None:
                raise ValueError(
                    f"{name} is not for graphs: nodes have id and features"
                    + ("; choose rows by where" if name == "limit" else "")
                )
        if graph and getattr(self, "on_change", "error") != "error":
            raise ValueError(
                "on_change is not for graphs: one changed node changes the vectors of others; choose "
                "another sink.path"
            )
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


class SourceSpec(GraphFields):
    """Where the rows come from."""

    kind: Literal["parquet", "jsonl", "csv", "text", "images", "webdataset", "graph"] = Field(
        "parquet", description="format of the files"
    )
    path: str | Names = Field(
        description="folder, glob, file, or a list of them; local or any pyarrow/fsspec address"
    )
    column: str | None = Field(
        None,
        description="column of texts, or of images (their bytes, a path, or a URI); dotted for a nested "
        "field; webdataset: a member",
    )
    modality: Literal["text", "words", "image", "node", "edge"] = Field(
        "text",
        description="what the column holds; by default what the encoder embeds; words: lists of words, "
        "for family words",
    )
    template: str | None = Field(
        None, description='several columns in one text: "{title}. {body}"; instead of column'
    )
    keep: Names = Field((), description="source columns copied to the output")
    where: str | None = Field(
        None, description="SQL condition on the columns; other rows are counted, not embedded"
    )
    limit: int | None = Field(None, gt=0, description="only the first rows of the corpus, in file order")
    types: dict[str, str] = Field(
        {}, description="Arrow types of JSONL or CSV columns that are kept or tested, by name"
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="CSV field separator; by default from the name"
    )
    on_change: Literal["error", "re-embed"] = Field(
        "error", description="what to do when a source file has changed since the plan"
    )

    @model_validator(mode="after")
    def _content(self) -> Self:
        if self.kind == "text":
            if self.column or self.template or self.keep:
                raise ValueError("text files have lines, not columns: leave column, template and keep out")
        elif self.kind == "images":
            if self.column or self.template:
                raise ValueError("an image file is one image: leave column and template out")
        elif self.kind == "webdataset":
            if self.template:
                raise ValueError("template is for columns of text: name a member by column instead")
        elif self.kind != GRAPH and (self.column is None) == (self.template is None):
            raise ValueError("name exactly one of column and template")
        return self

    @model_validator(mode="after")
    def _held(self) -> Self:
        if self.modality == "image" and (self.template or self.kind == "text"):
            raise ValueError("there are no images in templates and lines of text: name a column")
        if self.modality == "words" and (self.template or self.kind not in ("parquet", "jsonl")):
            raise ValueError(
                "lists of words come from a column of Parquet or JSONL files, without a template"
            )
        if self.modality == "text" and (
            self.kind == "images" or (self.kind == "webdataset" and self.column is None)
        ):
            raise ValueError(
                "these are images, and the encoder embeds texts: choose encoder.family image or clip"
            )
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("keep names a column twice")
        if not self.paths or not all(self.paths):
            raise ValueError("path is empty: give a folder, a glob, a file, or a list of them")
        if self.delimiter is not None and self.delimiter in '\r\n"':
            raise ValueError(
                f"delimiter is {self.delimiter!r}, which ends or quotes fields of every CSV file"
            )
        return self

    @property
    def contents(self) -> str:
        """The column that is embedded, where no template is."""
        return self.column or self.modality

    @property
    def paths(self) -> tuple[str, ...]:
        """The source roots, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path
