"""Runs of made-up vectors for the tests of stages, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from made_run import mixture
from stage_data import Array
from typer.testing import CliRunner

from embed_ops import Run
from embed_ops.record import SUFFIX
from embed_ops.sinks.parquet import vectors_of
from jobs.cli import app

FILES, DIM = [6000, 1, 0, 9000, 4999], 24
ROWS = sum(FILES)
DRAW = mixture(DIM, 12, spread=0.4)


def bytes_of(run: Path) -> dict[str, bytes]:
    """Read the data and the model of a stage's run."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in ("data", "model")
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }


def rows_of(run: Path, column: str = "embedding") -> Array:
    """Read a column of a run in the order of its rows."""
    records = {record.unit: record for record in Run(str(run)).records().values()}
    units = sorted(records, key=lambda unit: (unit.partition("file-")[2].partition(".")[0], int(unit.rpartition(".")[2])))
    parts = [pq.read_table(run / "data" / f"{unit}{SUFFIX}", columns=[column], partitioning=None).column(0) for unit in units]
    return np.concatenate([vectors_of(part) if "list" in str(part.type) else part.to_numpy() for part in parts])


def invoke(*words: Any) -> tuple[int, str]:
    """Run a command in this process: its exit code and everything it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join((result.output + result.stderr).split())
