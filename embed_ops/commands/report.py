"""`embed-ops report RUN`: one HTML page about a run.

Whether it is complete and healthy, what is in it, and how it ran.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from embed_ops.commands.options import Column, LogLevel, Progress, RunPath
from embed_ops.commands.running import verb
from embed_ops.engine.progress import Style
from embed_ops.errors import SpecError
from embed_ops.terminal import write_line

HELP = (
    "Write one HTML page about a run, without anything from the network: one verdict and what to do "
    "about it, the run's card, a map of a sample of rows to search and to filter, clusters, how the "
    "vectors are, how the run went, its rejects, and how it differs from another run. Reads the records "
    "of all units and the vectors of at most 64 of them, whatever the size of the run.\n\n"
    "Example: embed-ops report out/ --price 1.2 --against other/\n\n"
    "Needs the extra `report` (Bokeh). Exit codes: 0 done; 2 there is no run, or no such column."
)


@verb
def run(
    where: RunPath,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="by default RUN/report.html", show_default=False)
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="kept column that colours the map at first, or cluster", show_default=False
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="another run of the same source, to compare with", show_default=False
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="of an hour on the machines that ran it", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=5, max=20_000, help="rows of the sample")] = 3_000,
    layout: Annotated[
        Literal["auto", "umap", "tsne", "pca"],
        typer.Option(help="of the map; auto: umap where installed, else tsne"),
    ] = "auto",
    column: Column = None,
    atlas: Annotated[
        bool,
        typer.Option(
            "--atlas",
            help="open all rows in embedding-atlas instead: writes them with their places on the map to "
            "FILE, by default RUN/atlas.parquet, and serves it until Ctrl-C (extra `atlas`)",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="of sample and map")] = 0,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Write the page."""
    from embed_ops.analysis.page.write import write_page
    from embed_ops.engine.progress import reporter

    if atlas:
        return _atlas(where, output, color or against or price, rows, layout, column, seed, progress)
    with reporter(progress) as shown:
        written = write_page(
            where,
            output,
            color=color,
            against=against,
            price=price,
            most=rows,
            method=layout,
            column=column,
            seed=seed,
            reporter=shown,
        )
    write_line(f"report in {written}")
    return 0


def _atlas(
    where: str,
    output: str | None,
    of_the_page: object,
    rows: int,
    layout: str,
    column: str | None,
    seed: int,
    progress: Style,
) -> int:
    """Write all rows for embedding-atlas, and open them there."""
    from embed_ops.analysis.atlas import open_atlas, require_atlas, write_atlas
    from embed_ops.engine.progress import reporter

    if of_the_page is not None:
        raise SpecError("--atlas: leave out --color, --against and --price, which are the page's")
    require_atlas()
    file = output or ("atlas.parquet" if "://" in where else f"{where.rstrip('/')}/atlas.parquet")
    with reporter(progress) as shown:
        written = write_atlas(where, file, most=rows, method=layout, column=column, seed=seed, reporter=shown)
    write_line(f"{written:,} rows in {file}; opening them in embedding-atlas, Ctrl-C ends it")
    return open_atlas(file)
