"""The reference: the same file, one row at a time and un-padded, in a session of its own.

It proves that batches, padding and pooling change nothing; the file itself is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.onnx.session import Session
from embed_ops.encoders.onnx.wiring import Wire
from embed_ops.encoders.text.reference import POOL

if TYPE_CHECKING:
    from embed_ops.encoders.text.heads import Heads

Vector = npt.NDArray[Any]


def embed_alone(
    session: Session,
    wires: Sequence[Wire],
    rows: Sequence[Sequence[int]],
    heads: Heads | None,
    prompt_tokens: int,
) -> dict[str, FloatArray]:
    """Embed rows of token ids: {output: (rows, dim) float32}, pooled in numpy, in float64.

    Args:
        session: the graph.
        wires: the vector columns.
        rows: ids of each; a row without any gives NaN.
        heads: what stands behind the transformer.
        prompt_tokens: of the prompt before every row.
    """
    vectors: dict[str, list[Vector]] = {wire.column.name: [] for wire in wires}
    for ids in rows:
        if not ids:
            for wire in wires:
                vectors[wire.column.name].append(np.full(wire.column.dim or wire.width, np.nan))
            continue
        given = np.array([ids], np.int64)
        tensors: Mapping[str, Vector] = session.run(given, np.ones_like(given))
        for wire in wires:
            alone = tensors[wire.tensor][0].astype(np.float64)
            if wire.way == "pooled":
                alone = POOL[wire.column.pooling](alone)
            elif wire.way == "modules" and heads is not None:
                alone = _behind(heads, tensors[wire.tensor], prompt_tokens)
            vectors[wire.column.name].append(finished(alone, wire.column))
    return {name: np.stack(rows).astype(np.float32) for name, rows in vectors.items()} if rows else {}


def _behind(heads: Heads, hidden: Vector, prompt_tokens: int) -> Vector:
    import torch

    with torch.inference_mode():
        mask = torch.ones(hidden.shape[:2], dtype=torch.int64)
        return heads(torch.from_numpy(hidden), mask, prompt_tokens)[0].double().numpy()
