"""`embed-ops neighbors RUN --text "..."`.

The rows of a run that are nearest to texts, images or rows, or to every row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embed_ops.commands.command import (
    Address,
    Grace,
    LogLevel,
    Progress,
    RunPath,
    StopAfter,
    limits,
    opener,
    verb,
)
from embed_ops.errors import SourceError, SpecError

if TYPE_CHECKING:
    import pyarrow as pa

HELP = (
    "Find the rows of a finished run that are nearest to queries, or to each of its rows.\n\n"
    "Texts and images go through the run's own model, and through the stages before the vectors that are "
    "searched: RUN may be that of a "
    "stage. All rows are compared, unless --probe says how many clusters of a kmeans run (which RUN then "
    "is, or lies behind) to search; "
    "the share of true neighbours that this finds is measured and shown. Scores are exact, and ties go "
    "to the row that comes first.\n\n"
    "--all is the stage kind=neighbors: a run directory of its own, RUN/stages/neighbors, with lists of "
    "rows and scores for every row; "
    "it is verified and goes on like any other run.\n\n"
    "Exit codes: 0 done; 2 the run, the queries or the model are unusable; 3 stopped (--all: the same "
    "command goes on)."
)


@verb
def run(
    where: RunPath,
    text: Annotated[
        list[str] | None, typer.Option(help="a query; may be given several times", show_default=False)
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="queries, one a line", show_default=False)
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="an image as a query; several times", show_default=False),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="rows of the run as queries, by index", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="neighbours of every row, as a stage")] = False,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="users and their items", show_default=False)
    ] = None,
    user: Annotated[str, typer.Option(help="of the history: column of users")] = "user",
    item: Annotated[str, typer.Option(help="of the history, and kept in the run: column of items")] = "item",
    popularity: Annotated[
        float, typer.Option(min=0.0, help="--history: weight of how many users have an item")
    ] = 1.0,
    hold_out: Annotated[
        bool, typer.Option("--hold-out", help="leave an item of each user out, and judge")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="rows to find for each query")] = 10,
    metric: Annotated[
        Literal["cosine", "dot"], typer.Option(help="what is greatest for the nearest")
    ] = "cosine",
    column: Annotated[
        str | None, typer.Option(help="vector column, where there are several", show_default=False)
    ] = None,
    probe: Annotated[
        int | None, typer.Option(min=1, help="search only so many clusters of each query", show_default=False)
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="kept columns to show; by default all", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="write what is found: a .parquet, .csv or .jsonl file; with --all: the run directory",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Find neighbours."""
    given = {
        "text": text,
        "texts": texts,
        "image": image,
        "rows": rows,
        "all": every or None,
        "history": history,
    }
    asked = [name for name, value in given.items() if value]
    if len(asked) != 1:
        found = ", ".join(f"--{name}" for name in asked) or "none"
        raise SpecError(
            f"give queries in one way: --text, --texts, --image, --rows, --all or --history; found {found}"
        )
    from embed_ops.engine.progress import reporter

    if every:
        tree = {"kind": "neighbors", "k": k, "metric": metric, "column": column, "probe": probe}
        with reporter(progress) as shown:
            _every(
                where,
                tree,
                {
                    "output": output,
                    "session": opener(address),
                    "reporter": shown,
                    **limits(stop_after, grace),
                },
            )
        return 0
    from embed_ops.analysis.findings import show_neighbors

    if history is not None:
        with reporter(progress) as shown:
            options = {
                "column": column,
                "hold_out": hold_out,
                "popularity": popularity,
                "session": opener(address),
                "reporter": shown,
            }
            _recommend(where, history, (user, item), k, output, options)
        return 0
    from embed_ops.analysis.neighbors import kept_of, neighbors
    from embed_ops.runs.rows import RunRows
    from embed_ops.storage.location import locate

    names, queries = _queries(text, texts, image, rows)
    with reporter(progress) as shown:
        result = neighbors(
            where,
            queries,
            k,
            metric=metric,
            column=column,
            probe=probe,
            session=opener(address),
            reporter=shown,
        )
    kept = kept_of(RunRows(locate(where)), result.ids[result.ids >= 0], show.split(",") if show else None)
    show_neighbors(names, kept, result)
    if output is not None:
        _write(output, names, kept, result)
    return 0


def _every(where: str, tree: dict[str, Any], options: dict[str, Any]) -> None:
    """Run the stage that finds the neighbours of every row."""
    from embed_ops.analysis.summary import show_stage
    from embed_ops.postprocessing.driver import postprocess
    from embed_ops.spec.spec import parse_stage

    stage = parse_stage({name: value for name, value in tree.items() if value is not None})
    show_stage(postprocess(where, [stage], **options)[0])


def _recommend(
    where: str, history: Path, names: tuple[str, str], k: int, output: str | None, options: Any
) -> None:
    """Recommend rows to the users of a file.

    Raises:
        SourceError: the file can't be read, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    from embed_ops.analysis.findings import show_recommended
    from embed_ops.analysis.neighbors import Neighbors, kept_of
    from embed_ops.analysis.recommend import recommend
    from embed_ops.runs.rows import RunRows
    from embed_ops.storage.location import locate

    try:
        table = pq.read_table(history) if history.suffix == ".parquet" else pcsv.read_csv(history)
        users, items = ([str(value) for value in table.column(name).to_pylist()] for name in names)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise SourceError(
            f"--history {history}: no table with the columns {names[0]} and {names[1]} ({error})"
        ) from error
    found = recommend(where, users, items, names[1], k, **options)
    kept = kept_of(RunRows(locate(where)), found.ids[found.ids >= 0])
    show_recommended(found, kept)
    if output is not None:
        _write(output, found.users, kept, Neighbors(found.ids, found.scores, 0, 0, 1.0, None))


def _queries(
    text: list[str] | None, texts: Path | None, image: list[Path] | None, rows: str | None
) -> tuple[list[str], Any]:
    """Read the queries: how they are shown, and themselves.

    Raises:
        SourceError: a file can't be read, or holds no query.
        SpecError: `--rows` is no list of numbers.
    """
    try:
        if texts is not None:
            text = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
            if not text:
                raise SourceError(f"--texts {texts}: holds no line of text")
        if image:
            return [file.name for file in image], [file.read_bytes() for file in image]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--{'texts' if texts else 'image'}: can't be read: {error}") from error
    if text:
        return text, text
    import numpy as np

    try:
        numbers = [int(part) for part in (rows or "").split(",")]
    except ValueError as error:
        raise SpecError(f"--rows {rows}: give indexes of rows, as 0,17,42") from error
    return [f"row {number}" for number in numbers], np.array(numbers, np.int64)


def _write(output: str, names: list[str], kept: pa.Table, result: Any) -> None:
    """Write a line for each query and row: query, rank, score, and what was kept.

    Raises:
        SpecError: the name ends in no known format.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    query, rank = np.nonzero(result.ids >= 0)
    table = pa.table(
        {
            "query": pa.array([names[number] for number in query.tolist()]),
            "rank": pa.array(rank),
            "score": result.scores[query, rank],
        }
    )
    for name in kept.column_names:
        table = table.append_column(name, kept.column(name))
    target = Path(output)
    temporary = target.with_name(f".{target.name}")
    if target.suffix == ".parquet":
        pq.write_table(table, temporary)
    elif target.suffix == ".csv":
        pcsv.write_csv(table, temporary)
    elif target.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.to_pylist())
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    else:
        raise SpecError(f"--output {output}: give a name that ends in .parquet, .csv or .jsonl")
    temporary.replace(target)
