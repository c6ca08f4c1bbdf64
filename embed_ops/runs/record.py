"""The record of a unit: what the manifest and the unit's own footer say of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

from embed_ops.numerics.kinds import kinds_of, told
from embed_ops.redaction import redacted
from embed_ops.runs.parquet import vectors_of
from embed_ops.schema import MESSAGE

DATA, REJECTS, MANIFEST, TMP = "data", "rejects", "manifest", "tmp"
"""Folders of a run directory."""
SUFFIX = ".parquet"
UNIT_FILE = re.compile(r".+\.\d{12,}\.parquet", re.DOTALL)
REJECT_FILE = re.compile(r".+\.\d{12,}\.[0-9a-f]{8}\.parquet", re.DOTALL)
"""What files below `data/` and `rejects/` are called; nothing with another name is deleted."""
_ROWS_AT_ONCE = 1000
"""Rows of a manifest that are Python objects twice for a moment, as a table's and as records."""
_RANGE = pa.struct(
    [("source", pa.string()), ("begin", pa.int64()), ("end", pa.int64()), ("records", pa.int64())]
)
REMOVED = "removed"
"""Flag of a record that strikes the unit's earlier ones."""
HALVED = "halved"
"""Flag of a unit of which some batch did not fit into memory and was halved: other batches may mean
other last bits."""
ISOLATED = "isolated"
"""Flag of a unit that was embedded in isolation, since workers died or hung on it."""

RETRIED = "retried"
"""Flag of a unit whose rejects were read again, so that its record counts the whole unit."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one unit that is done: a row of the manifest.

    Attributes:
        unit: its name; the data file is `data/<unit>.parquet`.
        attempt: name of the command that wrote it.
        ranges: {source, begin, end, records} of each source file in it, in order: positions in the
            file, and how many records begin there.
        next_source, next_position: where the next unit of the span begins; None behind the last.
        rows: embedded rows.
        rejects, file_rejects: rows that can't be embedded, and files that can't be read on.
        filtered: records that `where` left out.
        bytes, sha256: of the data file; 64 hexadecimal digits.
        reject_file: its name below `rejects/`, None where there are no rejects.
        reject_bytes, reject_sha256: of the reject file.
        truncated: embedded rows whose text is longer than the model takes.
        unknown: words that a table of word vectors does not have, of embedded rows.
        min_norm, max_norm: least and greatest L2 norm of its vectors, None where it has none.
        inputs: distinct inputs that the model was given.
        tokens, positions: of these inputs; positions have the padding too.
        flops: floating-point operations of the forward pass, by the model's own estimate.
        seconds: by the names of `SECONDS`; empty for a unit whose record was lost and read back.
        made_of: of a stage's unit, sha256 of the data file of its parent's unit, or None.
        flags: what happened to the unit: "recovered", "retried", and those that have names here.
    """

    unit: str
    attempt: str
    ranges: list[dict[str, Any]]
    next_source: str | None
    next_position: int | None
    rows: int
    rejects: int
    file_rejects: int
    filtered: int
    bytes: int
    sha256: str
    reject_file: str | None = None
    reject_bytes: int = 0
    reject_sha256: str | None = None
    truncated: int = 0
    unknown: int = 0
    min_norm: float | None = None
    max_norm: float | None = None
    inputs: int = 0
    tokens: int = 0
    positions: int = 0
    flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    made_of: str | None = None
    flags: tuple[str, ...] = ()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Take the known keys of a mapping; names that many records share are kept once."""
        taken = {name: values[name] for name in cls.__slots__ if name in values}
        taken["attempt"] = sys.intern(taken["attempt"])
        taken["ranges"] = [part | {"source": sys.intern(part["source"])} for part in taken["ranges"]]
        if taken["next_source"] is not None:
            taken["next_source"] = sys.intern(taken["next_source"])
        # A manifest of before words were counted has no such column.
        taken["unknown"] = taken.get("unknown") or 0
        taken["flags"] = tuple(taken.get("flags") or ())
        return cls(**taken)


COUNTED = ("truncated", "unknown", "inputs", "tokens", "positions", "flops")
"""What a unit's footer counts beside rows, so that a lost record can be read back whole."""
SECONDS = ("read", "prepare", "forward", "write", "started", "finished", "idle_input", "idle_output")
"""Seconds that a unit took: reading, preparing, the forward pass, writing; when its work began and
ended, since 1970; and how long its replica had waited for input, and for room for its output."""
MANIFEST_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("attempt", pa.string()),
        ("ranges", pa.list_(_RANGE)),
        ("next_source", pa.string()),
        ("next_position", pa.int64()),
        *((name, pa.int64()) for name in ("rows", "rejects", "file_rejects", "filtered", "bytes")),
        ("sha256", pa.string()),
        ("reject_file", pa.string()),
        ("reject_bytes", pa.int64()),
        ("reject_sha256", pa.string()),
        ("truncated", pa.int64()),
        ("unknown", pa.int64()),
        ("min_norm", pa.float64()),
        ("max_norm", pa.float64()),
        *((name, pa.int64()) for name in ("inputs", "tokens", "positions")),
        ("flops", pa.float64()),
        ("seconds", pa.struct([(name, pa.float64()) for name in SECONDS])),
        ("made_of", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)


