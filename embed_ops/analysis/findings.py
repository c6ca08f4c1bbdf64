"""What commands that look into a run, or fit something to a corpus, show at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from embed_ops.analysis.summary import console
from embed_ops.schema import ROW, SOURCE

if TYPE_CHECKING:
    import pyarrow as pa

    from embed_ops.analysis.predict import Prediction
    from embed_ops.analysis.recommend import Recommended

_LISTED_FIGURES = 6


def show_weights(folder: str, told: dict[str, Any]) -> None:
    """Show what `fit-weights` has counted."""
    table = Table(title=f"embed-ops: {folder}", show_header=False, title_justify="left")
    table.add_row(
        "counted",
        f"{told['words']:,} words in {told['texts']:,} texts, {told['different_words']:,} different ones",
    )
    table.add_row("unknown words", f"{told['unknown']:,}")
    console().print(table)


def show_neighbors(queries: list[str], table: pa.Table, found: Any) -> None:
    """Show the rows nearest to each query: score, what was kept of the row, and its source file."""
    _show_near("nearest rows", "query", queries, table, found)
    compared = (
        "all rows compared"
        if found.recall is None
        else f"{found.work:.1%} of the products computed, recall {found.recall:.3f}"
    )
    zeros = f"; {found.zeros:,} rows of zeros left out" if found.zeros else ""
    console().print(f"{found.rows:,} rows, {compared}{zeros}")


def _show_near(title: str, heading: str, asked: Sequence[str], table: pa.Table, found: Any) -> None:
    """Show a table with the rows found for each of `asked`.

    `table` has them one after the other.
    """
    names = [name for name in table.column_names if name not in (ROW, SOURCE)]
    shown = Table(title=title, title_justify="left")
    for column, width in ((heading, 30), ("score", 8), *((name, 60) for name in names), ("source", 60)):
        shown.add_column(column, overflow="ellipsis", no_wrap=True, max_width=width)
    place = 0
    for number, one in enumerate(asked):
        count = int((found.ids[number] >= 0).sum())
        for rank, row in enumerate(table.slice(place, count).to_pylist()):
            cells = [str(row[name]).strip().replace("\n", " ") for name in (*names, SOURCE)]
            shown.add_row(
                one if rank == 0 else "",
                f"{found.scores[number, rank]:.4f}",
                *cells,
                end_section=rank == count - 1,
            )
        place += count
        if not count:
            shown.add_row(one, "none", *("" for _ in (*names, SOURCE)), end_section=True)
    console().print(shown)


def show_recommended(found: Recommended, table: pa.Table) -> None:
    """Show what some users are recommended, and how good that is."""
    _show_near("recommended", "user", found.users[:_LISTED_FIGURES], table, found)
    console().print(f"{len(found.users):,} users; {found.unknown:,} items of the history are not in the run")
    for judge, figures in found.judged.items():
        console().print(
            f"{judge}: hit rate {figures['hit_rate']:.3f}, NDCG {figures['ndcg']:.3f}, "
            f"{figures['users']:,.0f} users"
        )


def show_evaluation(where: str, figures: dict[str, Any]) -> None:
    """Show how good an embedding is for a label."""
    rows = figures["rows"]
    table = Table(title=f"{where}: {figures['label']}, {figures['classes']:,} classes", title_justify="left")
    for heading in ("judge", "accuracy", "95 %", "macro F1", "95 %"):
        table.add_column(heading, justify="left" if heading == "judge" else "right")
    table.add_row(
        f"always {figures['majority']['label']}", f"{figures['majority']['accuracy']:.3f}", "", "", ""
    )
    for name in [name for name in figures if name.startswith(("linear", "knn"))]:
        found = figures[name]
        spans = ["{:.3f} to {:.3f}".format(*found[key]) for key in ("accuracy_95", "macro_f1_95")]
        table.add_row(
            name.replace("_", " "), f"{found['accuracy']:.3f}", spans[0], f"{found['macro_f1']:.3f}", spans[1]
        )
    console().print(table)
    left = [f"{rows['without_label']:,} without a label"] * bool(rows["without_label"])
    left += [f"{rows['alone_in_their_class']:,} alone in their class"] * bool(rows["alone_in_their_class"])
    console().print(
        f"{rows['train']:,} rows fitted, {rows['test']:,} "
        f"judged{''.join(f', {part} left out' for part in left)}"
    )
    for name, value in figures["clustering"].items():
        console().print(f"{name.replace('_', ' ')}: {value:.3f}")
    for mistake in figures["confusions"][:_LISTED_FIGURES]:
        console().print(
            f"{mistake['rows']:,} times {mistake['label']!r} was taken for {mistake['taken_for']!r}"
        )


def show_prediction(found: Prediction, price: float | None) -> None:
    """Show what a run will take."""
    table = Table(title="what it will take", show_header=False, title_justify="left")
    about = "" if found.exact_rows else "about "
    table.add_row(
        "rows",
        f"{about}{found.rows:,}, {found.rejects:,} rejected, {found.truncated:,} cut, {found.filtered:,} "
        "filtered",
    )
    lengths = ", ".join(f"{name} {length:,}" for name, length in found.lengths.items())
    table.add_row("tokens", f"{found.tokens:,}; of a row: {lengths}")
    table.add_row("units", f"about {found.units:,}, for {found.replicas} replicas")
    table.add_row("time", f"{_duration(found.seconds)}, of which {_duration(found.startup)} to start")
    if found.cost is not None:
        table.add_row(
            "cost",
            f"{found.cost:,.4g} at {price:g} an hour; {found.cost / max(1, found.rows) * 1e6:,.4g} for a "
            "million rows",
        )
    table.add_row(
        "vectors", ", ".join(f"{size / 1e9:,.3g} GB as {kind}" for kind, size in found.bytes.items())
    )
    table.add_row("memory", ", ".join(f"{kind} {size / 1e6:,.0f} MB" for kind, size in found.memory.items()))
    table.add_row(
        "computed in",
        f"{found.resolved['dtype']} on {found.resolved['device']}, {found.resolved['token_budget']} "
        "tokens at a time",
    )
    table.add_row("measured on", f"{found.sampled:,} rows")
    console().print(table)
    for warning in found.warnings:
        console().print(f"warning: {warning}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def show_fit(folder: str, told: dict[str, Any]) -> None:
    """Show what a fit has gained."""
    table = Table(title=f"embed-ops: {folder}", show_header=False, title_justify="left")
    table.add_row("trained on", f"{told['nodes']:,} nodes, {told['edges']:,} edges")
    for name, auc in told["auc"].items():
        table.add_row(f"held-out edges, {name}", f"area under the ROC curve {auc:.4f}")
    verdict = (
        "better than random weights"
        if told["better"]
        else "NOT better than random weights: try other settings"
    )
    table.add_row("trained weights", verdict)
    console().print(table)
