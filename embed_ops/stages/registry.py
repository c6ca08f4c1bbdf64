"""Which class serves which kind of stage, and which one its models have: one line a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from embed_ops.errors import StageError
from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from collections.abc import Sequence

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


_OF_ROWS = frozenset({"kmeans"})
"""Kinds that ask for rows, whatever the width."""
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


def require_possible(stages: Sequence[StageSpec], rows: int, width: int | None) -> None:
    """Refuse stages that could not be fitted, before any row is read.

    What is not known before, such as the width that a share of variance keeps, is not refused here.

    Args:
        stages: in order.
        rows: of the run; a few more where some will be rejects.
        width: of its vectors, None where that is not known.

    Raises:
        StageError: a stage asks for what such rows can't give, as more clusters than there are.
    """
    from embed_ops.stages.base import FitInput

    widths, before = {"embed": width}, "embed"
    for spec in stages:
        here = widths.get(before if spec.input is None else spec.input) if spec.column is None else None
        if fitted_by_rounds(spec) and (here is not None or spec.kind in _OF_ROWS):
            make_stage(spec).start(FitInput(rows, here or 1, 0))
        dim = getattr(spec, "dim", None)
        changes = dim is not None or spec.kind == "quantize"
        widths[spec.folder] = (dim if isinstance(dim, int) else None) if changes else here
        before = spec.folder


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
