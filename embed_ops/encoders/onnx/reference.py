"""The reference: the same file, one row at a time and un-padded, in a session of its own.

It proves that batches, padding and pooling change nothing; the file itself is taken at its word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.images.reference import each_image, load_processor, pool_positions, processed
from embed_ops.encoders.onnx.pixels import PixelInput
from embed_ops.encoders.onnx.session import Batch, Session
from embed_ops.encoders.onnx.wiring import Wire
from embed_ops.encoders.text.reference import POOL

if TYPE_CHECKING:
    from torch import Tensor

    from embed_ops.encoders.text.heads import Heads

Vector = npt.NDArray[Any]


def embed_texts(
    session: Session,
    wires: Collection[Wire],
    rows: Sequence[Batch | None],
    heads: Heads | None,
) -> dict[str, FloatArray]:
    """Embed texts: {output: (rows, dim) float32}, pooled in numpy, in float64.

    Args:
        session: the graph.
        wires: the vector columns.
        rows: the tokens of each; None: it has none, which gives NaN.
        heads: what stands behind the transformer.
    """
    vectors: dict[str, list[Vector]] = {wire.column.name: [] for wire in wires}
    for row in rows:
        if row is None:
            for wire in wires:
                vectors[wire.column.name].append(np.full(wire.column.dim or wire.width, np.nan))
            continue
        tensors: Mapping[str, Vector] = session.run(row)
        for wire in wires:
            alone = tensors[wire.tensor][0].astype(np.float64)
            if wire.way == "pooled":
                alone = POOL[wire.column.pooling](alone)
            elif wire.way == "modules" and heads is not None:
                alone = _behind(heads, tensors[wire.tensor], row.prompts)
            vectors[wire.column.name].append(finished(alone, wire.column))
    return {name: np.stack(rows).astype(np.float32) for name, rows in vectors.items()} if rows else {}


def _behind(heads: Heads, hidden: Vector, prompt_tokens: int | Tensor) -> Vector:
    import torch

    with torch.inference_mode():
        mask = torch.ones(hidden.shape[:2], dtype=torch.int64)
        return heads(torch.from_numpy(hidden), mask, prompt_tokens)[0].double().numpy()


def embed_images(
    session: Session, wires: Collection[Wire], column: pa.Array, home: Path, given: PixelInput
) -> dict[str, FloatArray]:
    """Embed a column of images' bytes: {output: (rows, dim) float32}, pooled in numpy, in float64.

    Opened by Pillow as a user would, then through transformers' own processor.

    Args:
        session: the graph.
        wires: the vector columns.
        column: of images' bytes.
        home: the folder of the processor.
        given: where pixels go in.
    """
    processor = load_processor(home, trust_remote_code=False)

    def embed(image: Any) -> dict[str, Vector]:
        tensors = session.run(given.batch(processed(processor, image)["pixel_values"].numpy()))
        return {
            wire.column.name: finished(_of_image(wire, tensors[wire.tensor][0], given), wire.column)
            for wire in wires
        }

    return each_image(column, embed)


def _of_image(wire: Wire, tensor: Vector, given: PixelInput) -> Vector:
    values: Vector = tensor.astype(np.float64)
    if wire.way == "as it is":
        return values.flatten()
    if values.ndim == 3:
        first = given.channels == "first"
        values = values.reshape(len(values), -1).T if first else values.reshape(-1, values.shape[-1])
    return pool_positions(wire.column.pooling, values, len(values) - (wire.patches or len(values)))
