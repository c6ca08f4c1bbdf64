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


def read_columns(file: Path, names: Sequence[str], option: str, advice: str = "") -> list[pa.ChunkedArray]:
    """Read columns of a Parquet or CSV file.

    Args:
        file: its path.
        names: of the columns.
        option: that named the file, for the message.
        advice: what to do where a column lacks.

    Raises:
        SourceError: the file can't be read, or lacks a column.
    """
    try:
        table = pq.read_table(file) if file.suffix == ".parquet" else pcsv.read_csv(file)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{option} {file}: no table in Parquet or CSV: {error}") from error
    if missing := [name for name in names if name not in table.column_names]:
        raise SourceError(
            f"{option} {file}: no column {_listed(missing)}: {_listed(names)} are looked for, there are "
            f"{_listed(table.column_names)}{advice}"
        )
    return [table.column(name) for name in names]


def _listed(names: Sequence[str]) -> str:
    quoted = [repr(name) for name in names]
    return " and ".join((", ".join(quoted[:-1]), quoted[-1])) if len(quoted) > 1 else "".join(quoted)


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