def records_of(table: pa.Table, *, timed: bool) -> Iterator[Record]:
    """Read the records of a part of the manifest, in its order.

    Args:
        table: a part, of `MANIFEST_SCHEMA`.
        timed: with the seconds of each unit.
    """
    table = table if timed else table.drop_columns("seconds")
    none: dict[str, float] = {}
    for batch in table.to_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            known = row.get("seconds")
            row["seconds"] = (
                {key: value for key, value in known.items() if value is not None} if known else none
            )
            yield Record.parse(row)


def footer_of(record: Record, schema: pa.Schema, fingerprint: str, version: str) -> dict[str, Any]:
    """Make the footer of a unit's data file.

    What chains the units, which reject file counts, and what the vector columns of `schema` hold.
    """
    return {
        "unit": record.unit,
        "fingerprint": fingerprint,
        "version": version,
        "reject_file": record.reject_file,
        "ranges": record.ranges,
        "next": None if record.next_source is None else [record.next_source, record.next_position],
        "last": record.next_source is None,
        "outputs": told(schema),
        "rows": record.rows,
        "rejects": record.rejects,
        "file_rejects": record.file_rejects,
        "filtered": record.filtered,
        **{name: getattr(record, name) for name in COUNTED},
        **({} if record.made_of is None else {"made_of": record.made_of}),
    }


def reject_name(unit: str, digest: str) -> str:
    """Name a unit's reject file, below `rejects/`, by what is in it."""
    return f"{unit}.{digest[:8]}{SUFFIX}"


def reject_unit(name: str) -> str:
    """Read the unit off a name that `reject_name` made."""
    return name.removesuffix(SUFFIX).rpartition(".")[0]


def norms_of(table: pa.Table) -> tuple[float | None, float | None]:
    """Find the least and the greatest L2 norm over all vector columns of a unit.

    Computed in float32 from the stored vectors, lists vector by vector; None of no vectors.
    """
    columns = [table.column(name) for name in kinds_of(table.schema)]
    norms = [np.linalg.norm(vectors_of(column).astype(np.float32), axis=1) for column in columns]
    norms = [values for values in norms if len(values)]
    if not norms:
        return None, None
    return float(min(values.min() for values in norms)), float(max(values.max() for values in norms))


def messages_redacted(rejects: pa.Table) -> pa.Table:
    """Leave secrets out of what is said of rejects: references of rows may be signed addresses."""
    if MESSAGE not in rejects.schema.names:
        return rejects
    messages = rejects.column(MESSAGE).to_pylist()
    without = [None if message is None else redacted(message) for message in messages]
    if without == messages:
        return rejects
    place = rejects.schema.get_field_index(MESSAGE)
    return rejects.set_column(place, rejects.schema.field(place), pa.array(without, pa.string()))
