"""Writes models as ONNX files by torch's own exporter, without the package `onnx`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils


class _Outputs(torch.nn.Module):
    """A model that takes tensors in order and gives outputs of it, by name."""

    def __init__(self, model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Name the tensors, and run the model."""
        given = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(getattr(given, name) for name in self.outputs)


def export_model(
    model: Any,
    given: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    file: Path,
    axes: Mapping[str, Mapping[int, str]],
) -> Path:
    """Write a model as an ONNX file.

    Args:
        model: of transformers.
        given: {input: an example of it}.
        outputs: names of what the model gives.
        file: to write; its folder is made.
        axes: {input or output: {axis: name}} of those without a fixed size.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # It would put functions of onnxscript in, by a package that is not needed where there are none.
    kept, onnx_proto_utils._add_onnxscript_fn = onnx_proto_utils._add_onnxscript_fn, lambda model, _: model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Outputs(model.eval(), list(given), outputs),
                tuple(given.values()),
                str(file),
                dynamo=False,
                opset_version=17,
                input_names=list(given),
                output_names=list(outputs),
                dynamic_axes=axes,
            )
    finally:
        onnx_proto_utils._add_onnxscript_fn = kept
    return file


def export_texts(folder: Path, file: Path, inputs: Sequence[str] = ("input_ids", "attention_mask")) -> Path:
    """Write the language model of a folder, for texts of any number and length."""
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    axes = {name: {0: "rows", 1: "tokens"} for name in (*inputs, "last_hidden_state")}
    given = {name: torch.ones(2, 5, dtype=torch.int64) for name in inputs}
    return export_model(model, given, ["last_hidden_state"], file, axes)
