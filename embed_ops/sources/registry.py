"""Which class serves which word of the spec.

Classes are named, not imported: torch loads only where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from embed_ops.sources.base import Source
    from embed_ops.spec.source import SourceSpec
from embed_ops.lazy import load_class

SOURCES = {
    "parquet": "embed_ops.sources.parquet:ParquetSource",
    "jsonl": "embed_ops.sources.lines:JsonLinesSource",
    "text": "embed_ops.sources.lines:TextSource",
    "csv": "embed_ops.sources.csv:CsvSource",
    "images": "embed_ops.sources.images:ImagesSource",
    "webdataset": "embed_ops.sources.webdataset:WebDatasetSource",
    "graph": "embed_ops.sources.graph:GraphSource",
}


def make_source(spec: SourceSpec, kind: str | None = None) -> Source:
    """Build the source that `source.kind` names, or one of another kind: a graph's tables are."""
    return cast("Source", load_class(SOURCES[kind or spec.kind])(spec))
