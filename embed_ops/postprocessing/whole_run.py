"""The second protocol of stages, beside `Stage`: what works on a whole run.

Such a stage is not fitted by rounds. What it says of a row depends on the other rows of the run
(`dedup`, `neighbors`), or its model was fitted elsewhere (`classify`).
"""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

from embed_ops.engine.base import Engine
from embed_ops.postprocessing.stage_job import StageJob
from embed_ops.postprocessing.units import UnitCalls
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import StageSpec
from embed_ops.stages.base import Model
from embed_ops.stages.registry import fitted_by_rounds, make_whole_run


class WholeRun(Protocol):
    """A stage over a whole run, made from its section of the spec."""

    row_by_row: ClassVar[bool]
    """Whether what it says of a row hangs on that row alone, and not on the others."""
    no_model: ClassVar[str]
    """Why a model of another run can't be applied, as the end of a sentence."""

    def identity(self) -> dict[str, str]:
        """Give entries of the fingerprint that take the place of the section's own.

        Such as the digest of a file in place of its address.

        Raises:
            StageError: the file can't be read.
        """
        ...

    def require(self, rows: RunRows, vectors: VectorColumn) -> None:
        """Look for what it reads beside the vectors, before anything is computed.

        Raises:
            StageError: it is not there, or does not fit the vectors.
        """
        ...

    def prepare(self, job: StageJob, rows: RunRows, engine: Engine) -> Model:
        """Do what comes before the first unit, and give the model.

        What an earlier command has kept in `work/` is not done again.
        """
        ...

    def unit_calls(
        self, job: StageJob, rows: RunRows, model: Model, done: set[str], engine: Engine
    ) -> UnitCalls:
        """Give the calls that write the units which are not done."""
        ...


def whole_run(spec: StageSpec) -> WholeRun | None:
    """Make what works on a whole run, None for a stage that is fitted by rounds.

    Raises:
        StageError: there is no such kind.
    """
    return None if fitted_by_rounds(spec) else cast(WholeRun, make_whole_run(spec))
