"""What verify asks of the columns of a data file.

Finite vectors, and lists that belong together as long as each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from embed_ops.numerics.kinds import kinds_of
from embed_ops.numerics.norms import finite
from embed_ops.numerics.tiles import Ints
from embed_ops.spec.encoder import COMPANIONS, EncoderSpec


def lists_of(spec: EncoderSpec) -> tuple[tuple[str, ...], ...]:
    """Name the columns of lists that belong together.

    For each kind those beside the vectors, and the vectors.
    """
    kinds = dict.fromkeys(kind for output in spec.named if (kind := spec.each(output)) in COMPANIONS)
    return tuple(
        (*COMPANIONS[kind], *(output.name for output in spec.named if spec.each(output) == kind))
        for kind in kinds
    )


def differences(table: pa.Table, lists: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    """Say what is wrong with the vectors of a data file.

    Args:
        table: the data file.
        lists: columns that must have a list in each row, as long as each other; as `lists_of` names
            them.
    """
    for column, kind in kinds_of(table.schema).items():
        vectors = kind.read(table.column(column))
        fine = finite(kind.values(vectors).astype(np.float32))
        bad = np.flatnonzero(~kind.rows_where(vectors, fine))
        if len(bad):
            yield f"column {column!r} is not finite in {len(bad)} rows, the first is row {bad[0]}"
    for names in lists:
        lengths = {name: _lengths(table, name) for name in names}
        for name, mine in lengths.items():
            if mine is None:
                yield f"column {name!r}, with a list in each row, is missing"
            elif (first := lengths[names[0]]) is not None and len(differing := np.flatnonzero(mine != first)):
                row = differing[0]
                yield (
                    f"row {row} has {mine[row]} entries in column {name!r}, and {first[row]} in {names[0]!r}"
                )


def _lengths(table: pa.Table, name: str) -> Ints | None:
    """Count the entries of each row, (rows,) int64; None where the column holds no lists."""
    if name not in table.schema.names or not pa.types.is_list(table.schema.field(name).type):
        return None
    lengths: Ints = np.diff(table.column(name).combine_chunks().offsets.to_numpy()).astype(np.int64)
    return lengths
