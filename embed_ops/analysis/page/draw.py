"""Figures to HTML: Bokeh's plots, and the template around them, with everything inline."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.core.properties import value
from bokeh.embed import components
from bokeh.models import (
    BoxZoomTool,
    CDSView,
    ColumnDataSource,
    HoverTool,
    IndexFilter,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment

from embed_ops.analysis.page.points import density

_INK = "#3b76b5"
_GRAY = "#737b88"
"""Of axes: legible on light and on dark until the script knows which it is."""
_FONT = "system-ui, sans-serif"
_MANY, _MOST = 4_000, 12_000


def _plot(title: str, x: str, y: str) -> Any:
    plot = figure(
        x_axis_label=x,
        y_axis_label=y,
        height=210,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        name=title,
    )
    plot.grid.grid_line_color = _GRAY
    plot.grid.grid_line_alpha = 0.18
    plot.xgrid.visible = False
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = _GRAY
        axis.minor_tick_line_color = None
        axis.axis_label_text_color = axis.major_label_text_color = _GRAY
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "12px", "11px"
        axis.ticker.desired_num_ticks = 5
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
    plot.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], fill_color=_INK, line_color=None)
    plot.y_range.start = 0
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


def scatter(plane: npt.NDArray[np.float64]) -> Any:
    """Draw the map of the sample: a point a row, over a shade of how many lie where.

    Colours, the rows that are shown, names of groups and what the pointer shows are the script's.

    Drawn on a plain canvas: 20,000 points are redrawn in about a tenth of a second everywhere,
    while WebGL takes ten seconds where a browser has no GPU, and brings 200 KB.

    Args:
        plane: (rows, 2) places.
    """
    shade = density(plane)
    (left, bottom), (right, top) = shade["low"], shade["high"]
    plot = figure(
        x_range=Range1d(left, right),
        y_range=Range1d(bottom, top),
        height=620,
        sizing_mode="stretch_width",
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=0,
        name="map",
        tools=[
            PanTool(name="pan"),
            WheelZoomTool(name="wheel"),
            BoxZoomTool(name="box"),
            LassoSelectTool(name="lasso", continuous=False),
            TapTool(name="tap"),
        ],
    )
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.active_scroll = None
    _add_shade(plot, shade)
    marks = _add_points(plot, plane)
    _add_names(plot)
    plot.add_tools(HoverTool(renderers=[marks], tooltips=None, name="hover"))
    return plot


def _add_shade(plot: Any, shade: Mapping[str, Any]) -> None:
    """Lay a shade of how many rows lie where under the points."""
    (left, bottom), (right, top) = shade["low"], shade["high"]
    ink = [f"#8a93a3{round(1.1 * step):02x}" for step in range(128)]
    plot.image(
        [shade["image"]],
        x=left,
        y=bottom,
        dw=right - left,
        dh=top - bottom,
        color_mapper=LinearColorMapper(palette=ink, low=0, high=255),
        name="shade",
    )


def _add_points(plot: Any, plane: npt.NDArray[np.float64]) -> Any:
    """Draw a point for each row: the more there are, the smaller and the lighter."""
    many = len(plane)
    points = ColumnDataSource(
        {
            "x": plane[:, 0].astype(np.float32),
            "y": plane[:, 1].astype(np.float32),
            "color": np.full(len(plane), _INK).tolist(),
        },
        name="points",
    )
    return plot.scatter(
        "x",
        "y",
        source=points,
        view=CDSView(filter=IndexFilter(indices=list(range(many)))),
        size=6.5 if many < _MANY else 5 if many < _MOST else 4,
        fill_color="color",
        fill_alpha=0.85 if many < _MANY else 0.7 if many < _MOST else 0.55,
        line_color=None,
        nonselection_fill_alpha=0.07,
        selection_fill_alpha=1.0,
        name="marks",
    )


def _add_names(plot: Any) -> None:
    """Give the script a place for the names of groups."""
    plot.text(
        "x",
        "y",
        text="text",
        source=ColumnDataSource({"x": [], "y": [], "text": []}, name="names"),
        text_align="center",
        text_baseline="middle",
        text_font=value(_FONT),
        text_font_size="12px",
        text_font_style="bold",
        background_fill_color="#ffffff",
        background_fill_alpha=0.72,
        border_radius=4,
        padding=3,
        name="names",
    )


def page(title: str, parts: Mapping[str, Any], plots: Mapping[str, Any]) -> str:
    """Fill the template: `plots` by name become `plots[name]` in it."""
    script, placed = components(dict(plots)) if plots else ("", {})
    resources = Resources(mode="inline", components=["bokeh"], log_level="warn")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_file("page.html"))
    return template.render(
        title=title,
        style=_file("page.css"),
        scripts=[_file("page.js"), *([_file("map.js")] if "map" in plots else [])],
        resources=resources.render_js() if plots else "",
        script=script,
        plots=placed,
        **parts,
    )


def _file(name: str) -> str:
    return importlib.resources.files("embed_ops.analysis.page").joinpath(name).read_text(encoding="utf-8")
