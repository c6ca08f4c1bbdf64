"""Tables that a user gives or asks for: Parquet, CSV or JSONL, by the name of the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from embed_ops.errors import SourceError, SpecError

ENDINGS = (".parquet", ".csv", ".jsonl")
"""Of what can be written."""


def read_columns(file: Path, names: Sequence[str], option: str) -> list[pa.ChunkedArray]:
    """Read columns of a Parquet or CSV file.

    Args:
        file: its path.
        names: of the columns.
        option: that named the file, for the message.

    Raises:
        SourceError: the file can't be read, or lacks a column.
    """
    try:
        table = pq.read_table(file) if file.suffix == ".parquet" else pcsv.read_csv(file)
        return [table.column(name) for name in names]
    except (OSError, pa.ArrowException, KeyError) as error:
        listed = " and ".join((", ".join(names[:-1]), names[-1]))
        raise SourceError(f"{option} {file}: no table with the columns {listed} ({error})") from error


def require_known_ending(path: str, option: str) -> None:
    """Refuse a name whose ending says no format.

    Raises:
        SpecError: names the known ones.
    """
    if Path(path).suffix not in ENDINGS:
        raise SpecError(f"{option} {path}: give a name that ends in .parquet, .csv or .jsonl")


def write_table(path: str, table: pa.Table) -> None:
    """Write a table in the format that the name ends in, under another name until it is whole.

    Raises:
        SpecError: the name ends in no known format.
    """
    require_known_ending(path, "--output")
    target = Path(path)
    temporary = target.with_name(f".{target.name}")
    if target.suffix == ".parquet":
        pq.write_table(table, temporary)
    elif target.suffix == ".csv":
        pcsv.write_csv(table, temporary)
    else:
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.to_pylist())
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    temporary.replace(target)
