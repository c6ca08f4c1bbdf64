"""Labels, neighbours and duplicates under the kernels of several processors, against brute force.

Each kernel has a child process.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from embed_ops.numerics import exact
from embed_ops.numerics.tiles import product, unit_length
from embed_ops.numerics.topk import TopK
from embed_ops.postprocessing.search import Search
from embed_ops.stages.classify import LinearProbe
from embed_ops.stages.dedup import near_duplicates
from embed_ops.stages.kmeans.nearest import nearest, nearest_centers, squared_distances

Array = np.ndarray[Any, Any]
KERNELS = ["Haswell", "Zen", "Sandybridge", "SkylakeX"]
NEEDED = {"Haswell": "avx2", "Zen": "avx2", "Sandybridge": "avx", "SkylakeX": "avx512vl"}
DIM, ROWS = 24, 1100


def allowed(kernel: str) -> bool:
    """Tell whether this processor can run a kernel."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return any(NEEDED[kernel] in line.split() for line in lines if line.startswith("flags"))


def cases() -> Iterator[tuple[str, Array, Array]]:
    """Give rows and centres.

    Plain, equal, nearly equal, far from the origin, zeros, huge, tiny, mixed; one centre, many.
    """
    draw = np.random.default_rng(0)
    x, centers = draw.standard_normal((ROWS, DIM)), draw.standard_normal((60, DIM))
    yield "plain", x, centers
    yield "rows are centres", centers[draw.integers(0, 60, ROWS)], centers.astype(np.float32)
    yield "copies of centres", x, np.repeat(centers[:9], 49, axis=0)
    yield "nearly equal centres", x, centers[0] + 1e-6 * draw.standard_normal((50, DIM))
    yield (
        "rows half-way between two centres",
        np.repeat((centers[:30] + centers[30:]) / 2, 35, axis=0),
        centers,
    )
    yield "far from the origin", x + 1e4, centers + 1e4
    yield "zeros", 0 * x, np.concatenate([centers, 0 * centers])
    yield "huge", x * 1e30, centers * 1e30
    yield "tiny", x * 1e-30, centers * 1e-30
    scale = 10.0 ** draw.integers(-30, 30, (ROWS, 1))
    yield "of all sizes", x * scale, np.concatenate([centers, centers * 1e20, centers * 1e-20])
    yield "one centre", x, centers[:1]
    yield "several tiles of centres", x[:200], draw.standard_normal((2500, DIM))
    yield "one centre 2,500 times", x[:100], np.repeat(centers[:1], 2500, axis=0)


def brute(scores: Array, count: int) -> Array:
    """Sort all scores of each row, greatest first, the lower index before an equal one."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def distances(x: Array, centers: Array) -> Array:
    """Compute all squared distances in float64."""
    wide, centers = x.astype(np.float64), centers.astype(np.float64)
    return np.stack([exact.row_sums((row - centers) ** 2) for row in wide])


def cosines(x: Array, y: Array) -> Array:
    """Compute all cosines in float64, that of zeros being 0."""
    squares = exact.squared_norms(x)[:, None] * exact.squared_norms(y)
    dots = np.stack([exact.row_sums(row * y.astype(np.float64)) for row in x.astype(np.float64)])
    return dots / np.sqrt(np.where(squares > 0, squares, 1.0))


def centers_are_nearest(x: Array, centers: Array) -> Array:
    """Compare the three nearest centres with brute force, wherever a row lies."""
    count = min(3, len(centers))
    found = nearest_centers(x, centers, 3)
    expected = brute(-distances(x, centers), count)
    assert (found[:, :count] == expected).all()
    assert (found[:, count:] == -1).all()
    assert (nearest(x, centers) == expected[:, 0]).all()
    assert (nearest_centers(np.roll(x, 1, axis=0), centers, 3) == np.roll(found, 1, axis=0)).all()
    assert (nearest_centers(x[7:], centers, 3) == found[7:]).all()
    return found


def rows_are_neighbors(x: Array, centers: Array) -> Array:
    """Compare neighbours, by cosine and by dot product, with brute force."""
    found = []
    queries, ids = centers[:70].astype(np.float32), np.arange(len(x))
    wide = np.stack([exact.row_sums(query * x.astype(np.float64)) for query in queries.astype(np.float64)])
    for metric, scores in (("cosine", cosines(queries, x)), ("dot", wide)):
        best = TopK(queries, 5, metric)  # type: ignore[arg-type]
        for first in (700, 0):
            best.add(
                x[first : first + 700 if first == 0 else None],
                ids[first : first + 700 if first == 0 else None],
            )
        if metric == "cosine":
            scores = np.where(
                (exact.squared_norms(x) > 0) & (exact.squared_norms(queries) > 0)[:, None], scores, -np.inf
            )
        expected = brute(scores, 5)
        there = np.take_along_axis(scores, expected, axis=1) > -np.inf
        assert (best.result()[0] == np.where(there, expected, -1)).all()
        found.append(best.result()[0])
    probes = Search(None, 5, "cosine", None, centers, 4).probes(queries)  # type: ignore[arg-type]
    assert (probes == brute(-distances(unit_length(queries), centers), 4)).all()
    return np.concatenate([*found, probes], axis=1)


def groups_are_connected(x: Array, threshold: float) -> Array:
    """Compare groups of duplicates with the components of all pairs."""
    ids = np.arange(len(x))
    kept, _ = near_duplicates(x, ids, np.zeros(len(x)), threshold, "first")
    labels = connected_components(cosines(x, x) >= threshold, directed=False)[1]
    assert (kept == np.array([ids[labels == label].min() for label in labels])).all()
    return kept


def classes_are_likeliest(x: Array) -> Array:
    """Compare labels with brute force: of two equal classes the first, wherever a row lies."""
    draw = np.random.default_rng(1)
    weights = np.repeat(draw.standard_normal((8, DIM)), 2, axis=0)
    weights[5] += 1e-15
    names = tuple(f"{place:02d}" for place in range(16))
    probe = LinearProbe(names, np.full(DIM, 0.1), np.full(DIM, 0.7), weights, np.zeros(16), len(x), "label")
    standard = (x.astype(np.float64) - 0.1) / 0.7
    scores = np.stack([exact.row_sums(row * weights) for row in standard])
    found = probe.transform(x).astype(int)
    assert (found == brute(scores, 1)[:, 0]).all()
    assert (probe.columns(x, "")["predicted"] == probe.transform(x)).all()
    assert (probe.transform(np.roll(x, 1, axis=0)).astype(int) == np.roll(found, 1)).all()
    return found


def products_stay_in_place(x: Array) -> None:
    """See that float64 products of a tile, which PCA writes, do not depend on a row's place."""
    for columns in (1, 6, 30, 384):
        matrix = np.random.default_rng(2).standard_normal((DIM, columns))
        expected = product(x, x.mean(axis=0, dtype=np.float64), matrix)
        for shift in (1, 5, 333):
            rolled = product(np.roll(x, shift, axis=0), x.mean(axis=0, dtype=np.float64), matrix)
            assert (np.roll(rolled, -shift, axis=0) == expected).all()


