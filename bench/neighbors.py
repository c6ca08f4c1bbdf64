"""Exact nearest rows: products a second against a plain matrix product of the same shapes.

And clusters against all rows.

kernel     rows in memory, one core: TopK, the bare product, and argpartition, in turn
job        the whole search of a run on disk, on all cores, against the bare product's rate
clusters   recall and share of the work on docstrings, for several numbers of clusters
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from corpora import write
from made_run import make_run, mixture
from record import spread, write_record
from threadpoolctl import threadpool_limits

from embed_ops import Run, Spec, embed, postprocess
from embed_ops.analysis.neighbors import neighbors
from embed_ops.analysis.page.write import write_page
from embed_ops.demo import minilm
from embed_ops.numerics.topk import TopK
from embed_ops.spec.spec import parse_stage

TILE = 1024


def bare(queries: Any, x: Any) -> float:
    """Multiply tile by tile and throw the scores away: seconds."""
    out = np.empty((TILE, TILE), np.float32)
    began = time.perf_counter()
    for first in range(0, len(queries), TILE):
        tile = queries[first : first + TILE]
        for begin in range(0, len(x), TILE):
            part = x[begin : begin + TILE]
            np.matmul(tile, part.T, out=out[: len(tile), : len(part)])
    return time.perf_counter() - began


def partitioned(queries: Any, x: Any, k: int) -> float:
    """Multiply in large blocks and take the best of each by argpartition, for some queries.

    Seconds, as if for all.
    """
    began = time.perf_counter()
    for first in (0, TILE):
        best = []
        for begin in range(0, len(x), 65_536):
            scores = queries[first : first + TILE] @ x[begin : begin + 65_536].T
            best.append(np.argpartition(scores, -k, axis=1)[:, -k:])
    return (time.perf_counter() - began) * len(queries) / (2 * TILE)


def kernel(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search rows in memory on one core."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((options.rows, options.dim), np.float32)
    queries = draw.standard_normal((options.queries, options.dim), np.float32)
    ids = np.arange(len(x), dtype=np.int64)
    flops = 2.0 * len(x) * len(queries) * options.dim
    rates: dict[str, list[float]] = {"TopK": [], "bare product": [], "product and argpartition": []}
    with threadpool_limits(1):
        for _ in range(options.repeats):
            rates["bare product"].append(flops / bare(queries, x))
            best = TopK(queries, 10, "cosine")
            began = time.perf_counter()
            for first in range(0, len(x), 8192):
                best.add(x[first : first + 8192], ids[first : first + 8192])
            rates["TopK"].append(flops / (time.perf_counter() - began))
            rates["product and argpartition"].append(flops / partitioned(queries, x, 10))
    figures: dict[str, Any] = {f"{side}, flop/s": spread(found) for side, found in rates.items()}
    share = [ours / theirs for ours, theirs in zip(rates["TopK"], rates["bare product"], strict=True)]
    return figures | {"share of the bare product": spread(share)}


class Watch(threading.Thread):
    """Notes the most resident bytes of any Ray worker and of this process, until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worker = self.driver = 0
        self.done = threading.Event()

    def run(self) -> None:
        """Look five times a second."""
        while not self.done.wait(0.2):
            self.driver = max(self.driver, psutil.Process().memory_info().rss)
            for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::") and process.info[
                    "memory_info"
                ] is not None:
                    self.worker = max(self.worker, process.info["memory_info"].rss)


def job(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search a run on disk on all cores."""
    make_run(str(folder / "run"), [options.rows // 4] * 4, mixture(options.dim, 200))
    watch = Watch()
    watch.start()
    draw = np.random.default_rng(1)
    queries = draw.standard_normal((options.queries, options.dim), np.float32)
    x = draw.standard_normal((65_536, options.dim), np.float32)
    cores = len(os.sched_getaffinity(0))
    flops = 2.0 * options.rows * options.queries * options.dim
    rates: dict[str, list[float]] = {"job": [], "bare product": []}
    for _ in range(options.repeats):
        with threadpool_limits(cores):
            rates["bare product"].append(2.0 * len(x) * options.queries * options.dim / bare(queries, x))
        began = time.perf_counter()
        found = neighbors(str(folder / "run"), queries, 10)
        rates["job"].append(flops / (time.perf_counter() - began))
    figures: dict[str, Any] = {f"{side}, flop/s": spread(of) for side, of in rates.items()}
    figures["share of the bare product"] = statistics.median(rates["job"]) / statistics.median(
        rates["bare product"]
    )
    watch.done.set()
    began = time.perf_counter()
    page = Path(write_page(str(folder / "run")))
    figures["page"] = {"seconds": time.perf_counter() - began, "bytes": page.stat().st_size}
    memory = {"driver, with the queries": watch.driver, "worker": watch.worker}
    memory["driver, after the page"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures | {"rows": found.rows, "cores": cores, "greatest resident bytes": memory}


def clusters(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure recall on docstrings."""
    write("docstrings", folder, 20_000)
    tree = {
        "source": {"path": str(folder / "docstrings"), "column": "text"},
        "encoder": {"model": minilm()},
        "sink": {"path": str(folder / "run")},
    }
    run: Run = embed(Spec.parse(tree))
    postprocess(
        run.path,
        [parse_stage({"kind": "normalize"}), parse_stage({"kind": "kmeans", "k": 1000, "spherical": True})],
    )
    asked = np.random.default_rng(0).permutation(run.report["rows"])[:200]
    figures: dict[str, Any] = {"rows": run.report["rows"], "clusters": 1000}
    for probe in (5, 20, 42, 60, 100):
        found = neighbors(f"{run.path}/stages/kmeans", asked, 10, probe=probe)
        figures[f"probe {probe}"] = {"recall": found.recall, "share of the products": found.work}
    return figures


def main() -> None:
    """Run the parts that are asked for, and write a record of each."""
    parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
        "kernel": kernel,
        "job": job,
        "clusters": clusters,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*parts], action="append")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            figures = parts[name](options, Path(folder))
        settings = {"rows": options.rows, "queries": options.queries, "dim": options.dim, "k": 10}
        path = write_record(f"neighbors-{name}", settings, figures)
        for part, figure in figures.items():
            sys.stdout.write(f"{part}: {figure}\n")
        sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()
