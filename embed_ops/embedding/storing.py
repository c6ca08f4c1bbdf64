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

from embed_ops.encoders.base import Encoder, FloatArray
from embed_ops.encoders.windows.parts import Targets
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.ragged import Ragged, offsets_of
from embed_ops.runs.models import load_model
from embed_ops.spec.encoder import COMPANIONS, AnyEncoder, EncoderSpec, LanguageEncoderSpec, OutputSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address
from embed_ops.storage.packing import content_digest

_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}
Stored = dict[str, npt.NDArray[Any] | Ragged]


def chosen_words(spec: EncoderSpec, data: pa.Table, stored: Stored) -> tuple[pa.Table, Stored]:
    """Keep, of the words of each row, those that its `targets_column` names."""
    if not isinstance(spec, LanguageEncoderSpec) or spec.targets_column is None:
        return data, stored
    words, mask = data.column("word").to_pylist(), []
    for found, wanted in zip(words, data.column(spec.targets_column).to_pylist(), strict=True):
        mask.append(
            Targets([wanted] if isinstance(wanted, str) else [str(word) for word in wanted or ()]).mask(found)
        )
    keep = np.concatenate(mask) if mask else np.zeros(0, np.bool_)
    for name in COMPANIONS["word"]:
        column = data.column(name).combine_chunks()
        offsets = (
            Ragged(np.zeros(len(keep)), offsets_of(np.array([len(found) for found in words], np.int64)))
            .keep(keep)
            .offsets
        )
        thin = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), column.flatten().filter(pa.array(keep))
        )
        data = data.set_column(data.schema.get_field_index(name), name, thin)
    of_words = {output.name for output in spec.named if spec.each(output) == "word"}
    kept = {
        name: values.keep(keep) if isinstance(values, Ragged) and name in of_words else values
        for name, values in stored.items()
    }
    return data, kept


def _outputs(spec: EncoderSpec) -> dict[str, OutputSpec]:
    return {output.name: output for output in spec.outputs or (OutputSpec(),)}


def stored_type(spec: Spec, output: str) -> str:
    """Name the type in which an output is stored."""
    return _outputs(spec.encoder)[output].dtype or spec.sink.dtype


def vector_bytes(spec: Spec, encoder: Encoder) -> tuple[int, int]:
    """Count the bytes of a row's vectors, as stored, and of those in lists for each token of its text."""
    of_row, of_token = 0, 0
    chunk = spec.encoder.chunk if isinstance(spec.encoder, LanguageEncoderSpec) else None
    for name, output in _outputs(spec.encoder).items():
        size = encoder.dim(name) * _BYTES[stored_type(spec, name)]
        if spec.encoder.each(output) in ("row", "window"):
            of_row += size
        else:
            of_token += size // (chunk or 1 if output.each == "chunk" else 1)
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
    found = {}
    for name, output in _outputs(spec).items():
        if output.quantizer is None:
            continue
        where = f"encoder.outputs {name!r}: quantizer {output.quantizer}"
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
        if model.dim != encoder.dim(name):
            raise SpecError(
                f"{where}: takes {model.dim} dimensions, and the output has {encoder.dim(name)}; fit it "
                "on such vectors"
            )
        found[f"quantizer of {name}"] = content_digest(model)
    return found


def anchored(spec: AnyEncoder) -> AnyEncoder:
    """Give quantizers their full addresses, so that they mean the same to every process."""
    outputs = tuple(
        output
        if output.quantizer is None
        else output.model_copy(update={"quantizer": full_address(output.quantizer)})
        for output in spec.outputs
    )
    return spec.model_copy(update={"outputs": outputs})


def store(
    spec: Spec, vectors: Mapping[str, FloatArray | Ragged], fingerprint: str
) -> tuple[Stored, npt.NDArray[np.bool_]]:
    """Turn vectors, {output: (rows, dim) float32, or lists}, to what is stored, and tell which rows are finite in all of them: (rows,).

    Args:
        spec: of the run, with full addresses.
        vectors: of a unit.
        fingerprint: digest of the run's, which the quantizers are part of.
    """
    columns: Stored = {}
    finite = []
    for name, output in _outputs(spec.encoder).items():
        found = vectors[name]
        values = found.values if isinstance(found, Ragged) else found
        if output.quantizer is None:
            stored = values.astype(stored_type(spec, name))
            fine = np.isfinite(stored).all(axis=1)
        else:
            fine = np.atleast_1d(np.isfinite(values).all(axis=1))
            stored = _quantizer(output.quantizer, fingerprint).transform(
                np.where(fine[:, None], values, np.float32(0))
            )
        columns[name] = Ragged(stored, found.offsets) if isinstance(found, Ragged) else stored
        finite.append(found.all(fine) if isinstance(found, Ragged) else fine)
    return columns, np.logical_and.reduce(finite)
