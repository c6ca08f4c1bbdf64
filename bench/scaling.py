"""How the job scales: rows, nodes, replicas, resume, and the ledger of ten billion rows."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from corpora import write
from record import spread, write_record

from embed_ops import Run
from embed_ops.demo import minilm
from embed_ops.embedding.job import Job
from embed_ops.engine.local_cluster import local_cluster
from embed_ops.runs.directory import RunDir
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.ledger import take_stock
from embed_ops.runs.record import SECONDS, Record
from embed_ops.runs.work import Work
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span, unit_name
from embed_ops.storage.files import locate


def command(
    folder: Path, corpus: Path, model: str, *words: str, address: str | None = None
) -> tuple[float, dict[str, Any]]:
    """Run the command to its end, on a cluster if an address is given.

    Its seconds, and the report.
    """
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "embed",
        f"source.path={corpus}",
        "source.column=text",
        f"encoder.model={model}",
    ]
    began = time.perf_counter()
    line += [
        f"sink.path={folder}",
        *words,
        "--progress",
        "none",
        *(["--address", address] if address else []),
    ]
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - began, Run(str(folder)).report


def rows(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed more and more rows with a one-layer model.

    Rows/s, memory of the driver, and the same command again.
    """
    # Imports torch, which has no part in what `ledger` measures.
    from memory import write_model, write_rows

    write_model(folder / "model")
    figures = {}
    for count in options.rows:
        write_rows(folder / f"corpus{count}", count, 100_000)
        words = (
            folder / f"run{count}",
            folder / f"corpus{count}",
            str(folder / "model"),
            "resources.unit_rows=4096",
        )
        seconds, report = command(*words)
        again, _ = command(*words)
        figures[f"{count} rows"] = {
            "rows/s, steady": report["rows_per_second"],
            "whole command, s": seconds,
            "driver, bytes": report["peak_memory"]["driver"],
            "the same command on the finished run, s": again,
        }
    return figures


