"""Planning 100,000 files: listing, footers, spans, the plan file, and taking stock of it."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from record import write_record

from embed_ops.runs.directory import RunDir
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.ledger import take_stock
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.source import ParquetSourceSpec


def main() -> None:
    """Make the files, plan them, record the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=100, help="of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": [f"row {n}" for n in range(options.rows)]}), sink)
        content = sink.getvalue().to_pybytes()
        for number in range(options.files):
            place = folder / "corpus" / f"part={number // 1000:04d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:06d}.parquet").write_bytes(content)
        marks = [time.perf_counter()]
        corpus = Corpus.open(ParquetSourceSpec(path=str(folder / "corpus"), column="text"))
        marks.append(time.perf_counter())
        plan = corpus.plan()
        marks.append(time.perf_counter())
        run, attempt = RunDir.at(str(folder / "run")), new_attempt()
        run.write_plan(plan, attempt)
        marks.append(time.perf_counter())
        again = run.read_plan()
        marks.append(time.perf_counter())
        stock = take_stock(again, {}, 16_384)
        marks.append(time.perf_counter())
    steps = ("list", "read footers and form spans", "write the plan", "read the plan", "take stock")
    seconds = {step: marks[place + 1] - marks[place] for place, step in enumerate(steps)}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "seconds": seconds,
        "seconds in all": marks[-1] - marks[0],
        "peak bytes": memory,
        "spans": len(stock.works),
    }
    path = write_record("plan", {"files": options.files, "rows per file": options.rows}, figures)
    print(
        f"{options.files} files planned in {marks[-1] - marks[0]:.1f} s, {memory / 1e6:.0f} MB; record "
        f"in {path}"
    )


if __name__ == "__main__":
    main()
