"""Rows per second of the whole job against other ways to embed the same files with the same model, in turn."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from corpora import CORPORA, write
from peers import PEERS, Vectors
from record import spread, write_record

from embed_ops import Run
from embed_ops.demo import minilm
from embed_ops.parity import cosines
from embed_ops.sinks.parquet import vectors_of

OURS, EXACT = "embed-ops", "embed-ops float32"


def ours(files: Path, folder: Path, words: list[str]) -> tuple[dict[str, Any], Vectors]:
    """Run the command; rows/s from the first unit in to the last unit out, seconds of the whole command, and the vectors."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    line = [sys.executable, "-m", "jobs.embed", f"source.path={files}", "source.column=text", f"encoder.model={minilm()}"]
    began = time.perf_counter()
    subprocess.run([*line, f"sink.path={run}", *words, "--progress", "none"], check=True, capture_output=True)
    whole = time.perf_counter() - began
    done = Run(str(run))
    report = done.report
    found = {"steady": report["rows_per_second"], "whole": whole, "resolved": report["resolved"], "time": report["time"]}
    found |= {name: report[name] for name in ("utilization", "padding_waste", "gemm_flops_per_second", "flops_per_second")}
    return found, np.asarray(vectors_of(done.open().to_table(columns=["embedding"])["embedding"]), np.float32)


def peer(name: str, files: Path, folder: Path) -> tuple[dict[str, Any], Vectors]:
    """Run one peer in a process of its own."""
    out = folder / f"{name}.npy"
    line = [sys.executable, str(Path(__file__).parent / "peers.py"), name, str(files), minilm(), str(out)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def main() -> None:
    """Run all sides in turn, print medians and ratios, write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", choices=sorted(CORPORA), default="docstrings")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", default="st", help=f"comma-separated: {', '.join(PEERS)}")
    parser.add_argument("--float32", action="store_true", help="run our side in float32 too")
    parser.add_argument("words", nargs="*", help="section.key=value for our side")
    options = parser.parse_args()
    against = options.against.split(",")
    mine = {OURS: options.words} | ({EXACT: [*options.words, "encoder.dtype=float32"]} if options.float32 else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in [*against, *mine]}
    vectors: dict[str, Vectors] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write(options.corpus, folder, options.rows)
        files = folder / options.corpus
        for _ in range(options.repeats):
            for side in runs:
                found, vectors[side] = ours(files, folder, mine[side]) if side in mine else peer(side, files, folder)
                runs[side].append(found)
                sys.stdout.write(f"{side} {found['steady']:.1f} rows/s, whole {found['whole']:.1f} s\n")
                sys.stdout.flush()
    figures: dict[str, Any] = {f"{side} rows/s": spread([run["steady"] for run in found]) for side, found in runs.items()}
    figures |= {f"{side} whole, s": spread([run["whole"] for run in found]) for side, found in runs.items()}
    for name in mine:
        for figure in ("utilization", "padding_waste", "gemm_flops_per_second", "flops_per_second"):
            figures[f"{name} {figure}"] = spread([run[figure] for run in runs[name]])
        figures[f"{name} time of the last run"] = runs[name][-1]["time"]
        for side in against:
            figures[f"{name} times {side}"] = figures[f"{name} rows/s"]["median"] / figures[f"{side} rows/s"]["median"]
            close = cosines(vectors[name], vectors[side])
            figures[f"{name} cosine to {side}"] = {"mean": float(close.mean()), "min": float(close.min())}
    settings = {"corpus": options.corpus, "rows": rows, "words": options.words, "model": "all-MiniLM-L6-v2", "order": "alternating"}
    path = write_record("text", settings | {"resolved": runs[OURS][-1]["resolved"]}, figures)
    for name, figure in figures.items():
        sys.stdout.write(f"{name}: {figure}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()
