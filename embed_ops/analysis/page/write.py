"""`report.html`: gathers, computes, draws, writes."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embed_ops.analysis.page.gather import Gathered, Sample, gather_page, shortened
from embed_ops.analysis.page.health import clusters_of, drift, health, layout, over_all_rows
from embed_ops.analysis.page.verdict import completeness, course, soundness, stage_course, throughput
from embed_ops.analysis.prediction import compared
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import StageError
from embed_ops.lazy import require
from embed_ops.redaction import redacted, redacted_tree
from embed_ops.runs.columns import positions, read_unit
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows
from embed_ops.storage.files import publish
from embed_ops.storage.location import locate
from embed_ops.terminal import plain_line

SAMPLE_ROWS = 3_000
_CLUSTERS = 24
_FIGURES = 4


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
        color: kept column or folder that colours the map; by default the clusters, where there are
            any, or the folder or column with the fewest values.
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
    gathered = gather_page(path, most, seed, column)
    parts: dict[str, Any] = {"sound": [], "clusters": [], "against": None}
    plots: dict[str, Any] = {}
    sample = gathered.sample
    if sample is not None:
        reporter.say(f"laying {len(sample.ids):,} rows out")
        statistics = (gathered.report.get("statistics") or {}).get(sample.column)
        figures = over_all_rows(health(sample.x, seed), statistics)
        parts["sound"] = soundness(figures | {"broken": sample.broken})
        parts["clusters"] = _clusters(sample)
        plots["map"] = _map(draw, sample, color, method, seed, parts["clusters"])
        plots |= _plots_of(draw, figures)
        if against is not None:
            parts["against"] = {"path": plain_line(against), "rows": _against(path, against, sample, column)}
    plots |= _course_plots(draw, gathered)
    parts |= _told(gathered, price)
    html = draw.page(plain_line(f"embed-ops: {path}"), parts, plots)
    target = output or f"{path.rstrip('/')}/report.html"
    folder, _, name = target.rpartition("/")
    publish(locate(folder or "."), name, html.encode(), new_attempt() if output is None else None)
    return target


def _map(
    draw: Any, sample: Sample, color: str | None, method: str, seed: int, clusters: list[dict[str, Any]]
) -> Any:
    """Lay the sample out and draw it; clusters are named by the words that set them apart."""
    plane, told = layout(sample.x, method, seed)
    groups, what = _groups(sample, color)
    words = {}
    if what == "cluster":
        words = {str(item["cluster"]): " ".join(item["words"][:2]) for item in clusters}
    return draw.scatter(sample, plane, told, groups, what, words)


def _course_plots(draw: Any, gathered: Gathered) -> dict[str, Any]:
    """Draw how the run went, as far as it has told."""
    plots = {}
    seconds, rates = throughput(gathered.records)
    if rates:
        names = ("seconds since the first unit", "rows/s")
        plots["throughput"] = draw.line(seconds, rates, "rows a second", names)
    if gathered.report.get("time"):
        plots["times"] = draw.times(gathered.report["time"])
    return plots


def _plots_of(draw: Any, figures: dict[str, Any]) -> dict[str, Any]:
    """Draw the figures of the sample."""
    dims = np.arange(1, figures["dim"] + 1)
    spread = np.sort(figures["spread"])[::-1]
    cosines = figures["cosines"] if len(figures["cosines"]) else np.zeros(1)
    return {
        "norms": draw.histogram(figures["norms"], "norms", "L2 norm"),
        "cosines": draw.histogram(cosines, "cosines of random pairs", "cosine"),
        "spread": draw.line(
            dims, spread, "spread of each dimension, widest first", ("dimension", "standard deviation")
        ),
        "mean": draw.line(
            dims, figures["mean"], "mean of each dimension", ("dimension", "mean"), from_zero=False
        ),
        "explained": draw.line(
            dims,
            figures["explained"],
            "variance explained",
            ("principal components", "share of the variance"),
        ),
    }


def _groups(sample: Sample, color: str | None) -> tuple[list[str], str]:
    """Say by what rows are coloured.

    Raises:
        StageError: there is no such column.
    """
    if color is not None and color != "cluster":
        if color not in sample.kept:
            raise StageError(
                f"no column {color!r} was kept; there are {', '.join([*sample.kept, 'cluster'])}"
            )
        return sample.kept[color], color
    if sample.clusters is not None:
        return [str(cluster) for cluster in sample.clusters.tolist()], "cluster"
    if color == "cluster":
        raise StageError("the run has no clusters: run a kmeans stage first, or colour by a kept column")
    few = {
        name: len(set(values))
        for name, values in sample.kept.items()
        if 1 < len(set(values)) <= max(2, len(values) // 5)
    }
    if few:
        name = min(few, key=lambda name: few[name])
        return sample.kept[name], name
    return ["all"] * len(sample.ids), "nothing"


def _clusters(sample: Sample) -> list[dict[str, Any]]:
    if sample.clusters is None or sample.distance is None:
        return []
    texts = (
        sample.texts
        or [" ".join(values) for values in zip(*sample.kept.values(), strict=True)]
        or [""] * len(sample.ids)
    )
    longest = max(sample.kept, key=lambda name: len(set(sample.kept[name])), default=None)
    names = sample.kept[longest] if longest is not None else [shortened(text) for text in texts]
    return clusters_of(sample.clusters, sample.distance, names, texts, _CLUSTERS, sample.sizes)


def _against(path: str, other: str, sample: Sample, column: str | None) -> list[tuple[str, str]]:
    """Find the rows of the sample in another run, by where they come from, and compare.

    Raises:
        StageError: the other run has none of these rows.
    """
    rows = RunRows(locate(other))
    vectors = rows.vector(column)
    places = {key: place for place, key in enumerate(sample.keys)}
    wanted: dict[str, list[int]] = {}
    for source, row in sorted(sample.keys):
        wanted.setdefault(source, []).append(row)
    mine, theirs = [], []
    for record in (record for record in rows.records if _has_any(record, wanted)):
        where = positions(rows.lineage[-1][0], record.unit, record.rows)
        keys = list(zip(where.column("_source").to_pylist(), where.column("_row").to_pylist(), strict=True))
        there = [(place, places[key]) for place, key in enumerate(keys) if key in places]
        if there:
            theirs.append(read_unit(vectors, record.unit, record.rows)[[place for place, _ in there]])
            mine.append(sample.x[[place for _, place in there]])
    if not mine:
        raise StageError(f"{other}: has none of the sampled rows of {path}: compare runs of the same source")
    told = drift(np.concatenate(mine), np.concatenate(theirs))
    lines = [("rows compared", f"{told['rows']:,}"), ("dimensions", " and ".join(map(str, told["dims"])))]
    lines.append(("ten nearest rows kept", f"{told['neighbors_kept']:.1%}"))
    if "mean_moved" in told:
        lines.append(("cosine of a row here and there, mean", f"{told['cosine_of_same_rows']:.4f}"))
        lines.append(("mean moved by, in standard deviations", f"{told['mean_moved']:.4f}"))
        lines.append(("spread there to spread here", f"{told['spread_ratio']:.4f}"))
    return lines


def _has_any(record: Record, wanted: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether a unit's ranges hold any of the (ascending) rows of a source file.

    Runs may be cut into other units.
    """
    for part in record.ranges:
        rows = wanted.get(part["source"], ())
        place = bisect.bisect_left(rows, part["begin"])
        if place < len(rows) and (part["end"] is None or rows[place] < part["end"]):
            return True
    return False


