"""`vocabulary`: the word vectors of a model as a run, a row for each word.

`verify`, `postprocess` and `Run` read it like any other run.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops import __version__
from embed_ops.embedding.report import Measured, build_report
from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.encoders.static.word_weights import WordCounts, hash_weights, read_counts
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of, require_same, versions_of
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.ledger import ANY_UNITS, take_stock
from embed_ops.runs.parquet import vector_column
from embed_ops.runs.record import Record
from embed_ops.runs.run import Run
from embed_ops.runs.statistics import dump, report_of, statistics_of
from embed_ops.runs.writer import RunWriter, known_header
from embed_ops.schema import ROW, SOURCE, SOURCE_TYPE
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span, unit_name
from embed_ops.spec.encoder import StaticEncoderSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address

UNIT_ROWS = 16_384
WORD, FREQUENCY, EMBEDDING = "word", "frequency", "embedding"
_NAME = "vocabulary"
"""Of the one source file that the run seems to have: the table."""


def write_vocabulary(
    model: str, output: str, *, frequencies: str | None = None, reporter: Reporter | None = None
) -> Run:
    """Write the words of a model and their vectors.

    Units that are there already stay, and a finished run is left alone.

    Args:
        model: what `encoder.model` of family static takes.
        output: run directory.
        frequencies: folder that `fit-weights` has written: how often each word stands in its
            corpus; without it that is null.
        reporter: shows progress.

    Raises:
        ModelError: there is no such table, or no such folder of weights.
        RunError: the run directory holds another run.
    """
    began, reporter = time.time(), reporter or Silent()
    table = StaticEncoderSpec(model=model)
    spec = Spec.parse(
        {
            "source": {"path": full_address(model), "column": WORD},
            "encoder": table,
            "sink": {"path": output},
        }
    )
    encoder = StaticEncoder(table)
    fingerprint: dict[str, Any] = {"kind": _NAME, "unit_rows": UNIT_ROWS}
    fingerprint |= {f"model {part}": digest for part, digest in encoder.fingerprint().items()}
    fingerprint["frequencies"] = None if frequencies is None else hash_weights(frequencies)
    run, attempt = RunDir.at(output), new_attempt()
    header = known_header(run)
    if header is None:
        resolved = {"versions": versions_of("numpy", "pyarrow")}
        header = RunHeader.new(spec.model_dump(mode="json"), fingerprint, resolved, began)
    require_same(output, header.fingerprint, fingerprint)
    records, _ = run.load_records(digest_of(fingerprint), attempt) if header.attempts else ({}, [])
    plan = _plan(encoder)
    if header.status == FINISHED and not take_stock(plan, records, ANY_UNITS).works:
        reporter.say("nothing is left to write")
        return Run(output)
    writer = RunWriter(run, attempt, began, replace(header, model=encoder.describe()))
    with writer.heartbeat:
        writer.begin(plan)
        before = len(records)
        _Words(encoder, writer, digest_of(fingerprint), frequencies).write(records)
        done = take_stock(plan, records, ANY_UNITS).done
        report = build_report(done, Measured(), time.time() - began, header.resolved)
        report |= {
            "modality": "text",
            "units_skipped": before,
            "statistics": report_of(run.manifest.statistics(), report["rows"]),
        }
        writer.finish(report)
    return Run(output)


def _plan(encoder: StaticEncoder) -> Plan:
    """Plan one span over one nominal source file, whose rows are the words."""
    rows, dim = encoder.lookup.vectors().shape
    size = rows * dim * 4
    file = SourceFile(_NAME, 0, size, 0)
    columns = pa.schema([(WORD, pa.string()), (FREQUENCY, pa.int64())])
    return Plan((file,), (Span(0, (Piece(_NAME, 0, rows, rows, size),)),), columns)


class _Words:
    """Writes the units of a table, one after the other."""

    def __init__(
        self, encoder: StaticEncoder, writer: RunWriter, fingerprint: str, frequencies: str | None
    ) -> None:
        self._writer, self._fingerprint = writer, fingerprint
        self._vectors = encoder.lookup.vectors()
        self._words = encoder.lookup.vocabulary()
        self._counts: WordCounts | None = (
            None if frequencies is None else read_counts(frequencies, self._words, None)
        )

    def write(self, records: dict[str, Record]) -> None:
        """Write the units without a record, and add theirs."""
        for first in range(0, len(self._vectors), UNIT_ROWS):
            if unit_name(_NAME, first) in records:
                continue
            started = time.time()
            table = self._table(first)
            record = self._record(first, len(table))
            written = self._writer.run.write_unit(
                record, table, table.slice(0, 0), self._fingerprint, __version__
            )
            written = replace(
                written, seconds={"started": started, "finished": time.time(), "write": time.time() - started}
            )
            records[written.unit] = written
            self._writer.journal.add(written, dump(statistics_of(table)))
        self._writer.journal.flush()

    def _table(self, first: int) -> pa.Table:
        vectors = self._vectors[first : first + UNIT_ROWS]
        count = len(vectors)
        counted = (
            pa.nulls(count, pa.int64())
            if self._counts is None
            else pa.array(self._counts.counts[first : first + count])
        )
        return pa.table(
            {
                WORD: pa.array(self._words[first : first + count], pa.string()),
                FREQUENCY: counted,
                SOURCE: pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [_NAME]).cast(
                    SOURCE_TYPE
                ),
                ROW: pa.array(np.arange(first, first + count)),
                EMBEDDING: vector_column(vectors, "float32"),
            }
        )

    def _record(self, first: int, count: int) -> Record:
        end = first + count
        last = end == len(self._vectors)
        return Record(
            unit=unit_name(_NAME, first),
            attempt=self._writer.name,
            ranges=[{"source": _NAME, "begin": first, "end": end, "records": count}],
            next_source=None if last else _NAME,
            next_position=None if last else end,
            rows=count,
            rejects=0,
            file_rejects=0,
            filtered=0,
            bytes=0,
            sha256="",
            inputs=count,
        )
