"""Which class serves which word of the spec. Classes are named, not imported: torch loads only where it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from embed_ops.encoder_spec import EncoderSpec
    from embed_ops.encoders.base import Encoder
    from embed_ops.source_spec import SourceSpec
    from embed_ops.sources.base import Source
    from embed_ops.stage_spec import StageSpec
    from embed_ops.stages.base import Stage

SOURCES = {
    "parquet": "embed_ops.sources.parquet:ParquetSource",
    "jsonl": "embed_ops.sources.lines:JsonLinesSource",
    "text": "embed_ops.sources.lines:TextSource",
    "csv": "embed_ops.sources.csv:CsvSource",
    "images": "embed_ops.sources.images:ImagesSource",
    "webdataset": "embed_ops.sources.webdataset:WebDatasetSource",
    "graph": "embed_ops.sources.graph:GraphSource",
}
ENCODERS = {
    "text": "embed_ops.encoders.text:TextEncoder",
    "words": "embed_ops.encoders.windowed:WindowedEncoder",
    "static": "embed_ops.encoders.static:StaticEncoder",
    "image": "embed_ops.encoders.image:ImageEncoder",
    "clip": "embed_ops.encoders.clip:ClipEncoder",
    "graph": "embed_ops.encoders.graph:GraphEncoder",
}
STAGES: dict[str, tuple[str | None, str]] = {
    "normalize": ("embed_ops.stages.normalize:NormalizeStage", "embed_ops.stages.normalize:NormalizeModel"),
    "pca": ("embed_ops.stages.pca:PcaStage", "embed_ops.stages.pca:PcaModel"),
    "whiten": ("embed_ops.stages.whiten:WhitenStage", "embed_ops.stages.whiten:WhitenModel"),
    "center": ("embed_ops.stages.center:CenterStage", "embed_ops.stages.center:CenterModel"),
    "project": ("embed_ops.stages.project:ProjectStage", "embed_ops.stages.project:ProjectModel"),
    "truncate": ("embed_ops.stages.truncate:TruncateStage", "embed_ops.stages.truncate:TruncateModel"),
    "quantize": ("embed_ops.stages.quantize:QuantizeStage", "embed_ops.stages.quantize:QuantizeModel"),
    "kmeans": ("embed_ops.stages.kmeans:KMeansStage", "embed_ops.stages.kmeans_model:KMeansModel"),
    "dedup": (None, "embed_ops.stages.dedup:DedupModel"),
    "classify": (None, "embed_ops.stages.classify:LinearProbe"),
    "neighbors": (None, "embed_ops.stages.neighbors:NeighborsModel"),
}
"""Class of the stage, None where it is not fitted by rounds, and of its model."""


def _load(name: str) -> type:
    module, _, attribute = name.partition(":")
    return cast(type, getattr(importlib.import_module(module), attribute))


def make_source(spec: SourceSpec) -> Source:
    """Build the source that `source.kind` names."""
    return cast("Source", _load(SOURCES[spec.kind])(spec))


def make_encoder(spec: EncoderSpec) -> Encoder:
    """Build the encoder that `encoder.family` names; weights are not loaded yet."""
    return cast("Encoder", _load(ENCODERS["words" if spec.in_windows else spec.family])(spec))


def make_stage(spec: StageSpec) -> Stage:
    """Build the stage that a `[[stage]]` section names.

    Raises:
        KeyError: it is not fitted by rounds.
    """
    name = STAGES[spec.kind][0]
    if name is None:
        raise KeyError(spec.kind)
    return cast("Stage", _load(name)(spec))


def fitted_by_rounds(spec: StageSpec) -> bool:
    """Tell whether `make_stage` can build it."""
    return STAGES[spec.kind][0] is not None


def model_class(kind: str) -> type:
    """Give the class of the models that a kind of stage fits.

    Raises:
        KeyError: there is no such kind.
    """
    return _load(STAGES[kind][1])
