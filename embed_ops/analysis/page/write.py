"""`report.html`: gathers, computes, draws, writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from embed_ops import __version__
from embed_ops.analysis.page.against import Drift
from embed_ops.analysis.page.against import against as compare
from embed_ops.analysis.page.card import card, settings, size, stages
from embed_ops.analysis.page.clusters import Cluster, clusters_of
from embed_ops.analysis.page.course import bars, course, memory, stage_course, throughput
from embed_ops.analysis.page.gather import Gathered, gather_page
from embed_ops.analysis.page.health import health, layout, over_all_rows
from embed_ops.analysis.page.points import COLORS, RAMP, as_script, color_column, columns_of, label_column
from embed_ops.analysis.page.sample import Sample
from embed_ops.analysis.page.verdict import Finding, comparison, completeness, judge, soundness
from embed_ops.analysis.prediction import compared
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.lazy import require
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.storage.files import publish
from embed_ops.storage.location import locate
from embed_ops.terminal import plain_line

SAMPLE_ROWS = 3_000
_CLUSTERS = 24
_FEW_UNITS = 2
_HEALTH_PLOTS = (
    ("norms", "norms of the vectors"),
    ("cosines", "cosines of random pairs"),
    ("explained", "variance that the first components hold"),
    ("spread", "spread of each dimension, widest first"),
    ("mean", "mean of each dimension"),
)


@dataclass(frozen=True)
class _Asked:
    """What the caller wants to see: as the arguments of `write_page`."""

    path: str
    color: str | None
    against: str | None
    price: float | None
    method: str
    column: str | None
    seed: int


def write_page(
    path: str,
    output: str | None = None,
    *,
    color: str | None = None,
    against: str | None = None,
    price: float | None = None,
    most: int = SAMPLE_ROWS,
    method: str = "auto",
    column: str | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> str:
    """Write the page of a run: one HTML file of some megabytes that needs no network.

    Args:
        path: address of a run, finished or not, or of a stage's run.
        output: file to write, by default `report.html` in the run.
        color: kept column or folder that colours the map at first; by default the clusters, where
            there are any, or the folder or column with the fewest values.
        against: address of another run of the same source, to compare with.
        price: of an hour on the machines that ran it.
        most: rows of the sample.
        method: of the map: auto, umap, tsne or pca.
        column: vector column, where there are several.
        seed: of all that draws.
        reporter: told what is done.

    Returns:
        the address of the page.

    Raises:
        RunError, StageError: there is no run, or no such column.
        PackageError: Bokeh is not installed.
        StorageError: the page can't be written.
    """
    require("bokeh", "report", "the page")
    from embed_ops.analysis.page import draw

    reporter = reporter or Silent()
    reporter.say(f"reading {path}")
    asked = _Asked(path, color, against, price, method, column, seed)
    gathered = gather_page(path, most, seed, column)
    parts: dict[str, Any] = _told(gathered, price)
    plots: dict[str, Any] = {}
    vectors: list[Finding] = []
    if gathered.sample is not None:
        reporter.say(f"laying {len(gathered.sample.ids):,} rows out")
        vectors = _of_sample(draw, gathered, gathered.sample, asked, parts, plots)
    parts["verdict"] = _verdict(gathered, vectors)
    if gathered.report.get("rows_per_second") and "graph" not in gathered.report:
        seconds, rates = throughput(gathered.records)
        # One unit or two have no course.
        if len(rates) > _FEW_UNITS:
            names = ("seconds since the first unit", "rows/s")
            plots["throughput"] = draw.line(seconds, rates, "throughput", names)
    html = draw.page(plain_line(path), parts, plots)
    target = output or f"{path.rstrip('/')}/report.html"
    folder, _, name = target.rpartition("/")
    publish(locate(folder or "."), name, html.encode(), new_attempt() if output is None else None)
    return target


def _verdict(gathered: Gathered, vectors: list[Finding]) -> Any:
    """Judge the run by its rows, its comparison with the reference, and its vectors."""
    stage = gathered.run.is_stage
    allowed = float(gathered.header.spec.get("max_reject_fraction", 0.01))
    rows = completeness(gathered.run.status, gathered.records, gathered.report, gathered.planned, allowed)
    return judge(gathered.run.status, rows, None if stage else comparison(gathered.report), vectors)


def _of_sample(
    draw: Any,
    gathered: Gathered,
    sample: Sample,
    asked: _Asked,
    parts: dict[str, Any],
    plots: dict[str, Any],
) -> list[Finding]:
    """Compute and draw what the sample shows, into `parts` and `plots`.

    Gives how the vectors are.
    """
    first = color_column(sample, asked.color)
    statistics = (gathered.report.get("statistics") or {}).get(sample.column)
    figures = over_all_rows(health(sample.x, asked.seed), statistics)
    plots |= _health_plots(draw, figures)
    clusters = _clusters(sample)
    moved: dict[str, list[float | None]] = {}
    if asked.against is not None:
        drift = compare(asked.path, asked.against, sample, asked.column)
        parts["drift"] = _drift(asked.against, drift, sample)
        if len(drift.kept):
            plots["kept"] = draw.histogram(drift.kept, "kept", "share of the nearest rows that is the same")
            shares = np.full(len(sample.ids), np.nan)
            shares[drift.rows] = drift.kept
            moved["nearest rows kept"] = [None if np.isnan(share) else float(share) for share in shares]
    plane, told = layout(sample.x, asked.method, asked.seed)
    plots["map"] = draw.scatter(plane)
    shown = _named(clusters, parts["drift"]["most"] if "drift" in parts else ())
    thumbnails = {row: image for row, image in enumerate(sample.thumbnails or ()) if image}
    parts |= {
        "sound": soundness(figures | {"broken": sample.broken}),
        "health_plots": [(name, words) for name, words in _HEALTH_PLOTS if name in plots],
        "clusters": clusters,
        "clusters_left": len(set((sample.clusters if sample.clusters is not None else np.empty(0)).tolist()))
        - len(clusters),
        "worded": any(item.words for item in clusters),
        "label": label_column(sample) if clusters else None,
        "names": sample.names,
        "thumbnails": {row: image for row, image in thumbnails.items() if row in shown},
        "map_told": f"{_chosen(len(plane))}, laid out by {told}. The pointer shows a row; "
        "the legend hides and shows groups.",
        "points": as_script(_points(sample, first, clusters, moved, thumbnails)),
    }
    return list(parts["sound"])


def _named(clusters: Sequence[Cluster], moved: Sequence[Mapping[str, Any]]) -> set[int]:
    """List the rows that stand in tables."""
    rows = {row for item in clusters for row in item.central}
    return rows.union(*({item["row"], item["nearest_here"], item["nearest_there"]} for item in moved))


def _chosen(rows: int) -> str:
    return "1 row, the only one" if rows == 1 else f"{rows:,} rows, chosen by hash"


def _points(
    sample: Sample,
    first: str | None,
    clusters: list[Cluster],
    moved: dict[str, list[float | None]],
    thumbnails: dict[int, str],
) -> dict[str, Any]:
    """Give the map's script what it needs."""
    sources: dict[str, int] = {}
    codes = [sources.setdefault(source, len(sources)) for source, _ in sample.keys]
    return {
        "ids": sample.ids.tolist(),
        "sources": {"values": [plain_line(source) for source in sources], "codes": codes},
        "positions": [row for _, row in sample.keys],
        "columns": columns_of(sample, moved),
        "color": first,
        "palette": COLORS,
        "ramp": RAMP,
        "titles": {str(item.cluster): item.title for item in clusters},
        "thumbnails": thumbnails or None,
    }


