"""Parity: the first rows through the job's own path and through the reference.

They are compared before hours are spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import Encoder, FloatArray, IntArray
from embed_ops.encoders.optional import OfAnOriginal, Original
from embed_ops.encoders.runtimes import Runtime, runtime_of
from embed_ops.errors import EmbedOpsError, ModelError, ParityError
from embed_ops.numerics.kinds import Vectors, kind_in_memory
from embed_ops.numerics.norms import finite
from embed_ops.numerics.ragged import Ragged
from embed_ops.spec.spec import ParitySpec


@dataclass(frozen=True)
class Parity:
    """How close one output came to the reference.

    Attributes:
        output: vector column.
        reference: what it was compared with.
        rows: how many rows, or vectors of lists.
        mean: mean cosine.
        min: least cosine of a row.
        worst_row: index of that row among those compared.
        enough: mean and least cosine that are enough where `[parity]` asks for more, if the
            reference is the model that a file was made of; None of others.
    """

    output: str
    reference: str
    rows: int
    mean: float
    min: float
    worst_row: int
    enough: tuple[float, float] | None = None

    def told(self) -> dict[str, Any]:
        """Give it as JSON values, for the report; what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def within(self, limits: ParitySpec) -> bool:
        """Tell whether it keeps the limits."""
        mean, least = (limits.min_mean, limits.min)
        if self.enough is not None:
            mean, least = min(mean, self.enough[0]), min(least, self.enough[1])
        return self.mean >= mean and self.min >= least


def cosines(left: FloatArray, right: FloatArray) -> FloatArray:
    """Cosine of each pair of `(rows, dim)` vectors, (rows,) float32; 1 where both are zero."""
    products = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    norms = np.linalg.norm(left.astype(np.float64), axis=1) * np.linalg.norm(right.astype(np.float64), axis=1)
    same = (left == right).all(axis=1)
    return np.where(same, 1.0, products / np.where(norms == 0, 1.0, norms)).astype(np.float32)


def reference_of(
    encoder: Encoder, model: str, column: pa.Array, device: str, runtime: Runtime | None = None
) -> tuple[str, Mapping[str, Vectors]]:
    """Embed rows through an encoder's reference.

    Args:
        encoder: the weights need not be loaded.
        model: its name, for the message.
        column: the rows' texts, lists of words or images.
        device: where the reference computes.
        runtime: tells an error of memory from others; None: torch.

    Raises:
        ModelError: the reference can't embed them.
    """
    try:
        return encoder.reference(column, device)
    except (EmbedOpsError, MemoryError):
        raise
    except Exception as error:  # other libraries, and models' own code, fail in any way
        runtime = runtime or runtime_of(None)
        if runtime.ran_out_of_memory(error) or runtime.lost_device(error):
            raise
        # What is wrong with a model, its own loading says more exactly than another library's.
        encoder.load(device, "float32")
        reason = _first_line(error)
        raise ModelError(
            f"{model}: the reference, which loads the model as its own library does, can't embed the first "
            f"rows ({type(error).__name__}: {reason}); mend the model, or compare nothing with parity.rows=0"
        ) from error


