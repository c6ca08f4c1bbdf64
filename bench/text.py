"""Rows per second of the whole job against sentence-transformers' `encode`, on the same texts, in turn."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as pads
from record import spread, write_record

from embed_ops.demo import minilm, write_corpus

_RIVAL = """
import json, sys, time
began = time.perf_counter()
import pyarrow.dataset as pads
from sentence_transformers import SentenceTransformer
texts = pads.dataset(sys.argv[1], format="parquet", partitioning="hive").to_table(columns=["text"])["text"].to_pylist()
model = SentenceTransformer(sys.argv[2], device="cpu")
model.encode(texts[:32])
start = time.perf_counter()
model.encode(texts)
end = time.perf_counter()
print(json.dumps({"steady": len(texts) / (end - start), "whole": end - began}))
"""


def ours(corpus: Path, folder: Path, words: list[str]) -> dict[str, float]:
    """Run the command; rows/s from the first unit in to the last unit out, and seconds of the whole command."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    line = [sys.executable, "-m", "jobs.embed", f"source.path={corpus}", "source.column=text", f"encoder.model={minilm()}"]
    began = time.perf_counter()
    subprocess.run([*line, f"sink.path={run}", *words, "--progress", "none"], check=True, capture_output=True)
    whole = time.perf_counter() - began
    report = json.loads((run / "report.json").read_text())
    names = ("utilization", "padding_waste")
    return {"steady": report["rows_per_second"], "whole": whole, **{name: report[name] for name in names}}


def rival(corpus: Path) -> dict[str, float]:
    """Run sentence-transformers at its defaults: rows/s of `encode`, and seconds with loading."""
    done = subprocess.run([sys.executable, "-c", _RIVAL, str(corpus), minilm()], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run both sides in turn, print medians and ratios, write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("words", nargs="*", help="section.key=value for our side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", options.rows)
        rows = pads.dataset(folder / "corpus", format="parquet").count_rows()
        mine, theirs = [], []
        for _ in range(options.repeats):
            theirs.append(rival(folder / "corpus"))
            mine.append(ours(folder / "corpus", folder, options.words))
            print(f"sentence-transformers {theirs[-1]['steady']:.1f} rows/s, embed-ops {mine[-1]['steady']:.1f} rows/s", flush=True)
    figures = {
        "embed-ops rows/s": spread([run["steady"] for run in mine]),
        "sentence-transformers rows/s": spread([run["steady"] for run in theirs]),
        "embed-ops whole command, s": spread([run["whole"] for run in mine]),
        "sentence-transformers whole script, s": spread([run["whole"] for run in theirs]),
        "utilization": spread([run["utilization"] for run in mine]),
        "padding waste": spread([run["padding_waste"] for run in mine]),
    }
    figures["ratio of medians"] = figures["embed-ops rows/s"]["median"] / figures["sentence-transformers rows/s"]["median"]
    settings = {"corpus": "docstrings", "rows": rows, "words": options.words, "model": "all-MiniLM-L6-v2", "order": "alternating"}
    path = write_record("text", settings, figures)
    print(f"{figures['ratio of medians']:.2f} times sentence-transformers; record in {path}")


if __name__ == "__main__":
    main()
