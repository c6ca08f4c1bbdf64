"""Which class serves which word of the spec. Classes are named, not imported: torch loads only where it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from embed_ops.encoders.base import Encoder
    from embed_ops.sources.base import Source
    from embed_ops.spec import EncoderSpec, SourceSpec

SOURCES = {
    "parquet": "embed_ops.sources.parquet:ParquetSource",
    "jsonl": "embed_ops.sources.lines:JsonLinesSource",
    "text": "embed_ops.sources.lines:TextSource",
    "csv": "embed_ops.sources.csv:CsvSource",
}
ENCODERS = {"text": "embed_ops.encoders.text:TextEncoder"}


def _load(name: str) -> type:
    module, _, attribute = name.partition(":")
    return cast(type, getattr(importlib.import_module(module), attribute))


def make_source(spec: SourceSpec) -> Source:
    """Build the source that `source.kind` names."""
    return cast("Source", _load(SOURCES[spec.kind])(spec))


def make_encoder(spec: EncoderSpec) -> Encoder:
    """Build the encoder that `encoder.family` names; weights are not loaded yet."""
    return cast("Encoder", _load(ENCODERS[spec.family])(spec))
