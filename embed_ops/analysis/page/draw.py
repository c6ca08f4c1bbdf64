"""Figures to HTML: Bokeh's plots, and the template around them, with everything inline."""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.embed import components
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.palettes import Category20_20
from bokeh.plotting import figure
from bokeh.resources import INLINE
from jinja2 import Environment

from embed_ops.analysis.page.gather import Sample, shortened
from embed_ops.analysis.summary import PARTS_OF_TIME

_COLORS = 19
_OTHERS = "#bbbbbb"
_INK = "#31688e"
_TIMES = PARTS_OF_TIME | {"uneven": "began late or done early"}
_TIME_COLORS = ["#2a7f62", "#c9a227", "#5b8db8", "#c0504d", "#e08e79", "#bbbbbb"]


def _plot(title: str, x: str, y: str, **options: Any) -> Any:
    plot = figure(
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        height=240,
        sizing_mode="stretch_width",
        toolbar_location=None,
        **{"tools": "", **options},
    )
    plot.title.text_font_size = "13px"
    plot.grid.grid_line_color = "#eeeeee"
    return plot


def histogram(values: npt.NDArray[np.float64], title: str, x: str) -> Any:
    """Draw how values are spread."""
    low, high = float(values.min()), float(values.max())
    # Norms that differ by rounding alone are one bar: their ticks would have nine digits.
    if high - low < 1e-5 * max(1.0, abs(high)):
        # About their middle, so that they fall into one bin of an odd number.
        low, high = (low + high - 1) / 2, (low + high + 1) / 2
    counts, edges = np.histogram(values, bins=41, range=(low, high))
    plot = _plot(title, x, "rows")
    plot.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], fill_color=_INK, line_color="white")
    return plot


def line(
    x: Sequence[float], y: Sequence[float], title: str, names: tuple[str, str], *, from_zero: bool = True
) -> Any:
    """Draw a line."""
    plot = _plot(title, *names)
    plot.line(list(x), list(y), line_color=_INK, line_width=2)
    if from_zero:
        plot.y_range.start = 0
    return plot


def times(shares: Mapping[str, float]) -> Any:
    """Draw where the replicas' time went, as one bar."""
    names = [name for name in _TIMES if shares.get(name)]
    plot = _plot(
        "where the replicas' time went",
        "share of the time",
        "",
        tools="hover",
        tooltips=[("", "@name: @share{0.0%}")],
    )
    left = 0.0
    for name in names:
        color = _TIME_COLORS[list(_TIMES).index(name)]
        source = ColumnDataSource(
            {"left": [left], "right": [left + shares[name]], "name": [_TIMES[name]], "share": [shares[name]]}
        )
        plot.quad(
            left="left",
            right="right",
            bottom=0,
            top=1,
            source=source,
            fill_color=color,
            line_color="white",
            legend_label=_TIMES[name],
        )
        left += shares[name]
    plot.yaxis.visible = False
    plot.y_range.end = 2.2
    plot.legend.orientation, plot.legend.location, plot.legend.label_text_font_size, plot.legend.ncols = (
        "horizontal",
        "top_left",
        "11px",
        3,
    )
    plot.legend.border_line_color = None
    return plot


def scatter(
    sample: Sample,
    plane: npt.NDArray[np.float64],
    method: str,
    groups: Sequence[str],
    what: str,
    words: Mapping[str, str],
) -> Any:
    """Draw the map of the sample: a point a row, coloured by group; hover shows the row.

    `words` stand in the middle of their groups.
    """
    counts = Counter(groups)
    named = [name for name, _ in counts.most_common(_COLORS if len(counts) > _COLORS + 1 else _COLORS + 1)]
    colors = {name: Category20_20[place] for place, name in enumerate(named)}
    shown = {name: values for name, values in sample.kept.items() if name != what}
    points: dict[str, Any] = {
        "x": plane[:, 0],
        "y": plane[:, 1],
        "row": sample.ids,
        "group": list(groups),
        "color": [colors.get(group, _OTHERS) for group in groups],
    }
    points |= {f"kept_{place}": values for place, values in enumerate(shown.values())}
    if sample.texts is not None:
        points["text"] = [shortened(text) for text in sample.texts]
    tips = [
        ("row", "@row{0}"),
        (what, "@group"),
        *((name, f"@kept_{place}") for place, name in enumerate(shown)),
    ]
    tips += [("text", "@text")] if sample.texts is not None else []
    plot = figure(
        title=f"{len(plane):,} rows by {method}, coloured by {what}",
        height=560,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset",
        active_scroll=None,
        output_backend="canvas",
    )
    plot.axis.visible = False
    plot.grid.visible = False
    marks = plot.scatter(
        "x", "y", source=ColumnDataSource(points), size=5, color="color", alpha=0.7, line_color=None
    )
    _name_middles(plot, plane, groups, words)
    # Bokeh puts values into the tips as text, so what stands in a row is never run.
    plot.add_tools(HoverTool(renderers=[marks], tooltips=tips))
    return plot


def _name_middles(
    plot: Any, plane: npt.NDArray[np.float64], groups: Sequence[str], words: Mapping[str, str]
) -> None:
    """Put the words of each group where half of its points lie to each side."""
    names = np.array(groups, object)
    middles = [
        (np.median(plane[names == group], axis=0), text)
        for group, text in words.items()
        if (names == group).any()
    ]
    if middles:
        places = {
            "x": [at[0] for at, _ in middles],
            "y": [at[1] for at, _ in middles],
            "text": [text for _, text in middles],
        }
        look = {
            "text_font_size": "13px",
            "text_align": "center",
            "text_color": "#111111",
            "background_fill_color": "white",
        }
        plot.text("x", "y", text="text", source=ColumnDataSource(places), background_fill_alpha=0.65, **look)


def page(title: str, parts: Mapping[str, Any], plots: Mapping[str, Any]) -> str:
    """Fill the template: `plots` by name become `parts["plots"][name]`."""
    script, placed = components(dict(plots)) if plots else ("", {})
    file = importlib.resources.files("embed_ops.analysis.page").joinpath("page.html")
    template = Environment(autoescape=True).from_string(file.read_text(encoding="utf-8"))
    return template.render(
        title=title, resources=INLINE.render_js() if plots else "", script=script, plots=placed, **parts
    )
