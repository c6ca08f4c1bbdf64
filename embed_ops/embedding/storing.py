"""How the vectors of each output are stored, and which rows have none.

As floats of a type, or as the codes of a fitted quantizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.embedding.unit import EmbeddedUnit
from embed_ops.encoders.base import Encoder, FloatArray
from embed_ops.encoders.windows.parts import Targets
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.ragged import Ragged, offsets_of
from embed_ops.runs.models import load_model
from embed_ops.runs.parquet import lists_column, read_vectors, vector_column
from embed_ops.schema import INPUT, MESSAGE, REASON, Reason
from embed_ops.spec.encoder import COMPANIONS, EncoderSpec, OutputSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address
from embed_ops.storage.packing import content_digest

_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}
_WHY = {
    Reason.TOO_LARGE: "the forward pass runs out of memory on this row alone; a smaller "
    "encoder.max_tokens would cut it",
    Reason.NON_FINITE: "the model's vector holds NaN or infinity",
    Reason.CRASHED: "the process that embeds this row dies, each time",
    Reason.HUNG: "embedding this row does not end; with a slow device a larger resources.hang_seconds "
    "may help",
}
"""Why a row that was prepared has no vector, in a sentence."""
Stored = dict[str, npt.NDArray[Any] | Ragged]


def vector_table(vectors: Mapping[str, FloatArray | Ragged]) -> pa.Table:
    """Make a table of vectors as encoders give them, {output: (rows, dim) float32, or lists}."""
    return pa.table({name: _column(values, "float32") for name, values in vectors.items()})


def _column(vectors: npt.NDArray[Any] | Ragged, dtype: str) -> pa.Array:
    return lists_column(vectors, dtype) if isinstance(vectors, Ragged) else vector_column(vectors, dtype)


def store_rows(unit: EmbeddedUnit, spec: Spec, fingerprint: str) -> tuple[pa.Table, pa.Table]:
    """Give each row of a unit its vectors, as they are stored.

    Returns:
        the data file's table, and all rejects: those of before, and rows without a finite vector.
    """
    index = unit.rows.column(INPUT).to_numpy()  # (rows,) the distinct input of each
    vectors = {name: read_vectors(unit.vectors.column(name)) for name in unit.vectors.schema.names}
    of_inputs, finite_inputs = store(spec, vectors, fingerprint)
    stored, finite = _taken(of_inputs, index), finite_inputs[index]
    data, rejects = unit.rows.drop_columns([INPUT]), unit.rejects
    if not finite.all():
        reasons = [Reason(unit.refused.get(place, Reason.NON_FINITE)) for place in index[~finite].tolist()]
        without = _without_vector(data.filter(pa.array(~finite)), reasons, rejects.schema)
        rejects = pa.concat_tables([rejects, without])
        data, stored = data.filter(pa.array(finite)), _taken(stored, finite)
    data, stored = chosen_words(spec.encoder, data, stored)
    for name, values in stored.items():
        data = data.append_column(name, _column(values, stored_type(spec, name)))
    return data, rejects


def _taken(stored: Stored, rows: npt.NDArray[Any]) -> Stored:
    """Take rows of all outputs, by their places or by a mask."""
    return {
        name: values.take(rows) if isinstance(values, Ragged) else values[rows]
        for name, values in stored.items()
    }


def _without_vector(rows: pa.Table, reasons: Sequence[Reason], schema: pa.Schema) -> pa.Table:
    """Make rejects of rows that were prepared and have no vector."""
    columns = {name: rows.column(name) for name in rows.schema.names if name in schema.names}
    columns[REASON] = pa.array([str(reason) for reason in reasons], pa.string())
    columns[MESSAGE] = pa.array([_WHY[reason] for reason in reasons], pa.string())
    return pa.table({name: columns[name] for name in schema.names}, schema)


def chosen_words(spec: EncoderSpec, data: pa.Table, stored: Stored) -> tuple[pa.Table, Stored]:
    """Keep, of the words of each row, those that its `targets_column` names."""
    if spec.targets_column is None:
        return data, stored
    words, masks = data.column("word").to_pylist(), []
    for of_row, named in zip(words, data.column(spec.targets_column).to_pylist(), strict=True):
        targets = Targets([named] if isinstance(named, str) else [str(word) for word in named or ()])
        masks.append(targets.mask(of_row))
    keep = np.concatenate(masks) if masks else np.zeros(0, np.bool_)  # (words of all rows,)
    offsets = offsets_of(keep)[offsets_of(np.array([len(of_row) for of_row in words], np.int64))]
    for name in COMPANIONS["word"]:
        column = data.column(name).combine_chunks()
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
    """Count the bytes of a row's vectors as stored.

    Returns:
        those of a row, and, of vectors in lists, those for each token of its text.
    """
    of_row, of_token = 0, 0
    for name, output in _outputs(spec.encoder).items():
        size = encoder.dim(name) * _BYTES[stored_type(spec, name)]
        if spec.encoder.each(output) in ("row", "window"):
            of_row += size
        else:
            of_token += size // (spec.encoder.chunk or 1 if output.each == "chunk" else 1)
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
    digests = {}
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
        digests[f"quantizer of {name}"] = content_digest(model)
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
    spec: Spec, vectors: Mapping[str, FloatArray | Ragged], fingerprint: str
) -> tuple[Stored, npt.NDArray[np.bool_]]:
    """Turn vectors to what is stored, and tell which rows are finite in all outputs.

    Args:
        spec: of the run, with full addresses.
        vectors: {output: (rows, dim) float32, or lists}.
        fingerprint: digest of the run's, which the quantizers are part of.

    Returns:
        {output: (rows, dim) of the stored type, or lists}, and (rows,) bool.
    """
    columns: Stored = {}
    finite = []
    for name, output in _outputs(spec.encoder).items():
        given = vectors[name]
        values = given.values if isinstance(given, Ragged) else given
        if output.quantizer is None:
            stored = values.astype(stored_type(spec, name))
            fine = np.isfinite(stored).all(axis=1)
        else:
            fine = np.atleast_1d(np.isfinite(values).all(axis=1))
            stored = _quantizer(output.quantizer, fingerprint).transform(
                np.where(fine[:, None], values, np.float32(0))
            )
        columns[name] = Ragged(stored, given.offsets) if isinstance(given, Ragged) else stored
        finite.append(given.all(fine) if isinstance(given, Ragged) else fine)
    return columns, np.logical_and.reduce(finite)