def everything() -> dict[str, str]:
    """Run all comparisons, and give a digest of what was found in each."""
    found: dict[str, Any] = {}
    for name, rows, centers in cases():
        x = rows.astype(np.float32)
        labels = centers_are_nearest(x, centers)
        apart = squared_distances(x, centers.astype(np.float32), labels[:, 0])
        found |= {f"centres, {name}": labels, f"distances, {name}": apart, f"lengths, {name}": unit_length(x)}
        found[f"neighbours, {name}"] = rows_are_neighbors(x, centers)
        if name in ("plain", "rows are centres", "far from the origin", "zeros"):
            found[f"classes, {name}"] = classes_are_likeliest(x)
    draw = np.random.default_rng(3)
    copies = np.repeat(draw.standard_normal((40, DIM)), 25, axis=0) + 0.3 * draw.standard_normal((1000, DIM))
    copies[:300:2] = copies[1]
    copies[-3:] = 0
    for threshold in (0.93, 1.0):
        found[f"duplicates, {threshold}"] = groups_are_connected(copies.astype(np.float32), threshold)
    products_stay_in_place(copies.astype(np.float32))
    return {
        name: hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        for name, values in found.items()
    }


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """Run `everything` as it comes, under each kernel, and without numpy's vector instructions."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    settings = {kernel: {"OPENBLAS_CORETYPE": kernel} for kernel in KERNELS if allowed(kernel)}
    settings["as it comes"] = {}
    settings["no vector instructions"] = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(extensions),
        "OPENBLAS_CORETYPE": "Nehalem",
    }
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    children = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths} | setting,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, setting in settings.items()
    }
    return {name: json.loads(child.communicate()[0] or "{}") for name, child in children.items()}


def test_every_kernel_finds_the_same(seen: dict[str, dict[str, Any]]) -> None:
    """Each child passes its comparisons with brute force, and all find the same."""
    failed = [name for name, told in seen.items() if not told]
    assert not failed, f"{failed}: see what they wrote above"
    first = seen["as it comes"]["found"]
    assert len(first) > 40
    for name, told in seen.items():
        assert told["found"] == first, name


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_was_another(kernel: str, seen: dict[str, dict[str, Any]]) -> None:
    """A child did run the kernel that it was to run; Zen's is Haswell's."""
    if kernel not in seen:
        pytest.skip("this processor can't run it")
    assert seen[kernel]["kernel"] in {f"openblas {kernel}", "openblas Haswell" if kernel == "Zen" else ""}


if __name__ == "__main__":
    told = {"found": everything(), "kernel": exact.kernel_name()}
    sys.stdout.write(json.dumps(told))
