"""What some encoders offer beside the protocol `Encoder`, as their files and their spec have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from embed_ops.encoders.base import Encoder, FloatArray
from embed_ops.errors import ModelError


@runtime_checkable
class OfOneModality(Protocol):
    """An encoder whose model, and not its family, says which of the modalities it takes.

    Attributes:
        modality: as `source.modality` says it.
    """

    @property
    def modality(self) -> str:
        """What its rows are."""
        ...


def modalities(encoder: Encoder) -> tuple[str, ...]:
    """Name what a model takes: all that its family does, or the one that the model tells."""
    return (encoder.modality,) if isinstance(encoder, OfOneModality) else tuple(encoder.takes)


def require_modality(encoder: Encoder, model: str, modality: str) -> None:
    """Refuse a model that takes something else than the source holds.

    Raises:
        ModelError: says what it takes.
    """
    if not isinstance(encoder, OfOneModality):
        # It may take less than its family does.
        encoder.most_rows(modality, 1)
    taken = modalities(encoder)
    if modality not in taken:
        raise ModelError(
            f"{model}: takes {' and '.join(f'{kind}s' for kind in taken)}, and source.modality is "
            f'{modality!r}; set source.modality = "{taken[0]}" where the source holds such, or choose '
            "another model"
        )


@dataclass(frozen=True)
class Original:
    """What the model gives that a file was made of.

    Attributes:
        name: of the model, and of the library that ran it.
        vectors: {output: (rows, dim) float32}, NaN for rejects; outputs that it lacks are left out.
        min_mean, min: cosines that are enough for such a file, where `[parity]` asks for more.
    """

    name: str
    vectors: Mapping[str, FloatArray]
    min_mean: float
    min: float


@runtime_checkable
class OfAnOriginal(Protocol):
    """An encoder of a file that may have been made of another model."""

    def original(self, column: pa.Array, device: str) -> Original | None:
        """Embed rows by that model, one at a time; None where the spec names none."""
        ...
