"""The floating-point operations of a graph of a transformer, read off its products."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from embed_ops.encoders.onnx.graph import Graph, Node
from embed_ops.encoders.text.cost import Cost

__all__ = ["Convolution", "Cost", "convolution_of", "cost_of"]

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
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operators that convolve, and which of their inputs has the weights."""
_UNCOUNTED = (
    "Attention",
    "LSTM",
    "GRU",
    "RNN",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
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


@dataclass(frozen=True)
class Convolution:
    """The one convolution of a graph, as vision transformers cut images to patches by.

    Attributes:
        size: (height, width) of what a position is made of.
        weights: their number.
    """

    size: tuple[int, int]
    weights: int


def convolution_of(graph: Graph) -> Convolution | None:
    """Give the convolution of images of three channels, where a graph has no other."""
    made = _made(graph)
    found = [node for node in graph.nodes if node.operator in _CONVOLUTIONS]
    if len(found) != 1:
        return None
    at = _CONVOLUTIONS[found[0].operator]
    shape = _weight(found[0].inputs[at], graph, made) if len(found[0].inputs) > at else None
    if shape is None or len(shape) != 4 or shape[1] != 3:
        return None
    return Convolution((shape[2], shape[3]), prod(shape))


def cost_of(graph: Graph, *, convolved: bool = False) -> Cost | None:
    """Count the products of weights, for each token, and those of tokens with tokens.

    None where operators multiply that are not counted. A `Gemm` beside other products is that of a
    pooler, once a row, and left out.

    `convolved`: the graph's one convolution is counted by others.
    """
    uncounted = [node.operator for node in graph.nodes if node.operator.endswith(_UNCOUNTED)]
    if any(not convolved or operator not in _CONVOLUTIONS for operator in uncounted):
        return None
    made = _made(graph)
    linear: dict[str, list[tuple[int, ...]]] = {"MatMul": [], "Gemm": []}
    between = 0
    for node in graph.nodes:
        if node.operator not in _PRODUCTS:
            continue
        shape = _matrix(node.inputs[1], graph, made) or _matrix(node.inputs[0], graph, made)
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


def _made(graph: Graph) -> dict[str, Node]:
    """Say which node makes each tensor."""
    return {output: node for node in graph.nodes for output in node.outputs}


def _weight(name: str, graph: Graph, made: dict[str, Node]) -> tuple[int, ...] | None:
    """Give the shape of the weight that a tensor is; None where it is none."""
    while name not in graph.weights:
        node = made.get(name)
        if node is None or node.operator not in _AS_BEFORE:
            return None
        name = node.inputs[0]
    return graph.weights[name]


def _matrix(name: str, graph: Graph, made: dict[str, Node]) -> tuple[int, ...] | None:
    shape = _weight(name, graph, made)
    return shape if shape is not None and len(shape) == 2 else None