def _bytes(run: Path) -> str:
    """Hash all data files of a run."""
    digest = hashlib.sha256()
    for path in sorted((run / "data").rglob("*.parquet")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def nodes(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed docstrings on one to four local nodes of one CPU, one replica each.

    Rows/s, driver memory, and the same bytes.
    """
    write("docstrings", folder, options.docstrings)
    found: dict[int, dict[str, list[float]]] = {
        count: {"rows/s, steady": [], "driver, bytes": []} for count in options.nodes
    }
    hashes = set()
    for turn in range(options.repeats):
        for count in options.nodes:
            run = folder / f"run{turn}{count}"
            words = (
                f"resources.replicas={count}",
                "resources.threads_per_replica=1",
                "resources.unit_rows=128",
                *options.words,
            )
            with local_cluster(count, cpus=1) as cluster:
                _, report = command(run, folder / "docstrings", minilm(), *words, address=cluster.address)
            found[count]["rows/s, steady"].append(report["rows_per_second"])
            found[count]["driver, bytes"].append(report["peak_memory"]["driver"])
            hashes.add(_bytes(run))
    figures: dict[str, Any] = {
        f"{count} nodes": {name: spread(values) for name, values in of.items()} for count, of in found.items()
    }
    return figures | {"cores": os.cpu_count(), "same bytes everywhere": len(hashes) == 1}


def _bare(job: Job, works: list[Work], number: int, processes: int, ready: Any, results: Any) -> None:
    """Do what a replica does, and the writing, without Ray.

    Units are prepared before the clock starts.
    """
    from embed_ops.embedding.replica import Replica
    from embed_ops.embedding.steps import read_and_prepare, write_unit
    from embed_ops.embedding.unit import EmbeddedUnit, PreparedUnit, Written

    units = [unit for work in works for unit in read_and_prepare(job, work)][number::processes]
    replica = Replica(job)
    ready.wait()
    began, done = time.time(), 0
    for unit in units:
        embedded = replica.embed(unit) if isinstance(unit, PreparedUnit) else unit
        outcome = write_unit(embedded, job) if isinstance(embedded, EmbeddedUnit) else embedded
        if not isinstance(outcome, Written):
            raise RuntimeError(f"a unit failed: {outcome}")
        done += outcome.record.rows
    results.put((began, time.time(), done))


def bare(run: Path, out: Path, threads: int, processes: int) -> float:
    """Embed the corpus of a run again in bare processes, with the same settings: rows/s."""
    from dataclasses import replace

    from embed_ops.embedding.settings import Resolved

    done = Run(str(run))
    spec = done.spec
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    resolved = replace(Resolved(**done.header.resolved), threads_per_replica=threads)
    job = Job(spec, locate(str(out)), corpus.roots, plan.columns, resolved, "bench", new_attempt())
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    works = [Work(span) for span in plan.spans]
    workers = [
        context.Process(target=_bare, args=(job, works, number, processes, ready, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return float(
        sum(rows for _, _, rows in found)
        / (max(end for _, end, _ in found) - min(began for began, _, _ in found))
    )


def replicas(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare layouts of two cores, each through Ray and as bare processes, in turn."""
    write("docstrings", folder, options.docstrings)
    found: dict[str, list[float]] = {}
    for turn in range(options.repeats):
        for count, threads in ((1, 2), (2, 1)):
            run = folder / f"run{turn}{count}"
            words = (
                f"resources.replicas={count}",
                f"resources.threads_per_replica={threads}",
                "resources.unit_rows=512",
            )
            _, report = command(run, folder / "docstrings", minilm(), *words, *options.words)
            name = f"{count} replicas of {threads} threads"
            found.setdefault(f"{name}, job", []).append(report["rows_per_second"])
            found.setdefault(f"{name}, utilization", []).append(report["utilization"])
            found.setdefault(f"{name}, bare processes", []).append(
                bare(run, folder / f"bare{turn}{count}", threads, count)
            )
    figures: dict[str, Any] = {name: spread(values) for name, values in found.items()}
    for name in [name for name in found if name.endswith("job")]:
        share = figures[name]["median"] / figures[name.replace("job", "bare processes")]["median"]
        figures[name.replace("job", "share of bare")] = share
    return figures


def ledger(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write plan and manifest of ten billion rows, half of them done; then take stock of both."""
    count, per_span, per_unit = options.ledger_files, 163_840, 16_384
    per_file = options.ledger_rows // count
    files = [SourceFile(f"part={n // 1000:04d}/{n:06d}.parquet", 0, 10**8, 0) for n in range(count)]
    starts = range(0, per_file, per_span)
    pieces = [
        Piece(f.name, at, min(at + per_span, per_file), min(per_span, per_file - at), 32 * 2**20)
        for f in files
        for at in starts
    ]
    spans = tuple(Span(index, (piece,)) for index, piece in enumerate(pieces))
    run, attempt = RunDir(locate(str(folder / "run"))), new_attempt()
    run.write_plan(Plan(tuple(files), spans, pa.schema([("text", pa.string())])), attempt)
    batch: list[Record] = []
    for piece in pieces[: len(pieces) // 2]:
        for begin in range(piece.begin, piece.end or 0, per_unit):
            end = min(begin + per_unit, piece.end or 0)
            following = (piece.source, end) if end != piece.end else (None, None)
            part = {"source": piece.source, "begin": begin, "end": end, "records": end - begin}
            name = unit_name(piece.source, begin)
            digest = hashlib.sha256(name.encode()).hexdigest()
            counted: dict[str, Any] = {
                "inputs": end - begin,
                "tokens": 10**6,
                "positions": 10**6,
                "flops": 1e12,
                "min_norm": 0.5,
                "max_norm": 1.5,
            }
            counted["seconds"] = dict.fromkeys(SECONDS, float(begin))
            batch.append(
                Record(name, attempt, [part], *following, end - begin, 0, 0, 0, 10**7, digest, **counted)
            )
        if len(batch) > 10_000:
            run.manifest.append(batch, attempt)
            batch.clear()
    run.manifest.append(batch, attempt)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    reader = context.Process(target=_read_ledger, args=(str(folder / "run"), results))
    reader.start()
    found: dict[str, Any] = results.get()
    reader.join()
    return found


def _read_ledger(path: str, results: Any) -> None:
    # The driver's memory is that of its libraries, too.
    for library in ("jobs.embed", "ray.data"):
        importlib.import_module(library)
    began = time.perf_counter()
    run = RunDir(locate(path))
    plan, records = run.read_plan(), run.manifest.read(timed=False)
    stock = take_stock(plan, records, 16_384)
    results.put(
        {
            "spans": len(plan.spans),
            "records": len(records),
            "rows left": stock.rows_left,
            "seconds": time.perf_counter() - began,
            "peak bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )


PARTS = {"rows": rows, "nodes": nodes, "replicas": replicas, "ledger": ledger}


def main() -> None:
    """Run the parts that are asked for, a record each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--docstrings", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ledger-rows", type=int, default=10_000_000_000)
    parser.add_argument("--ledger-files", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("words", nargs="*", help="section.key=value")
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            with tempfile.TemporaryDirectory() as folder:
                figures = part(options, Path(folder))
            path = write_record(f"scaling-{name}", vars(options), figures)
            sys.stdout.write(json.dumps(figures, indent=1) + f"\nrecord in {path}\n")


if __name__ == "__main__":
    main()
