"""How the vectors of each output are stored.

As floats of a type, or as the codes of a fitted quantizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.base import Encoder, dims_of
from embed_ops.encoders.windows.parts import Targets
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.kinds import Vectors, kind_in_memory
from embed_ops.numerics.norms import finite
from embed_ops.numerics.ragged import Ragged, offsets_of
from embed_ops.runs.models import load_model
from embed_ops.spec.encoder import COMPANIONS, EncoderSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address
from embed_ops.storage.packing import content_digest

Stored = dict[str, Vectors]


def chosen_words(spec: EncoderSpec, data: pa.Table, stored: Stored) -> tuple[pa.Table, Stored]:
    """Keep, of the words of each row, those that its `targets_column` names."""
    if spec.targets_column is None:
        return data, stored
    words, mask = data.column("word").to_pylist(), []
    for of_row, wanted in zip(words, data.column(spec.targets_column).to_pylist(), strict=True):
        mask.append(
            Targets([wanted] if isinstance(wanted, str) else [str(word) for word in wanted or ()]).mask(
                of_row
            )
        )
    keep = np.concatenate(mask) if mask else np.zeros(0, np.bool_)  # (words of all rows,)
    counts = np.array([len(of_row) for of_row in words], np.int64)
    offsets = pa.array(Ragged(keep, offsets_of(counts)).keep(keep).offsets, pa.int32())
    for name in COMPANIONS["word"]:
        kept = data.column(name).combine_chunks().flatten().filter(pa.array(keep))
        data = data.set_column(
            data.schema.get_field_index(name), name, pa.ListArray.from_arrays(offsets, kept)
        )
    of_words = {output.name for output in spec.named if spec.each(output) == "word"}
    return data, {
        name: kind_in_memory(vectors).as_lists(vectors).keep(keep) if name in of_words else vectors
        for name, vectors in stored.items()
    }


def stored_type(spec: Spec, output: str) -> str:
    """Name the type in which an output is stored."""
    return next(asked.dtype for asked in spec.encoder.named if asked.name == output) or spec.sink.dtype


def vector_bytes(spec: Spec, encoder: Encoder) -> tuple[int, int]:
    """Count the stored bytes of a row's vectors, and of lists those for each token of its text."""
    of_row, of_token = 0, 0
    for output, asked in zip(encoder.outputs(), spec.encoder.named, strict=True):
        size = output.kind.dim * np.dtype(output.dtype or spec.sink.dtype).itemsize
        if spec.encoder.each(asked) in ("row", "window"):
            of_row += size
        else:
            of_token += size // (spec.encoder.chunk or 1 if asked.each == "chunk" else 1)
    return of_row, of_token


@cache
def _quantizer(path: str, fingerprint: str) -> Any:
    """Load a quantizer once in a process for each run.

    The one at a path may be another for the next run.
    """
    return load_model(path)


def quantizers(spec: EncoderSpec, encoder: Encoder) -> dict[str, str]:
    """Check the quantizers of a run, and give what each is: {"quantizer of OUTPUT": sha256}.

    Raises:
        SpecError: one is no 8-bit quantizer, of other codes or of another width.
    """
    digests, dims = {}, dims_of(encoder.outputs())
    for output in spec.named:
        if output.quantizer is None:
            continue
        where = f"encoder.outputs {output.name!r}: quantizer {output.quantizer}"
        try:
            model = load_model(output.quantizer)
        except StageError as error:
            raise SpecError(f"{where}: {error}") from error
        if model.kind != "quantize" or model.to != output.dtype:
            of = f"a quantize stage to {model.to}" if model.kind == "quantize" else f"a {model.kind} stage"
            raise SpecError(
                f"{where}: is of {of}, and dtype is {output.dtype}; give the run of a quantize stage to "
                f"{output.dtype}"
            )
        if model.dim != dims[output.name]:
            raise SpecError(
                f"{where}: takes {model.dim} dimensions, and the output has {dims[output.name]}; fit it "
                "on such vectors"
            )
        digests[f"quantizer of {output.name}"] = content_digest(model)
    return digests


def anchored(spec: EncoderSpec) -> EncoderSpec:
    """Give quantizers their full addresses, so that they mean the same to every process."""
    outputs = tuple(
        output
        if output.quantizer is None
        else output.model_copy(update={"quantizer": full_address(output.quantizer)})
        for output in spec.outputs
    )
    return spec.model_copy(update={"outputs": outputs})


def store(
    spec: Spec, vectors: Mapping[str, Vectors], fingerprint: str
) -> tuple[Stored, npt.NDArray[np.bool_]]:
    """Turn vectors to what is stored, and tell which rows are finite in all outputs: (rows,).

    Args:
        spec: of the run, with full addresses.
        vectors: of a unit, {output: of any kind, float32}.
        fingerprint: digest of the run's, which the quantizers are part of.
    """
    columns: Stored = {}
    whole = []
    for output in spec.encoder.named:
        given = vectors[output.name]
        kind = kind_in_memory(given)
        values = kind.values(given)
        if output.quantizer is None:
            stored = values.astype(output.dtype or spec.sink.dtype)
            fine = finite(stored)
        else:
            fine = finite(values)
            stored = _quantizer(output.quantizer, fingerprint).transform(
                np.where(fine[:, None], values, np.float32(0))
            )
        columns[output.name] = kind.with_values(given, stored)
        whole.append(kind.rows_where(given, fine))
    return columns, np.logical_and.reduce(whole)
