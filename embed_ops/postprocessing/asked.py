"""Which stages one command is asked for, and where each of them reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from embed_ops.errors import StageError
from embed_ops.runs.catalog import STAGES as STAGES
from embed_ops.runs.rows import RunRows
from embed_ops.spec.stage import StageSpec
from embed_ops.stages.registry import require_possible
from embed_ops.storage.location import locate


@dataclass(frozen=True)
class Asked:
    """One stage that is asked for.

    Attributes:
        spec: its section.
        path: address of its run directory.
        input: address of the run that it reads.
        seed: of everything that draws.
        model: address of a run whose model is applied instead of fitting one.
        any_space: apply a model though it was fitted on vectors of another space.
    """

    spec: StageSpec
    path: str
    input: str
    seed: int
    model: str | None = None
    any_space: bool = False


def asked_stages(
    run: str,
    stages: tuple[StageSpec, ...],
    seed: int,
    output: str | None = None,
    model: str | None = None,
    *,
    any_space: bool = False,
) -> list[Asked]:
    """Say where each of a list of stages reads and writes.

    Raises:
        RunError: `stages/` is a link that leads out of the run.
        StageError: two have one name, an input is no stage before it, or `output` or `model` is
            given for several.
    """
    if len(stages) != 1 and (output or model):
        raise StageError(
            f"an output folder or a model can be named for one stage, and there are {len(stages)}"
        )
    asked: list[Asked] = []
    known = {"embed": run}
    before = run
    for spec in stages:
        if spec.folder in known:
            raise StageError(f"stage {spec.folder!r}: another stage has this name; give it one by `name`")
        if spec.input is not None and spec.input not in known:
            raise StageError(f"stage {spec.folder!r}: input = {spec.input!r} is none of {', '.join(known)}")
        path = output or f"{run.rstrip('/')}/{STAGES}/{spec.folder}"
        if output is None:
            locate(run).child(f"{STAGES}/{spec.folder}").require_inside()
        source = before if spec.input is None else known[spec.input]
        asked.append(Asked(spec, path, source, seed if spec.seed is None else spec.seed, model, any_space))
        before = known[spec.folder] = path
    return asked


def require_fitting(root: str, stages: Sequence[StageSpec]) -> None:
    """Refuse the last of several stages before the first one begins.

    Raises:
        StageError: names the stage.
    """
    rows = RunRows(locate(root))
    width: int | None = None
    # Of several columns each stage names its own.
    with suppress(StageError):
        width = rows.vector(None).dim
    require_possible(stages, rows.rows, width)
