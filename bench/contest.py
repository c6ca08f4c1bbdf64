"""Our command and other programs on the same files with the same model.

Each in turn, then their medians, ratios and cosines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer import Vectors
from record import spread

from embed_ops import Run
from embed_ops.embedding.parity import cosines
from embed_ops.runs.parquet import vectors_of

OURS, EXACT = "embed-ops", "embed-ops float32"

Found = tuple[dict[str, Any], Vectors]
"""Figures of one run, `steady` and `whole` among them, and its vectors."""
Runs = dict[str, list[dict[str, Any]]]


def our_sides(words: list[str]) -> dict[str, list[str]]:
    """Name our sides, with the words of each: as asked for, and in float32."""
    return {OURS: words, EXACT: [*words, "encoder.dtype=float32"]}


def ours(command: Callable[[Path], list[str]], folder: Path, figures: Iterable[str]) -> Found:
    """Run our command on a new run directory, which it is given.

    Steady: from the first unit in to the last unit out.
    """
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    began = time.perf_counter()
    subprocess.run(command(run), check=True, capture_output=True)
    whole = time.perf_counter() - began
    done = Run(str(run))
    report = done.report
    found = {
        "steady": report["rows_per_second"],
        "whole": whole,
        "resolved": report["resolved"],
        "time": report["time"],
    }
    found |= {name: report[name] for name in figures}
    return found, np.asarray(vectors_of(done.open().to_table(columns=["embedding"])["embedding"]), np.float32)


def peer(program: str, name: str, files: Path, model: str, folder: Path) -> Found:
    """Run one peer of a program beside this one, in a process of its own."""
    out = folder / f"{name}.npy"
    line = [sys.executable, str(Path(__file__).parent / program), name, str(files), model, str(out)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def in_turn(
    sides: Mapping[str, Callable[[], Found]], repeats: int, unit: str
) -> tuple[Runs, dict[str, Vectors]]:
    """Run each side, and all of them again.

    Gives the figures of every run and the vectors of the last.
    """
    runs: Runs = {side: [] for side in sides}
    vectors: dict[str, Vectors] = {}
    for _ in range(repeats):
        for side, run in sides.items():
            found, vectors[side] = run()
            runs[side].append(found)
            sys.stdout.write(f"{side} {found['steady']:.1f} {unit}, whole {found['whole']:.1f} s\n")
            sys.stdout.flush()
    return runs, vectors


def compared(
    runs: Runs,
    vectors: Mapping[str, Vectors],
    mine: Iterable[str],
    against: Sequence[str],
    unit: str,
    figures: Sequence[str],
) -> dict[str, Any]:
    """Give the spread of each side's speed and of our figures, and our ratio to the others."""
    found: dict[str, Any] = {
        f"{side} {unit}": spread([run["steady"] for run in done]) for side, done in runs.items()
    }
    found |= {f"{side} whole, s": spread([run["whole"] for run in done]) for side, done in runs.items()}
    for side in mine:
        for figure in figures:
            found[f"{side} {figure}"] = spread([run[figure] for run in runs[side]])
        for other in against:
            found[f"{side} times {other}"] = (
                found[f"{side} {unit}"]["median"] / found[f"{other} {unit}"]["median"]
            )
            close = cosines(vectors[side], vectors[other])
            found[f"{side} cosine to {other}"] = {"mean": float(close.mean()), "min": float(close.min())}
    return found
