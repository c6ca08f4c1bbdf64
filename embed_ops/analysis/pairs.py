"""How well cosines agree with people who scored pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embed_ops.analysis.neighbors import encode
from embed_ops.analysis.scores import of_pairs
from embed_ops.analysis.user_files import read_columns
from embed_ops.errors import SourceError
from embed_ops.runs.columns import VectorColumn
from embed_ops.runs.rows import RunRows


def judge_pairs(rows: RunRows, vectors: VectorColumn, file: Path) -> Mapping[str, Any]:
    """Embed both sides of pairs by the run's own model, and compare the cosines with the scores.

    Args:
        rows: of the run.
        vectors: the column that is judged.
        file: Parquet or CSV with the columns a, b and score.

    Raises:
        SourceError: the file can't be read, lacks a column, or has too few pairs.
        ModelError: the run's model is not at hand, or embeds no texts.
    """
    a, b, score = read_columns(file, ("a", "b", "score"), "--pairs")
    if len(a) < 3:
        raise SourceError(f"--pairs {file}: has {len(a)} pairs; a rank correlation needs three at least")
    left, right = ([str(text) for text in side.to_pylist()] for side in (a, b))
    return of_pairs(encode(rows, vectors, left), encode(rows, vectors, right), score.to_numpy())
