"""What commands that look into a run, or fit something to a corpus, show at their end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_ops.analysis.summary import LISTED_FIGURES
from embed_ops.analysis.tables import console, counted, cut_table, fit_columns, show_pairs
from embed_ops.schema import ROW, SOURCE
from embed_ops.terminal import PlainTable, size

if TYPE_CHECKING:
    from embed_ops.analysis.neighbors import Neighbors
    from embed_ops.analysis.prediction import Prediction
    from embed_ops.analysis.recommend import Recommended
    from embed_ops.analysis.shown import Shown
    from embed_ops.runs.rows import RunRows

_EXAMPLE = 80
_CELL = 1_000
"""Characters of a value that are looked at for a cell."""


def show_weights(folder: str, told: dict[str, Any]) -> None:
    """Show what `fit-weights` has counted."""
    counted = f"{told['words']:,} words in {told['texts']:,} texts"
    pairs = [
        ("counted", f"{counted}, {told['different_words']:,} different ones"),
        ("unknown words", f"{told['unknown']:,}"),
    ]
    show_pairs(f"embed-ops: {folder}", pairs)


def show_neighbors(queries: list[str], shown: Shown, near: Neighbors) -> None:
    """Show the rows nearest to each query: score, what the row is, and its source file."""
    _show_near("nearest rows", "query", queries, shown, near)
    compared = (
        "all rows compared"
        if near.recall is None
        else f"{near.work:.1%} of the products computed, recall {near.recall:.3f}"
    )
    zeros = f"; {near.zeros:,} rows of zeros left out" if near.zeros else ""
    console().print(f"{near.rows:,} rows, {compared}{zeros}")


def _show_near(
    title: str, heading: str, asked: Sequence[str], shown: Shown, near: Neighbors | Recommended
) -> None:
    """Show a table with the rows near to each of `asked`.

    `shown` has them one after the other.
    """
    names = [name for name in shown.table.column_names if name not in (ROW, SOURCE)]
    lines: list[list[str]] = []
    ends: list[bool] = []
    place = 0
    for number, one in enumerate(asked):
        count = int((near.ids[number] >= 0).sum())
        for rank, row in enumerate(shown.table.slice(place, count).to_pylist()):
            cells = [_cell(row[name]) for name in (*names, SOURCE)]
            lines.append([one if rank == 0 else "", f"{near.scores[number, rank]:.4f}", *cells])
            ends.append(rank == count - 1)
        place += count
        if not count:
            lines.append([one, "none", *("" for _ in (*names, SOURCE))])
            ends.append(True)
    columns = [(heading, 30), ("score", 8), *((name, 100 if name == shown.text else 60) for name in names)]
    columns.append(("source", 60))
    needed = ("row", shown.text)
    droppable = [place for place, name in enumerate(names, 2) if name not in needed]
    text = next((place for place, name in enumerate(names, 2) if name == shown.text), None)
    # Beside a text the file that it comes from is the first that may go: the row tells it too.
    droppable += [len(columns) - 1] * (text is not None)
    fitted = fit_columns(columns, lines, droppable, console().width, text)
    table = cut_table(title, [columns[place] for place in fitted])
    for column, width in zip(table.columns, fitted.values(), strict=True):
        column.width = width
    for line, end in zip(lines, ends, strict=True):
        table.add_row(*(line[place] for place in fitted), end_section=end)
    console().print(table)
    if left := [columns[place][0] for place in droppable if place not in fitted]:
        console().print(f"no room for {', '.join(left)}: --show names columns, --html FILE shows all")
    for remark in shown.remarks:
        console().print(remark)


def _cell(value: Any) -> str:
    """Give a value as one line of a table; of a long one its beginning."""
    return "" if value is None else " ".join(str(value)[:_CELL].split())


def show_recommended(recommended: Recommended, shown: Shown) -> None:
    """Show what some users are recommended, and how good that is."""
    _show_near("recommended", "user", recommended.users[:LISTED_FIGURES], shown, recommended)
    console().print(
        f"{len(recommended.users):,} users; {recommended.unknown:,} items of the history are not in the run"
    )
    for judge, figures in recommended.judged.items():
        console().print(
            f"{judge}: hit rate {figures['hit_rate']:.3f}, NDCG {figures['ndcg']:.3f}, "
            f"{figures['users']:,.0f} users"
        )


def mistaken_rows(rows: RunRows, figures: Mapping[str, Any]) -> Shown:
    """Read a row of each confusion that is listed."""
    from embed_ops.analysis.shown import shown_of

    listed = figures["confusions"][:LISTED_FIGURES]
    return shown_of(rows, np.array([mistake["for_example"] for mistake in listed], np.int64))


def show_evaluation(where: str, figures: dict[str, Any], mistaken: Shown) -> None:
    """Show how good an embedding is for a label; `mistaken` has a row for each listed confusion."""
    rows = figures["rows"]
    table = PlainTable(title=f"{where}: {figures['label']}, {figures['classes']:,} classes")
    for heading in ("judge", "accuracy", "95 %", "macro F1", "95 %"):
        table.add_column(heading, justify="left" if heading == "judge" else "right")
    table.add_row(
        f"always {figures['majority']['label']}", f"{figures['majority']['accuracy']:.3f}", "", "", ""
    )
    for name in [name for name in figures if name.startswith(("linear", "knn"))]:
        judged = figures[name]
        spans = ["{:.3f} to {:.3f}".format(*judged[key]) for key in ("accuracy_95", "macro_f1_95")]
        accuracy, f1 = f"{judged['accuracy']:.3f}", f"{judged['macro_f1']:.3f}"
        table.add_row(name.replace("_", " "), accuracy, spans[0], f1, spans[1])
    console().print(table)
    left = [f"{rows['without_label']:,} without a label"] * bool(rows["without_label"])
    left += [f"{rows['alone_in_their_class']:,} alone in their class"] * bool(rows["alone_in_their_class"])
    console().print(
        f"{rows['train']:,} rows fitted, {rows['test']:,} "
        f"judged{''.join(f', {part} left out' for part in left)}"
    )
    for name, value in figures["clustering"].items():
        console().print(f"{name.replace('_', ' ')}: {value:.3f}")
    rows_of = mistaken.table.to_pylist()
    for mistake, row in zip(figures["confusions"][:LISTED_FIGURES], rows_of, strict=True):
        told = (
            f"{counted(mistake['rows'], 'time')} {mistake['label']!r} was taken for {mistake['taken_for']!r}"
        )
        text = "" if mistaken.text is None else f": {_cell(row[mistaken.text])[:_EXAMPLE]}"
        console().print(f"{told}, as row {row['row']} of {row[SOURCE]}{text}")
    for remark in mistaken.remarks:
        console().print(remark)


def show_pairs_judged(where: str, file: str, figures: Mapping[str, Any]) -> None:
    """Show how well cosines agree with people who scored pairs."""
    defined = math.isfinite(figures["spearman"])
    correlation = (
        f"{figures['spearman']:.4f}" if defined else "not defined: all scores, or cosines, are equal"
    )
    rows = [
        ("pairs", f"{figures['pairs']:,}, of {file}"),
        ("rank correlation (Spearman)", correlation),
        *([("p value", f"{figures['p_value']:.3g}")] if defined else []),
    ]
    show_pairs(f"{where}: cosines of pairs beside their scores", rows)


def show_prediction(prediction: Prediction, price: float | None) -> None:
    """Show what a run will take."""
    show_pairs("what it will take", _prediction_pairs(prediction, price))
    for warning in prediction.warnings:
        console().print(f"warning: {warning}")


def _prediction_pairs(prediction: Prediction, price: float | None) -> Iterator[tuple[str, str]]:
    """Word the figures of a prediction, a (name, value) each."""
    about = "" if prediction.exact_rows else "about "
    left = f"{prediction.rejects:,} rejected, {prediction.truncated:,} cut, {prediction.filtered:,} filtered"
    yield "rows", f"{about}{prediction.rows:,}, {left}"
    lengths = ", ".join(f"{name} {length:,}" for name, length in prediction.lengths.items())
    yield "tokens", f"{prediction.tokens:,}; of a row: {lengths}"
    yield (
        "units",
        f"about {prediction.units:,}, for {counted(prediction.replicas, 'copy', 'copies')} of the model",
    )
    startup = _duration(prediction.startup)
    yield "time", f"{_duration(prediction.seconds)}, of which {startup} to start"
    if prediction.cost is not None:
        for_million = prediction.cost / max(1, prediction.rows) * 1e6
        yield (
            "cost",
            f"{prediction.cost:,.4g} at {price:g} an hour; {for_million:,.4g} for a million rows",
        )
    yield "vectors", ", ".join(f"{size(length)} as {kind}" for kind, length in prediction.bytes.items())
    yield "memory", ", ".join(f"{kind} {size(held)}" for kind, held in prediction.memory.items())
    chosen = prediction.resolved
    batches = f"{chosen['token_budget']} tokens at a time"
    yield "computed in", f"{chosen['dtype']} on {chosen['device']}, {batches}"
    yield "measured on", f"{prediction.sampled:,} rows"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def show_fit(folder: str, told: dict[str, Any]) -> None:
    """Show what a fit has gained."""
    verdict = (
        "better than random weights"
        if told["better"]
        else "NOT better than random weights: try other settings"
    )
    pairs = [
        ("trained on", f"{told['nodes']:,} nodes, {told['edges']:,} edges"),
        *(
            (f"held-out edges, {name}", f"area under the ROC curve {auc:.4f}")
            for name, auc in told["auc"].items()
        ),
        ("trained weights", verdict),
    ]
    show_pairs(f"embed-ops: {folder}", pairs)