def original_of(encoder: Encoder, column: pa.Array, device: str) -> Original | None:
    """Embed rows by the model that an encoder's file was made of; None where none is named.

    Arguments as of `reference_of`.

    Raises:
        ModelError: that model can't embed them.
    """
    if not isinstance(encoder, OfAnOriginal):
        return None
    from embed_ops.encoders.device import lost_device, ran_out_of_memory

    try:
        return encoder.original(column, device)
    except (EmbedOpsError, MemoryError):
        raise
    except Exception as error:  # as above
        if ran_out_of_memory(error) or lost_device(error):
            raise
        raise ModelError(
            f"encoder.reference: the model can't embed the first rows ({type(error).__name__}: "
            f"{_first_line(error)}); name the model that the file was made of, or leave it out"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def compare(
    vectors: Mapping[str, Vectors],
    index: IntArray,
    reference: tuple[str, Mapping[str, Vectors]],
    original: Original | None,
) -> list[Parity]:
    """Compare as `compare_outputs`, and with the model that a file was made of, if one is named."""
    compared = compare_outputs(vectors, index, reference)
    if original is None:
        return compared
    enough = original.min_mean, original.min
    of_original = compare_outputs(vectors, index, (original.name, original.vectors))
    return compared + [replace(item, enough=enough) for item in of_original]


def compare_outputs(
    vectors: Mapping[str, Vectors],
    index: IntArray,
    reference: tuple[str, Mapping[str, Vectors]],
) -> list[Parity]:
    """Compare the vectors of a column's inputs with the reference of its rows, output by output.

    Lists vector by vector.

    Args:
        vectors: {output: (inputs, dim) float32, or a list for each}.
        index: (rows,) the input of each row, -1 for a reject.
        reference: its name and {output: (rows, dim) float32, or a list for each row}.
    """
    items = []
    for output, expected in reference[1].items() if len(index) else ():
        ours, theirs = (kind_in_memory(given).as_lists(given) for given in (vectors[output], expected))
        items += _compare_lists(output, ours, theirs, index, reference[0])
    return items


def _compare_lists(output: str, ours: Ragged, expected: Ragged, index: IntArray, name: str) -> list[Parity]:
    """Compare lists; those of another length count as opposite in all their vectors."""
    rows = np.flatnonzero(index >= 0)
    # A text without any token has no vector, here and there.
    of_rows = expected.take(rows)
    rows = rows[of_rows.all(finite(of_rows.values))]
    mine, theirs = ours.take(index[rows]), expected.take(rows)
    same = mine.counts == theirs.counts
    close = np.full(len(theirs.values), -1.0, np.float32)
    alike = np.repeat(same, theirs.counts)
    close[alike] = cosines(mine.take(same).values, theirs.take(same).values)
    close = np.concatenate([close, np.full(int((~same & (theirs.counts == 0)).sum()), -1.0, np.float32)])
    if not len(close):
        return []
    of_row = np.concatenate([np.repeat(rows, theirs.counts), rows[~same & (theirs.counts == 0)]])
    return [
        Parity(output, name, len(close), float(close.mean()), float(close.min()), int(of_row[close.argmin()]))
    ]


def within(compared: list[Parity], limits: ParitySpec) -> bool:
    """Tell whether all outputs keep the limits."""
    return all(item.within(limits) for item in compared)


def require(compared: list[Parity], limits: ParitySpec) -> None:
    """Stop the job where an output misses the limits.

    Raises:
        ParityError: holds a table of all outputs.
    """
    if within(compared, limits):
        return
    head = f"{'output':<16} {'rows':>5} {'mean cosine':>12} {'min cosine':>12}  reference"
    table = [
        f"{item.output:<16} {item.rows:>5} {item.mean:>12.7f} {item.min:>12.7f}  {item.reference}"
        for item in compared
    ]
    raise ParityError("\n".join([_missed(compared, limits), head, *table]))


def _missed(compared: list[Parity], limits: ParitySpec) -> str:
    """Say what the vectors differ from, by which limits, and what to do."""
    missed = [item for item in compared if not item.within(limits)]
    of_file = next((item.enough for item in missed if item.enough is not None), None)
    if of_file is None or any(item.enough is None for item in missed):
        return (
            "the vectors differ from the reference by more than [parity] allows "
            f"(min_mean = {limits.min_mean}, min = {limits.min}); stopped before the first unit. "
            "Use encoder.dtype=float32, or other limits."
        )
    mean, least = min(limits.min_mean, of_file[0]), min(limits.min, of_file[1])
    return (
        "the file gives other vectors than the model that encoder.reference names: a mean cosine of "
        f"{mean} and a least of {least} are asked for; stopped before the first unit. Name another file "
        "(encoder.file), export it again, or set lower limits in [parity] if these vectors will do."
    )
