"""The floating-point operations of a graph of a transformer, read off its matrix products."""

from __future__ import annotations

from collections import Counter
from math import prod

from embed_ops.encoders.onnx.graph import Graph
from embed_ops.encoders.text.cost import Cost

__all__ = ["Cost", "cost_of"]

_PRODUCTS = frozenset(
    {
        "MatMul",
        "Gemm",
        "MatMulInteger",
        "com.microsoft.FusedMatMul",
        "com.microsoft.DynamicQuantizeMatMul",
        "com.microsoft.MatMulIntegerToFloat",
    }
)
"""Operators that multiply their first two inputs."""
_UNCOUNTED = (
    "Attention",
    "LSTM",
    "GRU",
    "RNN",
    "Conv",
    "Einsum",
    "Loop",
    "If",
    "Scan",
    "QLinearMatMul",
    "MatMulNBits",
    "QGemm",
)
"""Endings of operators that multiply too, in a way that is not counted."""
_AS_BEFORE = frozenset({"DequantizeLinear", "Cast", "Identity", "Mul", "Transpose"})
"""Operators whose result is as large as their first input."""


def cost_of(graph: Graph) -> Cost | None:
    """Count the products of weights, for each token, and those of tokens with tokens.

    None where operators multiply that are not counted. A `Gemm` beside other products is that of a
    pooler, once a row, and left out.
    """
    if any(node.operator.endswith(_UNCOUNTED) for node in graph.nodes):
        return None
    made = {output: node for node in graph.nodes for output in node.outputs}

    def weight(name: str) -> tuple[int, ...] | None:
        while name not in graph.weights:
            node = made.get(name)
            if node is None or node.operator not in _AS_BEFORE:
                return None
            name = node.inputs[0]
        shape = graph.weights[name]
        return shape if len(shape) == 2 else None

    linear: dict[str, list[tuple[int, ...]]] = {"MatMul": [], "Gemm": []}
    between = 0
    for node in graph.nodes:
        if node.operator not in _PRODUCTS:
            continue
        shape = weight(node.inputs[1]) or weight(node.inputs[0])
        if shape is None:
            between += 1
        else:
            linear["Gemm" if node.operator == "Gemm" else "MatMul"].append(shape)
    weights = linear["MatMul"] or linear["Gemm"]
    if not weights:
        return None
    width = Counter(min(shape) for shape in weights).most_common(1)[0][0]
    # Of each layer two products stand between tokens: queries with keys, and values.
    return Cost(sum(map(prod, weights)), ((width, None),) * (between // 2))
