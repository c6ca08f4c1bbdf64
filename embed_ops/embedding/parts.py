"""What a process builds once for all units of a job: source, rows, encoder."""

from __future__ import annotations

import os
from dataclasses import dataclass

from embed_ops.embedding.job import Job
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.registry import make_encoder
from embed_ops.schema import GRAPH
from embed_ops.sources.base import Source
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows


@dataclass(frozen=True)
class Parts:
    """What reading and preparing need; the encoder has no weights loaded."""

    source: Source
    rows: Rows
    encoder: Encoder


_PARTS: dict[str, Parts] = {}
"""Those of this process, by attempt; of the latest only."""


def parts_of(job: Job) -> Parts:
    """Build source, rows and encoder once per process: tokenizers are slow to load."""
    if job.attempt not in _PARTS:
        # Readers share the machine with replicas: a tokenizer on every core would take theirs.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _PARTS.clear()
        spec = job.spec
        _PARTS[job.attempt] = Parts(
            make_source(spec.source),
            Rows(spec.source, job.columns, whole=spec.source.kind == GRAPH),
            make_encoder(job.encoder),
        )
    return _PARTS[job.attempt]
