"""The section `[source]` of the spec: where the rows come from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from embed_ops.graph_spec import GRAPH, GraphFields
from embed_ops.wording import Names


class SourceSpec(GraphFields):
    """Where the rows come from."""

    kind: Literal["parquet", "jsonl", "csv", "text", "images", "webdataset", "graph"] = Field("parquet", description="format of the files")
    path: str | Names = Field(description="folder, glob, file, or a list of them; local or any pyarrow/fsspec address")
    column: str | None = Field(
        None, description="column of texts, or of images (their bytes, a path, or a URI); dotted for a nested field; webdataset: a member"
    )
    modality: Literal["text", "words", "image", "node", "edge"] = Field(
        "text", description="what the column holds; by default what the encoder embeds; words: lists of words, for family words"
    )
    template: str | None = Field(None, description='several columns in one text: "{title}. {body}"; instead of column')
    keep: Names = Field((), description="source columns copied to the output")
    where: str | None = Field(None, description="SQL condition on the columns; other rows are counted, not embedded")
    limit: int | None = Field(None, gt=0, description="only the first rows of the corpus, in file order")
    types: dict[str, str] = Field({}, description="Arrow types of JSONL or CSV columns that are kept or tested, by name")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="CSV field separator; by default from the name")
    on_change: Literal["error", "re-embed"] = Field("error", description="what to do when a source file has changed since the plan")

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
            raise ValueError("lists of words come from a column of Parquet or JSONL files, without a template")
        if self.modality == "text" and (self.kind == "images" or (self.kind == "webdataset" and self.column is None)):
            raise ValueError("these are images, and the encoder embeds texts: choose encoder.family image or clip")
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("keep names a column twice")
        if not self.paths or not all(self.paths):
            raise ValueError("path is empty: give a folder, a glob, a file, or a list of them")
        if self.delimiter is not None and self.delimiter in '\r\n"':
            raise ValueError(f"delimiter is {self.delimiter!r}, which ends or quotes fields of every CSV file")
        return self

    @property
    def contents(self) -> str:
        """The column that is embedded, where no template is."""
        return self.column or self.modality

    @property
    def paths(self) -> tuple[str, ...]:
        """The source roots, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path
