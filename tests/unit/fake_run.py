"""Makes a run directory without Ray and without a model: a text's vector is drawn from its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embed_ops.filesystem import locate
from embed_ops.fingerprint import digest_of
from embed_ops.ledger import take_stock
from embed_ops.liveness import new_attempt
from embed_ops.plan import Plan, unit_limits
from embed_ops.record import Record
from embed_ops.run_dir import RunDir
from embed_ops.schema import CONTENT, FILE_LEVEL, MESSAGE, REASON
from embed_ops.sinks.parquet import vector_column
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, Unit, read_units
from embed_ops.spec import Spec

FINGERPRINT = {"model": "none"}
DIGEST = digest_of(FINGERPRINT)
DIM = 4


def spec_of(source: Mapping[str, Any], run: Path | str, unit_rows: int = 4) -> Spec:
    """Make the spec of a small run."""
    return Spec.parse({"source": source, "encoder": {"model": "none"}, "sink": {"path": str(run)}, "resources": {"unit_rows": unit_rows}})


def vectors(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Draw a vector for each text, (rows, dim) float32."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") for text in texts]
    drawn = [np.random.default_rng(seed).standard_normal(DIM) for seed in seeds]
    return np.array(drawn, np.float32).reshape(len(seeds), DIM)


def write(run: RunDir, unit: Unit, attempt: str) -> Record:
    """Write one unit as the job does."""
    fine = pc.and_(pc.is_null(unit.table.column(REASON)), pc.is_valid(unit.table.column(CONTENT)))
    rows, rejects = unit.table.filter(fine), unit.table.filter(pc.invert(fine)).drop_columns([CONTENT])
    reasons = pc.fill_null(rejects.column(REASON), "null")
    rejects = rejects.set_column(rejects.schema.get_field_index(REASON), REASON, reasons)
    data = rows.drop_columns([CONTENT, REASON, MESSAGE])
    data = data.append_column("embedding", vector_column(vectors(rows.column(CONTENT).to_pylist()), "float32"))
    of_files = sum(reason in FILE_LEVEL for reason in reasons.to_pylist())
    record = Record(
        unit=unit.name,
        attempt=attempt,
        ranges=[asdict(part) for part in unit.ranges],
        next_source=unit.end.source,
        next_position=unit.end.position,
        rows=len(data),
        rejects=len(rejects) - of_files,
        file_rejects=of_files,
        filtered=unit.filtered,
        bytes=0,
        sha256="",
        inputs=len(data),
        tokens=7 * len(data),
        positions=8 * len(data),
        flops=0.5,
    )
    return run.write_unit(record, data, rejects, DIGEST, "0")


def embed(spec: Spec, corpus: Corpus, plan: Plan, records: dict[str, Record], most_units: int = 1 << 30) -> dict[str, Record]:
    """Write what is left of a plan, up to a number of units, and their records; gives all records."""
    run, attempt = RunDir(locate(spec.sink.path)), new_attempt()
    run.read_manifest()
    rows, places = Rows(spec.source, plan.columns), {file.name: corpus.place(file) for file in plan.files}
    written: list[Record] = []
    for work in take_stock(plan, records, unit_limits(spec)).works:
        for unit in read_units(Cursor(corpus.source, rows, places, work.span), work.done, unit_limits(spec)):
            if len(written) < most_units:
                written.append(write(run, unit, attempt))
    run.append_manifest(written, attempt)
    return records | {record.unit: record for record in written}


def make(spec: Spec, most_units: int = 1 << 30) -> tuple[RunDir, Plan, dict[str, Record]]:
    """Make a finished run, or, with fewer units, a run that was stopped."""
    run, corpus = RunDir(locate(spec.sink.path)), Corpus.open(spec.source)
    plan = corpus.plan()
    run.write_plan(plan, "a-1-1")
    header = {"spec": spec.model_dump(mode="json"), "fingerprint": FINGERPRINT, "resolved": {}, "status": "finished"}
    run.write_json("run.json", header, "a-1-1")
    return run, plan, embed(spec, corpus, plan, {}, most_units)


def contents(folder: Path) -> dict[str, bytes]:
    """Read the data and reject files."""
    found = [path for name in ("data", "rejects") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def corpus_of(folder: Path) -> dict[str, Any]:
    """Write a corpus of good, bad and filtered rows in two folders, and give the source section for it."""
    for name in ("a=1/x.jsonl", "a=2/y.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True)
        lines = [f'{{"text": "{name} {number}", "n": {number}}}' for number in range(12)]
        lines[3], lines[7] = "{bad", '{"text": null, "n": 7}'
        path.write_text("\n".join(lines) + "\n")
    return {"kind": "jsonl", "path": str(folder), "column": "text", "keep": ["n"], "where": "n <> 5"}


def table_of(path: Path) -> pa.Table:
    """Read a Parquet file as a table."""
    return pq.ParquetFile(path).read()
