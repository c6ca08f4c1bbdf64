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
from embed_ops.encoders.base import Encoder, dims_of
from embed_ops.encoders.hub.folder import is_local
from embed_ops.encoders.windows.parts import Targets
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.kinds import Vectors, kind_in_memory
from embed_ops.numerics.norms import finite
from embed_ops.numerics.ragged import offsets_of
from embed_ops.runs.models import load_model
from embed_ops.runs.parquet import read_vectors
from embed_ops.schema import INPUT, MESSAGE, REASON, Reason
from embed_ops.spec.encoder import (
    COMPANIONS,
    AnyEncoder,
    EncoderSpec,
    LanguageEncoderSpec,
    OnnxEncoderSpec,
)
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address
from embed_ops.storage.packing import content_digest

WHY = {
    Reason.TOO_LARGE: "the forward pass runs out of memory on this row alone; a smaller "
    "encoder.max_tokens would cut it",
    Reason.NON_FINITE: "the model's vector holds NaN or infinity",
    Reason.CRASHED: "the process that embeds this row dies, each time",
    Reason.HUNG: "embedding this row does not end; with a slow device a larger resources.hang_seconds "
    "may help",
}
"""Why a row that was prepared has no vector, in a sentence."""
Stored = dict[str, Vectors]


def vector_table(vectors: Mapping[str, Vectors]) -> pa.Table:
    """Make a table of vectors as encoders give them, {output: of any kind, float32}."""
    return pa.table({name: _column(given, "float32") for name, given in vectors.items()})


def _column(vectors: Vectors, dtype: str) -> pa.Array:
    return kind_in_memory(vectors).column(vectors, dtype)


def store_rows(unit: EmbeddedUnit, spec: Spec, fingerprint: str) -> tuple[pa.Table, pa.Table]:
    """Give each row of a unit its vectors, as they are stored.

    Returns:
        the data file's table, and all rejects: those of before, and rows without a finite vector.
    """
    index = unit.rows.column(INPUT).to_numpy()  # (rows,) the distinct input of each
    vectors = {name: read_vectors(unit.vectors.column(name)) for name in unit.vectors.schema.names}
    of_inputs, finite_inputs = store(spec, vectors, fingerprint)
    stored, finite = _taken(of_inputs, index), finite_inputs[index]
    rows, rejects = unit.rows.drop_columns([INPUT]), unit.rejects
    if not finite.all():
        reasons = [Reason(unit.refused.get(place, Reason.NON_FINITE)) for place in index[~finite].tolist()]
        without = _without_vector(rows.filter(pa.array(~finite)), reasons, rejects.schema)
        rejects = pa.concat_tables([rejects, without])
        rows, stored = rows.filter(pa.array(finite)), _taken(stored, finite)
    rows, stored = chosen_words(spec.encoder, rows, stored)
    for name, values in stored.items():
        rows = rows.append_column(name, _column(values, stored_type(spec, name)))
    return rows, rejects


def _taken(stored: Stored, rows: npt.NDArray[Any]) -> Stored:
    """Take rows of all outputs, by their places or by a mask."""
    return {name: kind_in_memory(vectors).take(vectors, rows) for name, vectors in stored.items()}


def _without_vector(rows: pa.Table, reasons: Sequence[Reason], schema: pa.Schema) -> pa.Table:
    """Make rejects of rows that were prepared and have no vector."""
    columns = {name: rows.column(name) for name in rows.schema.names if name in schema.names}
    columns[REASON] = pa.array([str(reason) for reason in reasons], pa.string())
    columns[MESSAGE] = pa.array([WHY[reason] for reason in reasons], pa.string())
    return pa.table({name: columns[name] for name in schema.names}, schema)


def chosen_words(spec: EncoderSpec, rows: pa.Table, stored: Stored) -> tuple[pa.Table, Stored]:
    """Keep, of the words of each row, those that its `targets_column` names."""
    if not isinstance(spec, LanguageEncoderSpec) or spec.targets_column is None:
        return rows, stored
    words, masks = rows.column("word").to_pylist(), []
    for of_row, named in zip(words, rows.column(spec.targets_column).to_pylist(), strict=True):
        targets = Targets([named] if isinstance(named, str) else [str(word) for word in named or ()])
        masks.append(targets.mask(of_row))
    keep = np.concatenate(masks) if masks else np.zeros(0, np.bool_)  # (words of all rows,)
    offsets = offsets_of(keep)[offsets_of(np.array([len(of_row) for of_row in words], np.int64))]
    for name in COMPANIONS["word"]:
        column = rows.column(name).combine_chunks()
        thin = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), column.flatten().filter(pa.array(keep))
        )
        rows = rows.set_column(rows.schema.get_field_index(name), name, thin)
    of_words = {output.name for output in spec.named if spec.each(output) == "word"}
    return rows, {
        name: kind_in_memory(vectors).as_lists(vectors).keep(keep) if name in of_words else vectors
        for name, vectors in stored.items()
    }


def stored_type(spec: Spec, output: str) -> str:
    """Name the type in which an output is stored."""
    return next(asked.dtype for asked in spec.encoder.named if asked.name == output) or spec.sink.dtype


def vector_bytes(spec: Spec, encoder: Encoder) -> tuple[int, int]:
    """Count the bytes of a row's vectors as stored.

    Returns:
        those of a row, and, of vectors in lists, those for each token of its text.
    """
    of_row, of_token = 0, 0
    chunk = spec.encoder.chunk if isinstance(spec.encoder, LanguageEncoderSpec) else None
    for output, asked in zip(encoder.outputs(), spec.encoder.named, strict=True):
        size = output.kind.dim * np.dtype(output.dtype or spec.sink.dtype).itemsize
        if spec.encoder.each(asked) in ("row", "window"):
            of_row += size
        else:
            of_token += size // (chunk or 1 if asked.each == "chunk" else 1)
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
        name = output.name
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
        if model.dim != dims[name]:
            raise SpecError(
                f"{where}: takes {model.dim} dimensions, and the output has {dims[name]}; fit it "
                "on such vectors"
            )
        digests[f"quantizer of {name}"] = content_digest(model)
    return digests


def anchored(spec: AnyEncoder) -> AnyEncoder:
    """Give what else a section names its full address, so that it means the same to every process.

    Quantizers, and the folder of the model that a file was made of.
    """
    outputs = tuple(
        output
        if output.quantizer is None
        else output.model_copy(update={"quantizer": full_address(output.quantizer)})
        for output in spec.outputs
    )
    named: dict[str, Any] = {"outputs": outputs}
    if isinstance(spec, OnnxEncoderSpec) and spec.reference is not None and is_local(spec.reference):
        named["reference"] = full_address(spec.reference)
    return spec.model_copy(update=named)


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
