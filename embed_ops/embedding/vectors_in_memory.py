"""The job's steps over rows in memory: what `Encoder` gives of a unit, and of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.replica import by_document
from embed_ops.embedding.settings import Resolved
from embed_ops.embedding.storing import WHY, store
from embed_ops.encoders import base
from embed_ops.encoders.base import IntArray, Rejected, gather
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.numerics.kinds import Lists, Vectors, kind_in_memory
from embed_ops.numerics.ragged import Ragged, offsets_of
from embed_ops.schema import Reason
from embed_ops.spec.spec import Spec


def embed_unit(
    spec: Spec, encoder: base.Encoder, resolved: Resolved, column: pa.Array, before: Callable[[Any], None]
) -> tuple[dict[str, Vectors], list[Rejected]]:
    """Embed rows whose batches are formed together; rows without a vector are NaN."""
    prepared = encoder.prepare(column)
    embedded = embed_inputs(
        encoder,
        prepared.inputs,
        resolved.token_budget,
        before=before,
        rule=resolved.rule,
        runtime=runtime_of(spec.encoder),
    )
    vectors = gather(encoder, prepared.inputs, embedded.vectors, prepared.documents)
    stored, finite = store(spec, vectors, "")  # of distinct inputs
    refused = by_document(prepared.inputs, embedded.refused)
    used = prepared.index >= 0
    whole = used.copy()
    whole[used] = finite[prepared.index[used]]
    rejects = list(prepared.rejects)
    for row in np.flatnonzero(used & ~whole).tolist():
        reason = Reason(refused.get(int(prepared.index[row]), Reason.NON_FINITE))
        rejects.append(Rejected(row, reason, WHY[reason]))
    of_rows = {name: _of_rows(given, prepared.index, whole) for name, given in stored.items()}
    return of_rows, sorted(rejects, key=lambda item: item.row)


def _of_rows(stored: Vectors, index: IntArray, whole: npt.NDArray[np.bool_]) -> Vectors:
    """Give each row the vectors of its input, or NaN, zeros of whole numbers, an empty list."""
    taken = kind_in_memory(stored).take(stored, index[whole])
    if isinstance(taken, Ragged):
        counts = np.zeros(len(index), np.int64)
        counts[whole] = taken.counts
        return Ragged(taken.values, offsets_of(counts))
    nothing = np.nan if taken.dtype.kind == "f" else 0
    rows = np.full((len(index), taken.shape[1]), nothing, taken.dtype)
    rows[whole] = taken
    return rows


def joined(parts: Sequence[Mapping[str, Vectors]]) -> dict[str, Vectors]:
    """Put the vectors of several units behind one another."""
    return {name: _behind([part[name] for part in parts]) for name in parts[0]}


def _behind(parts: Sequence[Vectors]) -> Vectors:
    if len(parts) == 1:
        return parts[0]
    lists = [part for part in parts if isinstance(part, Ragged)]
    if not lists:
        return np.concatenate([part for part in parts if not isinstance(part, Ragged)])
    values = np.concatenate([part.values for part in lists])
    return Ragged(values, offsets_of(np.concatenate([part.counts for part in lists])))


def none_of(encoder: base.Encoder) -> dict[str, Vectors]:
    """Give the vectors of no rows."""
    empty: dict[str, Vectors] = {}
    for output in encoder.outputs():
        values = np.zeros((0, output.kind.dim), output.dtype or "float32")
        empty[output.name] = (
            Ragged(values, np.zeros(1, np.int64)) if isinstance(output.kind, Lists) else values
        )
    return empty
