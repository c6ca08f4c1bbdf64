"""Token ids as graphs take them: the inputs that have a meaning, and a batch of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_ops.encoders.onnx.graph import Graph, listed
from embed_ops.encoders.onnx.session import Batch, Ids
from embed_ops.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

IDS, MASK = "input_ids", "attention_mask"
_KNOWN = (IDS, MASK, "token_type_ids", "position_ids")
"""Inputs that can be given."""


def token_batch(ids: Ids, mask: Ids | None = None, prompts: int | Tensor = 0) -> Batch:
    """Name ids and mask, (B, T), as graphs do; without a mask all are tokens.

    `prompts`: tokens of the prompts among them, as of `Batch`.
    """
    given = {
        IDS: ids,
        MASK: np.ones_like(ids) if mask is None else mask,
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
    }
    return Batch(
        given,
        f"{ids.shape[0]} rows of {ids.shape[1]} tokens",
        "set encoder.max_tokens to what the model takes, or export it again",
        prompts,
    )


def check_inputs(file: Path, graph: Graph) -> None:
    """Check that a graph asks for nothing but a batch of tokens, of any length.

    Raises:
        ModelError: names what it asks for.
    """
    odd = [tensor.name for tensor in graph.inputs if tensor.name not in _KNOWN]
    asked = {tensor.name: tensor.shape for tensor in graph.inputs}
    if odd or IDS not in asked:
        missing = f"asks for {', '.join(odd)}" if odd else f"has no input {IDS}"
        raise ModelError(
            f"{file}: {missing}, and a model of texts takes {', '.join(_KNOWN)}; its inputs: "
            f"{listed(asked)}; export it as feature extraction"
        )
    for tensor in graph.inputs:
        if tensor.kind not in ("int64", "int32"):
            raise ModelError(
                f"{file}: its input {tensor.name} takes {tensor.kind}, and tokens are int64 or int32; export "
                "it again"
            )
        if tensor.shape is None:
            continue
        if len(tensor.shape) != 2:
            raise ModelError(
                f"{file}: its input {listed({tensor.name: tensor.shape})} has {len(tensor.shape)} axes, and "
                "tokens have two, (rows, tokens); export it again"
            )
        if tensor.shape[0] not in (None, 1) or tensor.shape[1] is not None:
            raise ModelError(
                f"{file}: its input {listed({tensor.name: tensor.shape})} has a fixed size, and texts differ "
                "in length; export it with dynamic axes"
            )
