"""What several kinds of sources have in the spec, and what is asked of any of them."""

from __future__ import annotations

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from embed_ops.spec.wording import Names, Variant

MOST_FETCHED_BYTES = 64 << 20
"""Most bytes of a file that a row names, whatever the spec says: a record has no more."""

LISTED = {"words": "words", "tensor": "numbers"}
"""What the lists of a column hold, by modality."""


class SourceSpec(Variant):
    """What every kind has.

    Attributes:
        HAS_LISTS: whether a column may hold lists, of words or of numbers.
    """

    CHOICE = "kind"
    NOUN = "kind of source"
    HAS_LISTS: ClassVar[bool] = False

    kind: str = Field(description="format of the files")
    path: str | Names = Field(
        description="folder, glob, file, or a list of them; local or any pyarrow/fsspec address"
    )
    modality: Literal["text", "words", "image", "tensor", "node", "edge"] = Field(
        "text",
        description="what the column holds; by default what the encoder embeds; words: lists of words, "
        "for family words; tensor: lists of numbers",
    )
    keep: Names = Field((), description="source columns copied to the output")
    where: str | None = Field(
        None, description="SQL condition on the columns; other rows are counted, not embedded"
    )
    types: dict[str, str] = Field(
        {}, description="Arrow types of columns that are kept or tested, by name, as int64 or list<string>"
    )

    @model_validator(mode="after")
    def _lists_have_a_column(self) -> Self:
        if self.modality in LISTED and (self.joined or not self.HAS_LISTS):
            raise ValueError(
                f"lists of {LISTED[self.modality]} come from a column of Parquet or JSONL files, without a "
                "template"
            )
        return self

    @model_validator(mode="after")
    def _a_column_is_kept_once(self) -> Self:
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("keep names a column twice")
        return self

    @model_validator(mode="after")
    def _a_path_is_given(self) -> Self:
        if not self.paths or not all(self.paths):
            raise ValueError("path is empty: give a folder, a glob, a file, or a list of them")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The source roots, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def contents(self) -> str:
        """The column that is embedded, where no template is."""
        return self.modality

    @property
    def joined(self) -> str | None:
        """The template that makes one text of several columns."""
        return None

    @property
    def most_rows(self) -> int | None:
        """Only so many first rows of the corpus are read."""
        return None

    @property
    def takes_changes(self) -> bool:
        """Whether a file that has changed since the plan is embedded again, and is no error."""
        return False

    def strict(self) -> Self:
        """Give the same section, with a changed file as an error."""
        return self


class RowsSourceSpec(SourceSpec):
    """What all kinds have whose rows do not depend on each other: all but graphs."""

    limit: int | None = Field(None, gt=0, description="only the first rows of the corpus, in file order")
    on_change: Literal["error", "re-embed"] = Field(
        "error", description="what to do when a source file has changed since the plan"
    )

    @property
    def most_rows(self) -> int | None:
        """Only so many first rows of the corpus are read."""
        return self.limit

    @property
    def takes_changes(self) -> bool:
        """Whether a file that has changed since the plan is embedded again, and is no error."""
        return self.on_change == "re-embed"

    def strict(self) -> Self:
        """Give the same section, with a changed file as an error."""
        return self.model_copy(update={"on_change": "error"})


class ReferringSourceSpec(RowsSourceSpec):
    """What kinds have whose rows may name the files of their images."""

    schemes: Names = Field(
        (),
        description="of images: the schemes of addresses that rows may name, as file, s3, https; by default "
        "that of path",
    )
    outside_root: bool = Field(
        False,
        description="of images: rows may name files outside of path, and hosts inside of a network",
    )
    fetch_seconds: float = Field(
        30.0, gt=0, description="of images: seconds that one try to fetch a file by http may take"
    )
    fetch_bytes: int = Field(
        MOST_FETCHED_BYTES,
        gt=0,
        le=MOST_FETCHED_BYTES,
        description="of images: most bytes of a file that a row names",
    )

    @model_validator(mode="after")
    def _schemes_are_bare(self) -> Self:
        for scheme in self.schemes:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
                raise ValueError(f"schemes has {scheme!r}: write the word before ://, as https")
        return self


class TableSourceSpec(ReferringSourceSpec):
    """What files of rows and columns have."""

    column: str | None = Field(
        None,
        description="column of texts, of images (their bytes, a path, or a URI), or of lists; dotted for a "
        "nested field; webdataset: a member",
    )
    template: str | None = Field(
        None, description='several columns in one text: "{title}. {body}"; instead of column'
    )

    @model_validator(mode="after")
    def _a_column_or_a_template_is_embedded(self) -> Self:
        if (self.column is None) == (self.template is None):
            raise ValueError("name exactly one of column and template")
        return self

    @model_validator(mode="after")
    def _images_have_a_column(self) -> Self:
        if self.modality == "image" and self.template:
            raise ValueError("there are no images in templates and lines of text: name a column")
        return self

    @property
    def contents(self) -> str:
        """The column that is embedded, where no template is."""
        return self.column or self.modality

    @property
    def joined(self) -> str | None:
        """The template that makes one text of several columns."""
        return self.template


class DelimitedSpec(SourceSpec):
    """What sources have that read CSV files."""

    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="CSV field separator; by default from the name"
    )

    @model_validator(mode="after")
    def _the_delimiter_ends_no_row(self) -> Self:
        if self.delimiter is not None and self.delimiter in '\r\n"':
            raise ValueError(
                f"delimiter is {self.delimiter!r}, which ends or quotes fields of every CSV file"
            )
        return self