def _told(gathered: Gathered, price: float | None) -> dict[str, Any]:
    model = gathered.header.model or {}
    stage = gathered.run.is_stage
    resolved = gathered.header.resolved
    made_by = redacted(str(model.get("model") or gathered.header.spec.get("kind") or ""))
    if made_by.startswith("/"):
        made_by = "/".join(made_by.rstrip("/").split("/")[-2:])
    details = [made_by, str(resolved.get("dtype") or ""), f"status {gathered.run.status}"]
    stages = []
    for item in gathered.stages:
        figures = {**(item.get("model") or {}), **(item.get("quality") or {})}
        plain = [
            f"{name.replace('_', ' ')} {value:,.4g}"
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        stages.append(
            {
                "name": item["name"],
                "kind": item["kind"],
                "rows": item["rows"],
                "figures": ", ".join(plain[:_FIGURES]),
            }
        )
    return {
        "subtitle": ", ".join(part for part in details if part),
        "complete": completeness(gathered.run.status, gathered.records, gathered.report, gathered.planned),
        "reasons": sorted(gathered.reasons.items(), key=lambda item: -item[1]),
        "rejects": gathered.rejects,
        "no_sample": gathered.why_no_sample,
        "course": stage_course(gathered.report) if stage else course(gathered.report, price),
        "predicted": [] if stage else compared(gathered.run.path, gathered.report),
        "stages": stages,
        "spec": json.dumps(redacted_tree(gathered.header.spec), indent=2),
    }
