"""`embed-ops neighbors RUN --text "..."`.

The rows of a run that are nearest to texts, images or rows, or to every row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embed_ops.commands.options import (
    Address,
    Column,
    Grace,
    LogLevel,
    Progress,
    RunPath,
    StopAfter,
    limits,
    opener,
)
from embed_ops.commands.postprocess import run_stage
from embed_ops.commands.running import verb
from embed_ops.engine.progress import Style
from embed_ops.engine.session import OpenSession
from embed_ops.errors import SpecError
from embed_ops.terminal import write_line

if TYPE_CHECKING:
    from embed_ops.analysis.queries import Answer, History, Queries, Search

HELP = (
    "Find the rows of a finished run that are nearest to queries, or to each of its rows.\n\n"
    "Texts and images go through the run's own model, and through the stages before the vectors that are "
    "searched: RUN may be that of a "
    "stage. All rows are compared, unless --probe says how many clusters of a kmeans run (which RUN then "
    "is, or lies behind) to search; "
    "the share of true neighbours that this finds is measured and shown. Scores are exact, and ties go "
    "to the row that comes first.\n\n"
    "What is shown of a row is what was kept and the text, which is read again from the source if that is "
    "as the run has read it; of images the path, and with --html thumbnails.\n\n"
    "--all is the stage kind=neighbors: a run directory of its own, RUN/stages/neighbors, with lists of "
    "rows and scores for every row; "
    "it is verified and goes on like any other run.\n\n"
    'Example: embed-ops neighbors out/ --text "compress a file" -k 3\n\n'
    "Exit codes: 0 done; 2 the run, the queries or the model are unusable; 3 stopped (--all: the same "
    "command goes on)."
)

# What is asked.
Texts = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="a query; may be given several times", show_default=False),
]
TextFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="queries, one a line", show_default=False)
]
Images = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="an image as a query; several times", show_default=False),
]
RowNumbers = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="rows of the run as queries, by index", show_default=False),
]
EveryRow = Annotated[bool, typer.Option("--all", help="neighbours of every row, as a stage")]
HistoryFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="users and their items", show_default=False)
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="before texts: a text, or its name among encoder.prompts or the model's; by default as the "
        "run has it",
        show_default=False,
    ),
]
# Of a history.
User = Annotated[str, typer.Option(help="of the history: column of users")]
Item = Annotated[str, typer.Option(help="of the history, and kept in the run: column of items")]
Popularity = Annotated[float, typer.Option(min=0.0, help="--history: weight of how many users have an item")]
HoldOut = Annotated[bool, typer.Option("--hold-out", help="leave an item of each user out, and judge")]
# How rows are sought.
Count = Annotated[int, typer.Option("-k", min=1, help="rows to find for each query")]
Metric = Annotated[Literal["cosine", "dot"], typer.Option(help="what is greatest for the nearest")]
Probe = Annotated[
    int | None, typer.Option(min=1, help="search only so many clusters of each query", show_default=False)
]
# What becomes of them.
Shown = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="columns to show, kept ones or others of the source; by default the kept ones and the text",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        help="write what is found: a .parquet, .csv or .jsonl file; with --all: the run directory",
        show_default=False,
    ),
]


Html = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="write a page with what is found, with thumbnails of images", show_default=False
    ),
]


@verb
def run(
    where: RunPath,
    text: Texts = None,
    texts: TextFile = None,
    image: Images = None,
    rows: RowNumbers = None,
    prompt: Prompt = None,
    every: EveryRow = False,
    history: HistoryFile = None,
    user: User = "user",
    item: Item = "item",
    popularity: Popularity = 1.0,
    hold_out: HoldOut = False,
    k: Count = 10,
    metric: Metric = "cosine",
    column: Column = None,
    probe: Probe = None,
    show: Shown = None,
    output: Output = None,
    html: Html = None,
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Find neighbours."""
    ways = {"text": text, "texts": texts, "image": image, "rows": rows, "all": every, "history": history}
    _require_one_way(ways)
    if prompt is not None and not (text or texts):
        raise SpecError("--prompt stands before texts: give --text or --texts, or leave it out")
    if every and html is not None:
        raise SpecError("--html shows what is found for some queries, and --all writes a run: leave one out")
    if every:
        stage = {"kind": "neighbors", "k": k, "metric": metric, "column": column, "probe": probe}
        run_stage(where, stage, output, opener(address), progress, limits(stop_after, grace))
        return 0
    from embed_ops.analysis.queries import History, Queries, Search
    from embed_ops.analysis.user_files import require_known_ending, write_table

    if output is not None:
        require_known_ending(output, "--output")
    search, session = Search(k, metric, column, probe), opener(address)
    asked = (
        Queries(text or (), texts, image or (), rows, prompt)
        if history is None
        else History(history, user, item, popularity, hold_out)
    )
    wanted = show.split(",") if show else None
    answer = _answered(where, asked, search, wanted, session, progress, pictures=html is not None)
    if output is not None:
        write_table(output, answer.table())
    if html is not None:
        from embed_ops.analysis.sheet.neighbors import write_answer

        write_answer(html, where, answer)
        write_line(f"page in {html}")
    return 0


def _answered(
    where: str,
    asked: Queries | History,
    search: Search,
    wanted: list[str] | None,
    session: OpenSession,
    style: Style,
    *,
    pictures: bool,
) -> Answer[Any]:
    """Find rows for queries, or for the users of a history, and show them."""
    from embed_ops.analysis.findings import show_neighbors, show_recommended
    from embed_ops.analysis.queries import Queries, ask, recommend_to_users
    from embed_ops.analysis.sheet.render import thumbnail
    from embed_ops.engine.progress import reporter

    picture = thumbnail if pictures else None
    with reporter(style) as shown:
        if isinstance(asked, Queries):
            answer = ask(where, asked, search, wanted, session, shown, picture)
        else:
            recommended = recommend_to_users(where, asked, search, wanted, session, shown, picture)
    if isinstance(asked, Queries):
        show_neighbors(answer.names, answer.shown, answer.nearest)
        return answer
    show_recommended(recommended.nearest, recommended.shown)
    return recommended


def _require_one_way(ways: dict[str, Any]) -> None:
    """Refuse queries that are given in several ways, or in none.

    Raises:
        SpecError: names the ways.
    """
    asked = [name for name, value in ways.items() if value]
    if len(asked) != 1:
        given = ", ".join(f"--{name}" for name in asked) or "none"
        raise SpecError(
            f"give queries in one way: --text, --texts, --image, --rows, --all or --history; found {given}"
        )
