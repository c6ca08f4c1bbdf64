"""`embed-ops export RUN --format KIND --output DIR`: the vectors for another program."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from embed_ops.commands.options import Column, LogLevel, Progress, RunPath
from embed_ops.commands.running import verb
from embed_ops.targets.registry import TARGETS
from embed_ops.terminal import write_line

HELP = (
    "Write the vectors of a finished run for another program, with the index of each row, where it comes "
    "from, and what was kept of it. "
    "Streams; a command that was stopped goes on where it was.\n\n"
    "npy: vectors.npy (rows, dim) float32, which np.load maps, and a folder rows of Parquet files. "
    "faiss: index.faiss, and rows. lance: a "
    "Lance dataset, which LanceDB opens. webdataset: tars with KEY.npy and KEY.json for each row. "
    "faiss and lance are extras: pip install 'embed-ops[faiss]', "
    "'embed-ops[lance]'. pandas, Polars, "
    "DuckDB, Hugging Face datasets and PyTorch need no export: see docs/hand-over.md.\n\n"
    "Exit codes: 0 done; 2 the run or the folder is unusable, or a package is missing; 3 it could not be "
    "written: the same command goes on."
)


@verb
def run(
    where: RunPath,
    to: Annotated[str, typer.Option("--format", metavar=f"[{'|'.join(TARGETS)}]", help="what to write")],
    output: Annotated[str, typer.Option(metavar="DIR", help="the folder to write")],
    column: Column = None,
    index: Annotated[
        str, typer.Option(help="faiss: what index_factory takes, as IVF1024,Flat or HNSW32")
    ] = "Flat",
    metric: Annotated[
        Literal["cosine", "dot"], typer.Option(help="faiss: cosine normalises the vectors")
    ] = "cosine",
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Export."""
    from embed_ops.analysis.export import export
    from embed_ops.engine.progress import reporter

    with reporter(progress) as shown:
        rows = export(where, output, to, column=column, index=index, metric=metric, reporter=shown)
    write_line(f"{rows:,} rows in {output}")
    return 0
