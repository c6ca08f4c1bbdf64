"""The corpora of the text benchmarks.

Docstrings, whole or their first lines, in one file a package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from embed_ops.demo import write_corpus

_ROWS_PER_FILE = 8_192


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


CORPORA: dict[str, Callable[[str], str]] = {"docstrings": str.strip, "oneliners": _first_line}


def write(name: str, folder: Path, rows: int) -> int:
    """Write a corpus of different texts to `folder`, in files of 8,192 rows.

    Gives the rows written.

    Units are then as large as they are in a real corpus: the demo's files of 200 rows are not.
    """
    whole = folder / "all"
    write_corpus(whole, 2 * rows)
    found = (
        pads.dataset(whole, format="parquet", partitioning="hive")
        .to_table(columns=["text"])["text"]
        .to_pylist()
    )
    texts = [text for text in dict.fromkeys(map(CORPORA[name], found)) if text][:rows]
    (folder / name).mkdir()
    for first in range(0, len(texts), _ROWS_PER_FILE):
        pq.write_table(
            pa.table({"text": texts[first : first + _ROWS_PER_FILE]}), folder / name / f"{first:09d}.parquet"
        )
    return len(texts)
