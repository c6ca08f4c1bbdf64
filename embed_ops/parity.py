"""Parity: the first rows through the job's own path and through the reference, compared before hours are spent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray
from embed_ops.errors import ParityError
from embed_ops.job import Resolved
from embed_ops.registry import make_encoder
from embed_ops.spec import EncoderSpec, ParitySpec
from embed_ops.steps import embed_inputs


@dataclass(frozen=True)
class Parity:
    """How close one output came to the reference.

    Attributes:
        output: vector column.
        reference: what it was compared with.
        rows: how many rows.
        mean: mean cosine.
        min: least cosine of a row.
        worst_row: index of that row among those compared.
    """

    output: str
    reference: str
    rows: int
    mean: float
    min: float
    worst_row: int


def cosines(left: FloatArray, right: FloatArray) -> FloatArray:
    """Cosine of each pair of `(rows, dim)` vectors, (rows,) float32; 1 where both are zero."""
    products = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    norms = np.linalg.norm(left.astype(np.float64), axis=1) * np.linalg.norm(right.astype(np.float64), axis=1)
    same = (left == right).all(axis=1)
    return np.where(same, 1.0, products / np.where(norms == 0, 1.0, norms)).astype(np.float32)


def measure(spec: EncoderSpec, resolved: Resolved, texts: list[str]) -> tuple[list[Parity], dict[str, object]]:
    """Embed the texts both ways on this machine.

    Returns:
        the comparison for every output, and what the model became (`Encoder.describe`).
    """
    from embed_ops.encoders.device import use_threads

    use_threads(resolved.threads_per_replica)
    encoder = make_encoder(spec)
    encoder.load(resolved.device, resolved.dtype)
    column = pa.array(texts, pa.string())
    prepared = encoder.prepare(column)
    vectors, _, _ = embed_inputs(encoder, prepared.inputs, resolved.token_budget)
    found = []
    if texts:
        name, reference = encoder.reference(column)
        for output, expected in reference.items():
            close = cosines(vectors[output][prepared.index], expected)
            found.append(Parity(output, name, len(texts), float(close.mean()), float(close.min()), int(close.argmin())))
    return found, encoder.describe()


def require(found: list[Parity], limits: ParitySpec) -> None:
    """Stop the job where an output misses the limits.

    Raises:
        ParityError: holds a table of all outputs.
    """
    if all(item.mean >= limits.min_mean and item.min >= limits.min for item in found):
        return
    head = f"{'output':<16} {'rows':>5} {'mean cosine':>12} {'min cosine':>12}  reference"
    table = [f"{item.output:<16} {item.rows:>5} {item.mean:>12.7f} {item.min:>12.7f}  {item.reference}" for item in found]
    raise ParityError(
        "the vectors differ from the reference by more than [parity] allows "
        f"(min_mean = {limits.min_mean}, min = {limits.min}); stopped before the first unit. "
        "Use encoder.dtype=float32, or other limits.\n" + "\n".join([head, *table])
    )
