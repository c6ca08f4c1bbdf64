"""What the map's script is given: columns of the rows, density, and colours to choose from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.analysis.page.sample import Sample, shortened
from embed_ops.errors import StageError

COLORS = (
    *("#3b76b5", "#e08a2c", "#3f9b58", "#c94a4a", "#8a63b8", "#f810a8", "#b8c800", "#706028"),
    *("#00d0d0", "#40d848", "#0050e0", "#f898c0", "#d060f8", "#f0b090", "#e04000", "#186860"),
    *("#805058", "#f80068", "#d0c060", "#a02878", "#608000", "#48c8f8", "#b0c898", "#e8b810"),
    *("#f890f0", "#c0b8f8", "#3880f0", "#904818", "#f01038", "#00d880", "#008808", "#90d060"),
)
"""Of groups, largest first: far from each other in Lab, and legible on light and on dark."""
RAMP = ("#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26")
"""Of numbers, from the least to the greatest (viridis without its ends)."""
TEXT, CLUSTER = "text", "cluster"
_EXACT = 2**53
_MOST_TEXT = 4_500_000
"""Characters of texts and kept columns on a page."""


def columns_of(sample: Sample, more: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """Give the columns of a sample as the script takes them.

    Texts are coded: `values` are the distinct ones and `codes` which of them each row has. Numbers
    are `numbers`, null where there is none.

    Args:
        sample: the rows.
        more: columns of numbers beside those of the sample, by name.
    """
    columns: list[dict[str, Any]] = []
    if sample.clusters is not None:
        columns.append(_coded(CLUSTER, [str(cluster) for cluster in sample.clusters.tolist()]))
    for name, of in more.items():
        rounded = [None if value is None else round(value, 4) for value in of]
        columns.append({"name": name, "numbers": rounded})
    longest = _longest(sample)
    for name, values in sample.kept.items():
        if name in sample.numbers and all(map(_exact, values)):
            columns.append({"name": name, "numbers": [_number(value) for value in values]})
        else:
            # Numbers of more digits than a script holds exactly, as many ids are, stay text.
            columns.append(_coded(name, [value[:longest] for value in values]))
    if sample.texts is not None:
        columns.append(_coded(TEXT, [shortened(text)[:longest] for text in sample.texts]) | {"prose": True})
    return columns


def _longest(sample: Sample) -> int:
    """Say how many characters of a value there is room for."""
    columns = len(sample.kept) - len(sample.numbers) + (sample.texts is not None)
    return max(24, _MOST_TEXT // max(1, columns * len(sample.ids)))


def _exact(text: str) -> bool:
    """Tell whether a script can hold a number as it is; floats are rounded there as everywhere."""
    return not text.lstrip("-").isdecimal() or abs(int(text)) <= _EXACT


def _number(text: str) -> float | int | None:
    if text.lstrip("-").isdecimal():
        return int(text)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _coded(name: str, values: Sequence[str]) -> dict[str, Any]:
    places: dict[str, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return {"name": name, "values": list(places), "codes": codes}


def color_column(sample: Sample, color: str | None) -> str | None:
    """Say by what rows are coloured at first; None by nothing.

    Raises:
        StageError: there is no such column.
    """
    if color == CLUSTER and sample.clusters is None and CLUSTER not in sample.kept:
        raise StageError("the run has no clusters: run a kmeans stage first, or colour by a kept column")
    if color is not None:
        if color not in sample.kept and color != CLUSTER:
            known = ", ".join([*sample.kept, CLUSTER])
            raise StageError(f"no column {color!r} was kept; there are {known}")
        return color
    return CLUSTER if sample.clusters is not None else label_column(sample)


def label_column(sample: Sample) -> str | None:
    """Find the kept column or folder that says most of what kind rows are.

    The one that the clusters were held against, else the one with the fewest values.
    """
    if sample.label in sample.kept:
        return sample.label
    few = {name: len(set(values)) for name, values in sample.kept.items()}
    few = {name: n for name, n in few.items() if 1 < n <= max(2, len(sample.ids) // 5)}
    return min(few, key=lambda name: few[name], default=None)


def density(plane: npt.NDArray[np.float64], side: int = 160) -> dict[str, Any]:
    """Smooth how many rows lie where: (side, side) of 0 to 255, and the box that it covers."""
    from scipy.ndimage import gaussian_filter

    low, high = plane.min(axis=0), plane.max(axis=0)
    room = np.maximum(0.08 * (high - low), 1e-9)
    low, high = low - room, high + room
    counted = np.histogram2d(
        plane[:, 1], plane[:, 0], bins=side, range=[(low[1], high[1]), (low[0], high[0])]
    )[0]
    smooth = gaussian_filter(counted, side / 64)
    shares = np.sqrt(smooth / max(smooth.max(), 1e-12))
    return {"image": (255 * shares).astype(np.uint8), "low": low.tolist(), "high": high.tolist()}


def as_script(tree: Any) -> str:
    """Write values as JSON that may stand in a script: nothing in it ends that, or begins a tag."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
