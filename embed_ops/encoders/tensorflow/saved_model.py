"""What a SavedModel says of itself: its signatures, without TensorFlow."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from embed_ops.encoders.protobuf import fields, inner, text
from embed_ops.errors import ModelError

Shape = tuple[int | None, ...]
"""Lengths of axes, None for one of any length."""
FLOATS = ("float32", "float64", "float16", "bfloat16")
NUMBERS = ("float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64")
STRING = "string"
SERVED = "serve"
"""The tag of the graph that is meant to be used."""

_TYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: STRING,
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
"""`DataType` of TensorFlow."""
_GRAPHS = 2
"""Field of `SavedModel`."""
_ABOUT, _SIGNATURES = 1, 5
"""Fields of `MetaGraphDef`."""
_OPERATORS, _TAGS = 2, 4
"""Fields of `MetaInfoDef`."""
_KEY, _VALUE = 1, 2
"""Fields of an entry of a map."""
_INTERNAL = "__saved_model"
"""How signatures begin that are not for users."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
        dtype: its type, as numpy names it; "string" too.
        shape: None where the file does not say how many axes it has.
    """

    dtype: str
    shape: Shape | None

    def __str__(self) -> str:
        """Write it as a message does."""
        shape = "of any shape" if self.shape is None else f"({', '.join(map(_length, self.shape))})"
        return f"{self.dtype} {shape}"


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives, by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """What a file of a SavedModel holds: the graph that is meant to be used.

    Attributes:
        signatures: by name.
        operators: names of those that the graph needs.
    """

    signatures: Mapping[str, Signature]
    operators: frozenset[str]


def _length(length: int | None) -> str:
    return "any" if length is None else str(length)


def listed(tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as a message does."""
    return ", ".join(f"{name} {tensor}" for name, tensor in tensors.items()) or "none"


def read_contents(file: Path) -> Contents:
    """Read the signatures of `saved_model.pb`.

    Raises:
        ModelError: it is no SavedModel, or has no graph that is meant to be used.
    """
    graphs: list[tuple[list[str], Contents]] = []
    try:
        with file.open("rb") as stream:
            whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        graphs += [_graph(inner(value)) for number, value in fields(whole) if number == _GRAPHS]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file}: is no SavedModel of TensorFlow ({error}); save the model again (tf.saved_model.save)"
        ) from error
    for tags, contents in graphs:
        if SERVED in tags:
            return contents
    tags_of = ", ".join("+".join(tags) or "no tag" for tags, _ in graphs) or "none"
    raise ModelError(
        f"{file}: has no graph with the tag {SERVED!r} (its graphs: {tags_of}), as modules of TensorFlow 1 "
        "have none; choose the model's version for TensorFlow 2, or save it again (tf.saved_model.save)"
    )


def _graph(message: memoryview) -> tuple[list[str], Contents]:
    """Read a graph: its tags, and what it holds."""
    tags: list[str] = []
    operators: set[str] = set()
    signatures: dict[str, Signature] = {}
    for number, value in fields(message):
        if number == _ABOUT:
            for part, about in fields(inner(value)):
                if part == _TAGS:
                    tags.append(text(about))
                elif part == _OPERATORS:
                    operators |= {text(name) for name in _first(inner(about))}
        elif number == _SIGNATURES:
            name, signature = _entry(inner(value))
            if not name.startswith(_INTERNAL):
                signatures[name] = _signature(signature)
    return tags, Contents(signatures, frozenset(operators))


def _first(message: memoryview) -> Iterator[memoryview]:
    """Give the first field of each message in a list of messages: the name of an operator."""
    for _, value in fields(message):
        yield from (inner(part) for number, part in fields(inner(value)) if number == 1)


def _entry(message: memoryview) -> tuple[str, memoryview]:
    parts = dict(fields(message))
    return text(parts.get(_KEY, memoryview(b""))), inner(parts.get(_VALUE, memoryview(b"")))


def _signature(message: memoryview) -> Signature:
    sides: dict[int, dict[str, Tensor]] = {1: {}, 2: {}}
    for number, value in fields(message):
        if number in sides:
            name, tensor = _entry(inner(value))
            sides[number][name] = _tensor(tensor)
    return Signature(*(dict(sorted(side.items())) for side in sides.values()))


def _tensor(message: memoryview) -> Tensor:
    parts = dict(fields(message))
    if 1 not in parts:
        # A sparse or ragged one.
        return Tensor("composite", None)
    kind = parts.get(2, 0)
    shape = _shape(inner(parts[3])) if 3 in parts else ()
    return Tensor(_TYPES.get(kind, f"type {kind}") if isinstance(kind, int) else "unknown", shape)


def _shape(message: memoryview) -> Shape | None:
    axes: list[int | None] = []
    for number, value in fields(message):
        if number == 3 and value:
            return None
        if number == 2:
            size = dict(fields(inner(value))).get(1, 0)
            # -1 is written as an unsigned number.
            axes.append(size if isinstance(size, int) and size < 1 << 63 else None)
    return tuple(axes)
