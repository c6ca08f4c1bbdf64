"""`fit-weights`: counts the words of a corpus in one pass, for weighted means of word vectors.

Words are cut as the spec's encoder cuts them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.encoders.static.encoder import StaticEncoder
from embed_ops.encoders.static.word_weights import FACTS, WORDS, A, WordCounts
from embed_ops.engine.base import Engine
from embed_ops.engine.choice import Planned
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.engine.stopping import StopRequest, restored_sigterm
from embed_ops.errors import SourceError, SpecError, Stopped
from embed_ops.schema import CONTENT, REASON
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Span, place_of
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor
from embed_ops.spec.encoder import EncoderSpec, StaticEncoderSpec
from embed_ops.spec.source import SourceSpec
from embed_ops.storage.location import Location

_ROWS_AT_ONCE = 8_192


@dataclass(frozen=True)
class CountJob:
    """What a task is told: where the texts are, and how they are looked up."""

    source: SourceSpec
    encoder: StaticEncoderSpec
    roots: tuple[Location, ...]
    columns: pa.Schema


@dataclass(frozen=True)
class SpanCounts:
    """The words of a span that the table has.

    Attributes:
        rows: (words,) rows of the table.
        counts: (words,) how often each stands in the span.
        documents: (words,) in how many texts.
        texts: of the span.
        unknown: words that are not in the table.
    """

    rows: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    texts: int
    unknown: int


def no_counts(rows: int) -> WordCounts:
    """Begin to count the words of a table with so many rows."""
    return WordCounts(np.zeros(rows, np.int64), np.zeros(rows, np.int64), 0, 0)


def with_span(total: WordCounts, span: SpanCounts) -> WordCounts:
    """Add the counts of a span; the arrays of the total are changed in place.

    Sums of whole numbers do not depend on the order of the spans.
    """
    total.counts[span.rows] += span.counts
    total.documents[span.rows] += span.documents
    return replace(total, texts=total.texts + span.texts, unknown=total.unknown + span.unknown)


def fit_weights(
    source: SourceSpec,
    encoder: EncoderSpec,
    output: Path,
    *,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Count words, and write `words.parquet` and `weights.json` to `output`.

    Gives what `weights.json` says.

    Raises:
        SpecError: the encoder is not of family static, or `output` has weights already.
        SourceError: no text has a known word.
        ModelError, StorageError, EngineError: the table or the corpus can't be read.
        Stopped: it was asked to stop; nothing was written.
    """
    reporter, stop = reporter or Silent(), stop or StopRequest()
    if not isinstance(encoder, StaticEncoderSpec):
        raise SpecError(f"encoder.family is {encoder.family!r}: weights are fitted for family static")
    if source.modality != "text":
        raise SpecError(f"source.modality is {source.modality!r}: weights are fitted to texts")
    if (output / FACTS).exists():
        raise SpecError(f"--output {output}: there are weights already; choose another folder")
    # Other weights do not matter for counting.
    plain = encoder.model_copy(update={"weights": None, "weighting": "sif"})
    words = StaticEncoder(plain)
    # Every worker takes the commit that was found here.
    plain = plain.model_copy(update={"revision": words.describe()["commit"] or encoder.revision})
    corpus = Corpus.open(source)
    plan = corpus.plan()
    job = CountJob(source, plain, tuple(corpus.roots), plan.columns)
    with restored_sigterm(), session(Planned(plan.rows, plan.bytes)) as engine:
        # A session that opens may take SIGTERM for itself.
        stop.listen()
        counts = _added(engine.until(stop), job, plan.spans, len(words.lookup), reporter)
    if not counts.counts.any():
        raise SourceError(
            f"none of {counts.texts} texts has a word of {encoder.model}; name another column or table"
        )
    return write(output, words, counts, encoder.model)


def _added(
    engine: Engine, job: CountJob, spans: tuple[Span, ...], rows: int, reporter: Reporter
) -> WordCounts:
    """Count the words of all spans."""
    total = no_counts(rows)
    try:
        for done, (_, counts) in enumerate(engine.each(count_span, [(job, span) for span in spans]), start=1):
            total = with_span(total, counts)
            reporter.doing("counting words", f"{done:,} of {len(spans):,} spans")
    except Stopped as error:
        raise Stopped("stopped as asked; nothing was written, run the same command again") from error
    return total


@functools.lru_cache(maxsize=1)
def _encoder(spec: StaticEncoderSpec) -> StaticEncoder:
    """Keep a worker's words: looking them up begins with reading them."""
    return StaticEncoder(spec)


def count_span(job: CountJob, span: Span) -> SpanCounts:
    """Count the words of a span."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    encoder = _encoder(job.encoder)
    total = no_counts(len(encoder.lookup))
    for column in _columns(job, span):
        part = encoder.lookup.count(column)
        total = WordCounts(
            total.counts + part.counts,
            total.documents + part.documents,
            total.texts + part.texts,
            total.unknown + part.unknown,
        )
    rows = np.flatnonzero(total.counts)
    return SpanCounts(rows, total.counts[rows], total.documents[rows], total.texts, total.unknown)


def _columns(job: CountJob, span: Span) -> Iterator[pa.ChunkedArray]:
    """Stream the texts of a span that would be embedded, some thousands at a time."""
    places = {piece.source: place_of(job.roots, piece.source) for piece in span.pieces}
    cursor = Cursor(make_source(job.source), Rows(job.source, job.columns), places, span)
    held: list[pa.ChunkedArray] = []
    for taken in cursor.chunks(_ROWS_AT_ONCE):
        fine = taken.kept & taken.table.column(REASON).is_null().to_numpy()
        held.append(taken.table.column(CONTENT).filter(pa.array(fine)))
        if sum(map(len, held)) >= _ROWS_AT_ONCE:
            yield pa.chunked_array([part for column in held for part in column.chunks], held[0].type)
            held = []
    if held:
        yield pa.chunked_array([part for column in held for part in column.chunks], held[0].type)


def write(output: Path, encoder: StaticEncoder, counts: WordCounts, name: str) -> dict[str, Any]:
    """Write weights, `weights.json` last: it says that they are whole."""
    told = {
        "model": name,
        "tokenisation": encoder.lookup.tokenisation(),
        "texts": counts.texts,
        "words": int(counts.counts.sum()),
        "different_words": int((counts.counts > 0).sum()),
        "unknown": counts.unknown,
        "a": A,
    }
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / f".{WORDS}"
    pq.write_table(counts.table(encoder.lookup.vocabulary()), temporary, compression="zstd")
    temporary.replace(output / WORDS)
    temporary = output / f".{FACTS}"
    temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    temporary.replace(output / FACTS)
    return told
