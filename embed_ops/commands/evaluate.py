"""`embed-ops evaluate RUN --label COLUMN`: how good an embedding is for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from embed_ops.commands.options import Column, LogLevel, Progress, RunPath
from embed_ops.commands.running import verb
from embed_ops.errors import SpecError
from embed_ops.terminal import write_line

HELP = (
    "Judge the vectors of a finished run. With --label: a linear probe (multinomial logistic "
    "regression), the ten nearest neighbours and "
    "k-means against a column that was kept, or a key=value folder, on a sample of rows chosen by hash; "
    "accuracy and macro F1 with 95 % "
    "intervals. The probe is saved, for `embed-ops classify`. With --pairs: rank correlation (Spearman) "
    "of the cosines of pairs of texts "
    "with scores that people gave, from a Parquet or CSV file with the columns a, b and score.\n\n"
    "A sample comes from at most 256 units, those of the least hash; each label is split by the hash of "
    "its rows, four fifths to fit and "
    "one to judge, the same rows whatever the embedding.\n\n"
    "Exit codes: 0 done; 2 there is no such column, it has one class only, or the run or its model is "
    "unusable."
)


def probe_folder(run: str, label: str) -> str:
    """Say where the probe of a column lies, whatever the column is called.

    Raises:
        RunError: `probes/` is a link that leads out of the run.
    """
    from embed_ops.storage.location import locate

    # A name that would lead elsewhere, or can't be typed, is escaped as in an address.
    plain = "".join(sign if sign.isprintable() and sign not in "/\\%" else quote(sign, "") for sign in label)
    folder = plain.replace(".", "%2E") if plain in (".", "..") else plain
    locate(run).child(f"probes/{folder}").require_inside()
    return f"{run.rstrip('/')}/probes/{folder}"


@verb
def run(
    where: RunPath,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="kept column with the labels", show_default=False)
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pairs of texts with scores", show_default=False)
    ] = None,
    column: Column = None,
    rows: Annotated[int, typer.Option(min=20, help="rows of the sample")] = 50_000,
    every: Annotated[bool, typer.Option("--all", help="fit the probe on all rows, by mini-batches")] = False,
    seed: Annotated[int, typer.Option(min=0, help="of sample, split and intervals")] = 0,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="where the probe goes; by default RUN/probes/COLUMN", show_default=False
        ),
    ] = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Judge."""
    if (label is None) == (pairs is None):
        raise SpecError("say what to judge by: --label COLUMN, or --pairs FILE")
    from embed_ops.engine.progress import reporter
    from embed_ops.runs.rows import RunRows
    from embed_ops.storage.location import locate

    run_rows = RunRows(locate(where))
    vectors = run_rows.vector(column)
    if pairs is not None:
        from embed_ops.analysis.findings import show_pairs_judged
        from embed_ops.analysis.pairs import judge_pairs

        show_pairs_judged(where, pairs.name, judge_pairs(run_rows, vectors, pairs))
        return 0
    from embed_ops.analysis.evaluate import evaluate, save
    from embed_ops.analysis.findings import mistaken_rows, show_evaluation

    with reporter(progress) as shown:
        probe, figures = evaluate(
            run_rows, vectors, str(label), most=rows, whole=every, seed=seed, reporter=shown
        )
    place = output or probe_folder(where, str(label))
    save(place, probe, figures)
    show_evaluation(where, figures, mistaken_rows(run_rows, figures))
    write_line(f"the probe is in {place}; embed-ops classify {where} --model {place} labels every row")
    return 0
