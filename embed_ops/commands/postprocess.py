"""`embed-ops postprocess SPEC`, or one stage on a run.

`embed-ops postprocess RUN kind=pca dim=128`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from embed_ops.commands.field_table import table
from embed_ops.commands.options import (
    EXIT_CODES,
    Address,
    Grace,
    LogLevel,
    Progress,
    StopAfter,
    limits,
    opener,
)
from embed_ops.commands.running import verb
from embed_ops.engine.progress import Style
from embed_ops.engine.session import OpenSession
from embed_ops.errors import SpecError
from embed_ops.spec.fields import fields
from embed_ops.spec.spec import Spec, parse_stage
from embed_ops.spec.stage import KINDS, StageSpec
from embed_ops.spec.toml import parse_words


def stage_help() -> str:
    """List the kinds of stages with their fields."""
    of_kinds = {kind: fields(section) for kind, section in KINDS.items()}
    common = [row for row in of_kinds["pca"] if row.address in _COMMON]
    width = max(len(row.address) for rows in of_kinds.values() for row in rows)
    tables = [
        table(
            f"kind = {kind}: {(KINDS[kind].__doc__ or '').strip()}",
            sorted(
                # A field of that name may be another one, as `keep` of dedup.
                (row for row in rows if row.address != "kind" and row not in common),
                key=lambda row: row.default != "required",
            ),
            width,
        )
        for kind, rows in of_kinds.items()
    ]
    return "\n\n".join(
        ["Stages, and their fields [default]:", *tables, table("of every stage:", common, width)]
    )


_COMMON = ("name", "input", "column", "seed", "output", "keep", "gpus_per_worker")
HELP = (
    "Normalise, reduce, quantise and cluster the vectors of a finished run. With a SPEC: its [[stage]] "
    "list, each stage on what the one "
    "before it wrote, into RUN/stages/NAME. With a RUN: one stage, given as words: "
    "embed-ops postprocess out/ kind=pca dim=128 --output reduced/\n\n"
    f"{EXIT_CODES}\n\n{stage_help()}"
)

SpecOrRun = Annotated[
    str, typer.Argument(metavar="SPEC|RUN", help="a TOML file with [[stage]] sections, or a run directory")
]
StageWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="after a RUN: the stage; after a SPEC: fields of the spec, set after it",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(help="run directory of a single stage; by default RUN/stages/NAME", show_default=False),
]
ModelRun = Annotated[
    str | None,
    typer.Option(
        metavar="RUN", help="apply the model of this stage's run instead of fitting one", show_default=False
    ),
]
AnySpace = Annotated[
    bool,
    typer.Option(
        "--any-space",
        help="apply a model or a probe though it was fitted on vectors of another model",
        show_default=False,
    ),
]
Refit = Annotated[
    bool, typer.Option("--refit", help="delete what earlier commands made of these stages, and begin anew")
]


@verb
def run(
    where: SpecOrRun,
    words: StageWords = None,
    output: Output = None,
    model: ModelRun = None,
    any_space: AnySpace = False,
    refit: Refit = False,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Run stages."""
    from embed_ops.analysis.summary import show_stage

    given = list(words or ())
    target, stages = _asked(where, given)
    from embed_ops.engine.progress import reporter
    from embed_ops.postprocessing.driver import postprocess

    with reporter(progress) as shown:
        done = postprocess(
            target,
            stages,
            output=output,
            model=model,
            any_space=any_space,
            refit=refit,
            session=opener(address),
            reporter=shown,
            **limits(stop_after, grace),
        )
    for stage in done:
        show_stage(stage)
    return 0


def run_stage(
    where: str,
    fields: Mapping[str, Any],
    output: str | None,
    session: OpenSession,
    progress: Style,
    steering: Mapping[str, Any],
    *,
    any_space: bool = False,
) -> None:
    """Run one stage over a run, for verbs that are a stage by another name.

    Args:
        where: the run.
        fields: of the stage; those that are none are left out.
        output: its run directory, by default one below the run.
        session: opens the Ray session.
        progress: how progress is shown.
        steering: what `limits` gives.
        any_space: apply a probe though it was fitted on vectors of another model.

    Raises:
        SpecError: the fields are no stage.
    """
    from embed_ops.analysis.summary import show_stage
    from embed_ops.engine.progress import reporter
    from embed_ops.postprocessing.driver import postprocess

    stage = parse_stage({name: value for name, value in fields.items() if value is not None})
    with reporter(progress) as shown:
        done = postprocess(
            where, [stage], output=output, any_space=any_space, session=session, reporter=shown, **steering
        )
    show_stage(done[0])


def _asked(where: str, words: list[str]) -> tuple[Spec | str, list[StageSpec]]:
    """Tell a spec from a run, and read the stage that follows a run.

    Raises:
        SpecError: it is neither, a spec has no stages, or the words are no stage.
    """
    from embed_ops.postprocessing.stage_run import is_run

    if "=" not in where and is_run(where):
        if not words:
            raise SpecError(
                f"{where}: which stage? For example: embed-ops postprocess {where} kind=pca dim=128"
            )
        return where, [parse_stage(parse_words(words))]
    if "=" not in where and not where.endswith(".toml"):
        raise SpecError(
            f"{where}: no run here (run.json is missing), and no .toml file; give a run directory or a spec"
        )
    spec = Spec.load(None, [where, *words]) if "=" in where else Spec.load(where, words)
    if not spec.stage:
        raise SpecError(f"{where}: has no [[stage]] section; see `embed-ops postprocess --help`")
    return spec, []
