"""Stages as jobs over made-up runs: growth with rows, and memory at four million rows."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from made_run import make_run, mixture
from record import spread

from embed_ops.engine.memory import peak_memory

_FILE_ROWS = 100_000


def write_run(path: Path, rows: int, dim: int, clusters: int) -> Path:
    """Write a finished run of a mixture of normal distributions, in files of 100,000 rows.

    One that is there is kept.
    """
    if not (path / "run.json").exists():
        # In a process of its own: a command inherits the peak memory of the one that starts it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(_write, str(path), rows, dim, clusters).result()
    return path


def _write(path: str, rows: int, dim: int, clusters: int) -> None:
    make_run(
        path, [min(_FILE_ROWS, rows - first) for first in range(0, rows, _FILE_ROWS)], mixture(dim, clusters)
    )


def job(run: Path, output: Path, *words: str) -> tuple[float, dict[str, Any]]:
    """Run one stage by the command, on all cores: seconds of the whole command, and its report."""
    shutil.rmtree(output, ignore_errors=True)
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "postprocess",
        str(run),
        *words,
        "--output",
        str(output),
        "--progress",
        "none",
    ]
    began = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - began, json.loads((output / "report.json").read_text())


def linear(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit and apply PCA and k-means over more and more rows, in turn.

    Seconds a million rows should not grow.
    """
    stages = {
        "pca": ("kind=pca", "dim=64"),
        "kmeans": (
            "kind=kmeans",
            f"k={options.k[0]}",
            "sample_rows=100000",
            "batch_rows=8192",
            "max_epochs=5",
            "patience=1000",
        ),
    }
    runs = {rows: write_run(folder / f"run{rows}", rows, options.dim, options.k[0]) for rows in options.rows}
    found: dict[str, dict[int, list[dict[str, float]]]] = {
        kind: {rows: [] for rows in runs} for kind in stages
    }
    for _ in range(options.repeats):
        for kind, words in stages.items():
            for rows, run in runs.items():
                whole, report = job(run, folder / "out", *words)
                seconds = report["seconds"]
                found[kind][rows].append(
                    {"whole command": whole, "fit": seconds["fit"], "apply": seconds["steady"]}
                )
    figures: dict[str, Any] = {}
    for kind, of in found.items():
        for rows, turns in of.items():
            figures[f"{kind}, {rows} rows, s"] = {
                name: spread([turn[name] for turn in turns]) for name in turns[0]
            }
        least, most = min(of), max(of)
        for name in ("fit", "apply"):
            few, many = (figures[f"{kind}, {rows} rows, s"][name]["median"] for rows in (least, most))
            figures[f"{kind}: {name} at {most // least} times the rows takes"] = (
                f"{many / few:.1f} times as long"
            )
    return figures


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit and apply PCA and k-means over a tenth of the rows and over all of them.

    Peak resident bytes of driver and workers.
    """
    place = options.folder or folder
    figures: dict[str, Any] = {}
    for rows in (options.memory_rows // 10, options.memory_rows):
        began = time.perf_counter()
        run = write_run(place / f"run{rows}", rows, 384, 1000)
        figures[f"{rows} rows: writing the run, s"] = time.perf_counter() - began
        for kind, *words in (("pca", "dim=128"), ("kmeans", "k=1000")):
            if kind not in options.memory_stages:
                continue
            whole, report = job(run, place / "out", f"kind={kind}", *words)
            figures[f"{rows} rows, {kind}"] = {
                "peak resident bytes": report["peak_memory"],
                "whole command, s": whole,
                "fit, s": report["seconds"]["fit"],
                "apply, s": report["seconds"]["steady"],
                "rounds": report["rounds"],
            }
            shutil.rmtree(place / "out")
        if not options.keep:
            shutil.rmtree(run)
    figures["this program, whose peak a command's driver inherits, bytes"] = peak_memory()
    for kind in options.memory_stages:
        few, many = (
            figures[f"{rows} rows, {kind}"]["peak resident bytes"]["driver"]
            for rows in (options.memory_rows // 10, options.memory_rows)
        )
        figures[f"{kind}: growth of the driver at ten times the rows, bytes"] = many - few
    return figures
