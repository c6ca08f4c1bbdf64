"""Which class serves which kind of stage, and which one its model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from embed_ops.spec.stage import StageSpec
    from embed_ops.stages.base import Stage

STAGES: dict[str, tuple[str | None, str]] = {
    "normalize": ("embed_ops.stages.normalize:NormalizeStage", "embed_ops.stages.normalize:NormalizeModel"),
    "pca": ("embed_ops.stages.pca:PcaStage", "embed_ops.stages.pca:PcaModel"),
    "whiten": ("embed_ops.stages.whiten:WhitenStage", "embed_ops.stages.whiten:WhitenModel"),
    "center": ("embed_ops.stages.center:CenterStage", "embed_ops.stages.center:CenterModel"),
    "project": ("embed_ops.stages.project:ProjectStage", "embed_ops.stages.project:ProjectModel"),
    "truncate": ("embed_ops.stages.truncate:TruncateStage", "embed_ops.stages.truncate:TruncateModel"),
    "quantize": ("embed_ops.stages.quantize:QuantizeStage", "embed_ops.stages.quantize:QuantizeModel"),
    "kmeans": ("embed_ops.stages.kmeans.stage:KMeansStage", "embed_ops.stages.kmeans.model:KMeansModel"),
    "dedup": (None, "embed_ops.stages.dedup:DedupModel"),
    "classify": (None, "embed_ops.stages.classify:LinearProbe"),
    "neighbors": (None, "embed_ops.stages.neighbors:NeighborsModel"),
}
"""Class of the stage, None where it is not fitted by rounds, and of its model."""


def make_stage(spec: StageSpec) -> Stage:
    """Build the stage that a `[[stage]]` section names.

    Raises:
        KeyError: it is not fitted by rounds.
    """
    name = STAGES[spec.kind][0]
    if name is None:
        raise KeyError(spec.kind)
    return cast("Stage", load_class(name)(spec))


def fitted_by_rounds(spec: StageSpec) -> bool:
    """Tell whether `make_stage` can build it."""
    return STAGES[spec.kind][0] is not None


def model_class(kind: str) -> type:
    """Give the class of the models that a kind of stage fits.

    Raises:
        KeyError: there is no such kind.
    """
    return load_class(STAGES[kind][1])
