"""The model that an ONNX file was made of: the same rows through it, to see what the file is worth.

The reference of a run is the same file, so it can't tell whether an export, or weights of eight
bits, give what the original gives. This does, where `encoder.reference` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import Encoder, FloatArray, dims_of, finished
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.hub.folder import locate_model
from embed_ops.encoders.images.towers import TOWERS
from embed_ops.encoders.onnx.graph import Graph
from embed_ops.encoders.onnx.wiring import POOLER, Wire
from embed_ops.encoders.optional import Original
from embed_ops.errors import ModelError
from embed_ops.redaction import redacted
from embed_ops.spec.encoder import (
    ClipEncoderSpec,
    ImageEncoderSpec,
    OnnxEncoderSpec,
    OutputSpec,
    TextEncoderSpec,
)

if TYPE_CHECKING:
    from embed_ops.encoders.onnx.inputs import Inputs

ENOUGH_OF_FEW_BITS = (0.99, 0.97)
"""Cosines, on average and of a row, that are enough for weights of eight bits or fewer: those of
MiniLM-L6 have 0.9996, and activations may be of eight bits too."""
_ALL = (1.0, 1.0)
_NAME = "embedding"
_Kind = tuple[Literal["text", "image", "clip"], str]
"""A family, and the pooling of its vectors."""


class OriginalModel:
    """The original of an ONNX file, and which of the file's columns it has too.

    Args:
        spec: of the encoder.
        model: folder, prefix or hub name of the original.
        graph: of the file.
        inputs: what goes into it.
        wires: its vector columns.

    Raises:
        ModelError: it can't be used, has vectors of another width, or none of the columns.
    """

    def __init__(
        self, spec: OnnxEncoderSpec, model: str, graph: Graph, inputs: Inputs, wires: Sequence[Wire]
    ) -> None:
        self._model, self._few_bits = model, graph.quantization is not None
        try:
            folder = locate_model(model, None, spec.trust_remote_code)
            towers = read_json(folder.path / "config.json").get("model_type") in TOWERS
            outputs = {tensor.name for tensor in graph.outputs}
            self._columns: dict[_Kind, list[Wire]] = {}
            self._without: list[str] = []
            for wire in wires:
                kind = _kind(wire, inputs.modality, towers) if wire.tensor in outputs else None
                if kind is None:
                    self._without.append(wire.column.name)
                else:
                    self._columns.setdefault(kind, []).append(wire)
            self._encoders = {kind: _encoder(kind, spec, model, inputs) for kind in self._columns}
            widths = {kind: dims_of(encoder.outputs())[_NAME] for kind, encoder in self._encoders.items()}
        except ModelError as error:
            raise ModelError(f"encoder.reference: {error}") from error
        if not self._columns:
            raise ModelError(
                f"encoder.reference: {', '.join(self._without)} can't be compared with {redacted(model)}: "
                "only outputs of the graph can, and no tensor inside it; leave reference out"
            )
        for kind, columns in self._columns.items():
            for wire in columns:
                if (width := inputs.width(wire)) != widths[kind]:
                    raise ModelError(
                        f"encoder.reference: {redacted(model)} gives vectors of {widths[kind]} dimensions, "
                        f"and output {wire.column.name!r} of {spec.model} has {width}; name the model that "
                        "the file was made of"
                    )

    def embed(self, column: pa.Array, device: str) -> Original:
        """Embed rows by the original, one at a time: those of the columns that it has."""
        vectors: dict[str, FloatArray] = {}
        library = ""
        for kind, encoder in self._encoders.items():
            library, given = encoder.reference(column, device)
            if (rows := given.get(_NAME)) is None:
                continue
            for wire in self._columns[kind]:
                made = [finished(row.astype(np.float64), wire.column) for row in np.asarray(rows)]
                vectors[wire.column.name] = np.asarray(made, np.float32).reshape(len(rows), -1)
        mean, least = ENOUGH_OF_FEW_BITS if self._few_bits else _ALL
        return Original(f"{redacted(self._model)}, by {library}", vectors, mean, least)

    def told(self) -> dict[str, Any]:
        """Say what it is and what it is compared in, for `run.json`."""
        commits = {encoder.describe().get("commit") for encoder in self._encoders.values()}
        compared = [wire.column.name for wires in self._columns.values() for wire in wires]
        return {
            "model": redacted(self._model),
            "commit": next(iter(commits)),
            "compared": compared,
            "not compared": self._without,
        }


def _kind(wire: Wire, modality: str, towers: bool) -> _Kind | None:
    """Say by which family, and which pooling of it, an output of a graph is computed."""
    if modality == "image":
        if wire.way == "pooled":
            return "image", wire.column.pooling
        if wire.tensor == POOLER:
            return "image", "pooler"
        return ("clip" if towers else "image"), "auto"
    if wire.way == "pooled":
        return "text", wire.column.pooling
    if wire.tensor == POOLER:
        return None
    return ("clip" if towers else "text"), "auto"


def _encoder(kind: _Kind, spec: OnnxEncoderSpec, model: str, inputs: Inputs) -> Encoder:
    """Make the encoder of the original, told what the file is told."""
    from embed_ops.encoders.clip.encoder import ClipEncoder
    from embed_ops.encoders.images.encoder import ImageEncoder
    from embed_ops.encoders.text.encoder import TextEncoder

    family, pooling = kind
    fields: dict[str, Any] = {"model": model, "trust_remote_code": spec.trust_remote_code}
    if pooling != "auto":
        fields["outputs"] = (OutputSpec(name=_NAME, pooling=pooling),)  # type: ignore[arg-type]
    if inputs.modality == "text":
        told = inputs.told(())
        fields |= {"prompt": told.get("prompt"), "max_tokens": told["max_tokens"]}
    else:
        fields["max_pixels"] = spec.max_pixels
    if family == "text":
        return TextEncoder(TextEncoderSpec(**fields))
    return (
        ImageEncoder(ImageEncoderSpec(**fields))
        if family == "image"
        else ClipEncoder(ClipEncoderSpec(**fields))
    )
