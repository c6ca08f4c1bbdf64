"""`classify` over a run: a probe that `evaluate` has saved is applied to every row."""

from __future__ import annotations

from typing import ClassVar

from embed_ops.engine.base import Engine
from embed_ops.errors import StageError
from embed_ops.postprocessing.stage_job import StageJob
from embed_ops.postprocessing.units import UnitCalls, model_calls
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.models import read_probe
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import ClassifySpec
from embed_ops.stages.classify import LinearProbe
from embed_ops.storage.packing import content_digest


class ClassifyRun:
    """Applies a `LinearProbe`: a `WholeRun`."""

    row_by_row: ClassVar[bool] = True
    no_model: ClassVar[str] = "the model is its probe: leave --model out"

    def __init__(self, spec: ClassifySpec) -> None:
        self._spec = spec

    def _probe(self) -> LinearProbe:
        probe: LinearProbe = read_probe(self._spec.probe)
        return probe

    def identity(self) -> dict[str, str]:
        """Give the digest of the probe, which decides the labels; where it lies changes nothing."""
        return {"stage.probe": content_digest(self._probe())}

    def require(self, rows: RunRows, vectors: VectorColumn) -> None:
        """Compare the widths of probe and vectors.

        Raises:
            StageError: they differ, or there is no probe.
        """
        dim = self._probe().dim
        if dim != vectors.dim:
            raise StageError(
                f"{self._spec.probe}: takes vectors of width {dim}, {vectors.run.path} has {vectors.dim}"
            )

    def prepare(self, job: StageJob, rows: RunRows, engine: Engine) -> LinearProbe:
        """Read the probe."""
        return self._probe()

    def unit_calls(
        self, job: StageJob, rows: RunRows, model: LinearProbe, done: set[str], engine: Engine
    ) -> UnitCalls:
        """Give the calls that apply the probe."""
        return model_calls(job, rows, model, done, engine)
