"""Parity: the first rows through the job's own path and through the reference, compared before hours are spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import FloatArray
from embed_ops.errors import ParityError
from embed_ops.job import Resolved
from embed_ops.registry import make_encoder
from embed_ops.spec import AUTO, EncoderSpec, ParitySpec
from embed_ops.steps import embed_inputs

LEAST_GAIN = 1.5
"""Times the float32 rate that a matrix product in a shorter type must reach to be worth its rounding."""


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


@dataclass(frozen=True)
class Measurement:
    """What one replica found before the first unit.

    Attributes:
        dtype: the compute type that was compared, and, for "auto", chosen.
        found: the comparison for every output.
        model: what the model became (`Encoder.describe`).
        refused: for "auto", the comparison of the faster type that missed the limits.
        rates: matrix-product FLOP/s by compute type, where they were needed to choose.
    """

    dtype: str
    found: list[Parity]
    model: dict[str, Any]
    refused: list[Parity]
    rates: dict[str, float]


def measure(spec: EncoderSpec, resolved: Resolved, limits: ParitySpec, texts: list[str]) -> Measurement:
    """Embed the texts as the job would and through the reference, and settle "auto": the fastest type that is close enough.

    A faster type is one whose matrix products this device really speeds up: emulated bfloat16 is slower than float32.
    """
    from embed_ops.encoders.device import gemm_flops_per_second, use_threads

    use_threads(resolved.threads_per_replica)
    column = pa.array(texts, pa.string())
    reference = make_encoder(spec).reference(column)
    if resolved.dtype != AUTO:
        return Measurement(resolved.dtype, *_compare(spec, resolved, resolved.dtype, column, reference), [], {})
    rates = {dtype: gemm_flops_per_second(resolved.device, dtype) for dtype in ("float32", "bfloat16")}
    refused: list[Parity] = []
    if texts and rates["bfloat16"] >= LEAST_GAIN * rates["float32"]:
        found, model = _compare(spec, resolved, "bfloat16", column, reference)
        if within(found, limits):
            return Measurement("bfloat16", found, model, [], rates)
        refused = found
    found, model = _compare(spec, resolved, "float32", column, reference)
    return Measurement("float32", found, model, refused, rates)


def _compare(
    spec: EncoderSpec, resolved: Resolved, dtype: str, column: pa.Array, reference: tuple[str, Mapping[str, FloatArray]]
) -> tuple[list[Parity], dict[str, Any]]:
    encoder = make_encoder(spec)
    encoder.load(resolved.device, dtype)
    prepared = encoder.prepare(column)
    vectors, _, _ = embed_inputs(encoder, prepared.inputs, resolved.token_budget)
    found = []
    for output, expected in reference[1].items() if len(column) else ():
        # A text without any token has no vector, here and there.
        finite = np.isfinite(expected).all(axis=1) & (prepared.index >= 0)
        if finite.any():
            close = cosines(vectors[output][prepared.index[finite]], expected[finite])
            rows = np.flatnonzero(finite)
            found.append(Parity(output, reference[0], len(rows), float(close.mean()), float(close.min()), int(rows[close.argmin()])))
    return found, encoder.describe()


def within(found: list[Parity], limits: ParitySpec) -> bool:
    """Tell whether all outputs keep the limits."""
    return all(item.mean >= limits.min_mean and item.min >= limits.min for item in found)


def require(found: list[Parity], limits: ParitySpec) -> None:
    """Stop the job where an output misses the limits.

    Raises:
        ParityError: holds a table of all outputs.
    """
    if within(found, limits):
        return
    head = f"{'output':<16} {'rows':>5} {'mean cosine':>12} {'min cosine':>12}  reference"
    table = [f"{item.output:<16} {item.rows:>5} {item.mean:>12.7f} {item.min:>12.7f}  {item.reference}" for item in found]
    raise ParityError(
        "the vectors differ from the reference by more than [parity] allows "
        f"(min_mean = {limits.min_mean}, min = {limits.min}); stopped before the first unit. "
        "Use encoder.dtype=float32, or other limits.\n" + "\n".join([head, *table])
    )