def _health_plots(draw: Any, figures: dict[str, Any]) -> dict[str, Any]:
    """Draw the figures of the vectors; what has nothing to show is left out."""
    dims = np.arange(1, figures["dim"] + 1)
    plots = {"norms": draw.histogram(figures["norms"], "norms", "L2 norm")}
    if len(figures["cosines"]):
        plots["cosines"] = draw.histogram(figures["cosines"], "cosines", "cosine")
    if figures["effective"] > 0:
        spread = np.sort(figures["spread"])[::-1]
        names = ("principal components", "share of the variance")
        plots["explained"] = draw.line(dims, figures["explained"], "explained", names)
        plots["spread"] = draw.line(dims, spread, "spread", ("dimension", "standard deviation"))
        plots["mean"] = draw.line(dims, figures["mean"], "mean", ("dimension", "mean"), from_zero=False)
    return plots


def _clusters(sample: Sample) -> list[Cluster]:
    if sample.clusters is None or sample.distance is None:
        return []
    texts = sample.texts or [""] * len(sample.ids)
    if sample.texts is None and sample.thumbnails is None and sample.kept:
        texts = [" ".join(values) for values in zip(*sample.kept.values(), strict=True)]
    label = label_column(sample)
    kinds = None if label is None else sample.kept[label]
    return clusters_of(sample.clusters, sample.distance, texts, _CLUSTERS, sample.sizes, kinds)


def _drift(other: str, drift: Drift, sample: Sample) -> dict[str, Any]:
    """Word what moved between two runs."""
    most = [
        {
            "row": item.row,
            "id": f"{sample.ids[item.row]:,}",
            "kept": item.kept,
            "nearest_here": item.nearest_here,
            "nearest_there": item.nearest_there,
        }
        for item in drift.most
    ]
    return {"path": plain_line(other), "rows": drift.lines(), "most": most}


def _told(gathered: Gathered, price: float | None) -> dict[str, Any]:
    """Word what the run itself tells, without its vectors."""
    stage, report = gathered.run.is_stage, gathered.report
    drawn = bars(report)
    of_all = {part.key: part.share for part in drawn[0].shares} if drawn else {}
    keys = {part.key: part.name for bar in drawn for part in bar.shares}
    return {
        "card": card(gathered, price),
        "reasons": sorted(gathered.reasons.items(), key=lambda item: -item[1]),
        "rejects": gathered.rejects,
        "no_sample": gathered.why_no_sample,
        "course": stage_course(report) if stage else course(report),
        "bars": drawn,
        "bar_keys": [(key, name, of_all.get(key)) for key, name in keys.items()],
        "memory": [(kind, size(held), share) for kind, held, share in memory(report)],
        "predicted": [] if stage else compared(gathered.run.path, report),
        "stages": stages(gathered.stages),
        "settings": settings(gathered.header),
        "written": f"Written by embed-ops {__version__} on {datetime.now(UTC):%Y-%m-%d}. "
        "Everything on this page is in this file.",
    }
