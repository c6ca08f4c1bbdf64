"""Which class serves which kind of stage, and which one its models have: one line a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from embed_ops.errors import StageError
from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from embed_ops.spec.stage import StageSpec
    from embed_ops.stages.base import Stage


@dataclass(frozen=True)
class StageKind:
    """Where a kind of stage is defined, as addresses `module:Class`.

    Attributes:
        stage: class that is made of a section of the spec: a `Stage` of `stages/base.py`, or where
            the kind is not fitted by rounds a `WholeRun` of `postprocessing/whole_run.py`.
        model: class of its models.
        by_rounds: whether it is fitted by rounds.
    """

    stage: str
    model: str
    by_rounds: bool = True


_HERE, _DRIVEN = "embed_ops.stages", "embed_ops.postprocessing"

STAGES: dict[str, StageKind] = {
    "normalize": StageKind(f"{_HERE}.normalize:NormalizeStage", f"{_HERE}.normalize:NormalizeModel"),
    "pca": StageKind(f"{_HERE}.pca:PcaStage", f"{_HERE}.pca:PcaModel"),
    "whiten": StageKind(f"{_HERE}.whiten:WhitenStage", f"{_HERE}.whiten:WhitenModel"),
    "center": StageKind(f"{_HERE}.center:CenterStage", f"{_HERE}.center:CenterModel"),
    "project": StageKind(f"{_HERE}.project:ProjectStage", f"{_HERE}.project:ProjectModel"),
    "truncate": StageKind(f"{_HERE}.truncate:TruncateStage", f"{_HERE}.truncate:TruncateModel"),
    "quantize": StageKind(f"{_HERE}.quantize:QuantizeStage", f"{_HERE}.quantize:QuantizeModel"),
    "kmeans": StageKind(f"{_HERE}.kmeans.stage:KMeansStage", f"{_HERE}.kmeans.model:KMeansModel"),
    "dedup": StageKind(f"{_DRIVEN}.dedup:DedupRun", f"{_HERE}.dedup:DedupModel", by_rounds=False),
    "neighbors": StageKind(
        f"{_DRIVEN}.neighbors:NeighborsRun", f"{_HERE}.neighbors:NeighborsModel", by_rounds=False
    ),
    "classify": StageKind(
        f"{_DRIVEN}.classify:ClassifyRun", f"{_HERE}.classify:LinearProbe", by_rounds=False
    ),
}


def stage_kind(kind: str) -> StageKind:
    """Give the entry of a kind.

    Raises:
        StageError: there is no such kind.
    """
    if kind not in STAGES:
        raise StageError(f"no stage is called {kind!r}; kinds: {', '.join(STAGES)}")
    return STAGES[kind]


def fitted_by_rounds(spec: StageSpec) -> bool:
    """Tell whether `make_stage` can build the stage of a section.

    Raises:
        StageError: there is no such kind.
    """
    return stage_kind(spec.kind).by_rounds


def make_stage(spec: StageSpec) -> Stage:
    """Build the stage of a section that is fitted by rounds.

    Raises:
        StageError: there is no such kind, or it is not fitted by rounds.
    """
    entry = stage_kind(spec.kind)
    if not entry.by_rounds:
        raise StageError(f"{spec.kind}: is not fitted by rounds, it works on a whole run")
    return cast("Stage", load_class(entry.stage)(spec))


def make_whole_run(spec: StageSpec) -> Any:
    """Build what works on a whole run, a `WholeRun`, of the section of such a stage.

    Raises:
        StageError: there is no such kind, or it is fitted by rounds.
    """
    entry = stage_kind(spec.kind)
    if entry.by_rounds:
        raise StageError(f"{spec.kind}: is fitted by rounds")
    return load_class(entry.stage)(spec)


def model_class(kind: str) -> type:
    """Give the class of the models of a kind.

    Raises:
        StageError: there is no such kind.
    """
    return load_class(stage_kind(kind).model)
