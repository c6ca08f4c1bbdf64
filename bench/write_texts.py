"""Docstrings as texts and as files: as many as are asked for, all different."""

from __future__ import annotations

import itertools
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.demo import docstrings


def numbered_docstrings(rows: int) -> list[str]:
    """Give the standard library's docstrings again and again, each with a number in front."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts)
    known = [text for _, text in itertools.islice(docstrings(paths, root), rows)]
    return [f"{number}. {known[number % len(known)]}" for number in range(rows)]


def write_texts(folder: Path, texts: Sequence[str], files: int) -> Path:
    """Write texts to Parquet files of equal size."""
    folder.mkdir(parents=True)
    for part in range(files):
        pq.write_table(pa.table({"text": list(texts[part::files])}), folder / f"part-{part:02d}.parquet")
    return folder
