"""What every encoder offers. A protocol: families share no code by inheritance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import ModelError
from embed_ops.numerics.kinds import Dense, Kind, Lists
from embed_ops.numerics.norms import normalized
from embed_ops.numerics.ragged import Places, Ragged
from embed_ops.spec.encoder import COMPANIONS, EncoderSpec, OutputSpec

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
Launched = Callable[[], Mapping[str, FloatArray]]
"""A batch on its way: waits for it, and gives {output: (vectors, dim) float32}."""


@dataclass(frozen=True)
class Modality:
    """What a family makes of one of the modalities that it takes (`source.modality`).

    Attributes:
        row_bytes: of a row, where only reading would tell.
        token_budgets: {device: positions of a forward pass}, unless a trial finds a faster size.
        choices: the settings that a trial may choose where they are "auto".
    """

    row_bytes: int
    token_budgets: Mapping[str, int]
    choices: frozenset[str]


TEXT = Modality(200, {"cpu": 4_096, "cuda": 65_536}, frozenset({"dtype", "compile", "token_budget"}))
# Models of images are wider, and leave the cache sooner.
IMAGE = Modality(
    20_000, {"cpu": 2_048, "cuda": 65_536}, frozenset({"dtype", "compile", "token_budget", "draft"})
)


@dataclass(frozen=True)
class Output:
    """One vector column that an encoder gives.

    Attributes:
        name: of the column.
        kind: what it holds.
        dtype: in which it is stored, None for `sink.dtype`.
        beside: columns with a list for each row, as long as that of the vectors.
    """

    name: str
    kind: Kind[Any]
    dtype: str | None = None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """One row that can't be embedded.

    Its index in the column, a `schema.Reason`, and a sentence.
    """

    row: int
    reason: str
    message: str


@dataclass(frozen=True)
class Prepared:
    """What CPU workers hand to a replica, for one column of a unit.

    Attributes:
        inputs: one row per *distinct* input, in order of first appearance; columns are the family's
            own (text: `tokens`, a list<int32>; images: `pixels`, fixed-size binary). Texts in
            windows: a row for each window.
        index: (rows,) int32; row of `inputs`, or the distinct text in windows, that each row of the
            column uses, -1 for a reject.
        truncated: (inputs,) or (distinct texts,) bool; the input was cut to the model's length.
        rejects: rows that can't be embedded.
        unknown: (inputs,) int64; words that the model does not know and leaves out, None where
            there is no such thing.
        beside: (distinct texts,) columns that stand beside lists of vectors, None where there are
            no lists.
    """

    inputs: pa.Table
    index: IntArray
    truncated: BoolArray
    rejects: list[Rejected] = field(default_factory=list)
    unknown: npt.NDArray[np.int64] | None = None
    beside: pa.Table | None = None

    @property
    def documents(self) -> int:
        """Count the distinct inputs of rows."""
        return len(self.truncated)


class Encoder(Protocol):
    """A model family, built inside the worker from the spec.

    It knows no Ray and does no I/O but loading weights.

    `prepare` and `lengths` run on CPU workers and must not load weights; `load` is called once per
    replica, before `launch`.

    Attributes:
        takes: {modality: what the family makes of it}, known without a model.
    """

    takes: ClassVar[Mapping[str, Modality]]

    def prepare(self, column: pa.Array) -> Prepared:
        """Turn a column (Arrow in, Arrow out) into inputs.

        Null rows become rejects, nothing raises for one bad row.
        """
        ...

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit, `asked` or less, so that what it carries stays near 64 MiB.

        `modality`: what its rows hold.
        """
        ...

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the cost of each input in positions (text: tokens), shape (inputs,) int32."""
        ...

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Replace some inputs by harmless ones of the same length.

        So that all others meet the same batches as before.
        """
        ...

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the weights to `device` ("cpu", "cuda"), and compile the forward pass if asked.

        `dtype` is that of the forward pass: "float32", "bfloat16" or "float16".
        """
        ...

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch of inputs of similar length.

        Returns:
            a function that waits for it and gives {output name: (inputs, dim) float32}.
        """
        ...

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: the model gives no such vectors.
        """
        ...

    def flops(self, lengths: IntArray) -> float:
        """Count useful floating-point operations of inputs of these lengths, without padding."""
        ...

    def reference(
        self, column: pa.Array, device: str = "cpu"
    ) -> tuple[str, Mapping[str, FloatArray | Ragged]]:
        """Embed rows one at a time through the reference library in float32, on a device.

        Returns the reference's name and {output: (rows, dim) float32, or lists}.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Say what the model became (architecture, max tokens, pooling, prompt), for `run.json`."""
        ...

    def weight_bytes(self) -> int:
        """Give the size of the weight files, 0 where they are not on this machine yet."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {part: sha256}.

        Weights and tokenizer included.
        """
        ...


@runtime_checkable
class InWindows(Protocol):
    """What encoders offer besides, of which an input is a window.

    A row may have several windows, and lists of vectors.
    """

    def counts(self, inputs: pa.Table, output: str) -> Places | None:
        """Count the vectors that each input gives to an output, (inputs,) int64; None: one each."""
        ...

    def gather(
        self, inputs: pa.Table, vectors: Mapping[str, FloatArray], documents: int
    ) -> dict[str, FloatArray | Ragged]:
        """Put the vectors of inputs together to those of `documents` distinct texts.

        Args:
            inputs: the windows.
            vectors: {output: (vectors, dim)} of the windows.
            documents: the number of distinct texts.
        """
        ...


def gather(
    encoder: Encoder, inputs: pa.Table, vectors: Mapping[str, FloatArray], documents: int
) -> Mapping[str, FloatArray | Ragged]:
    """Give the vectors of what rows refer to, from those of inputs.

    The same, but for texts in windows.
    """
    return encoder.gather(inputs, vectors, documents) if isinstance(encoder, InWindows) else vectors


def pooled_by(columns: Iterable[OutputSpec], pooling: str) -> tuple[OutputSpec, ...]:
    """Give vector columns with this pooling where the spec leaves it to the model."""
    return tuple(
        column.model_copy(update={"pooling": pooling}) if column.pooling == "auto" else column
        for column in columns
    )


def outputs_of(
    spec: EncoderSpec, columns: Iterable[OutputSpec], width: Callable[[OutputSpec], int]
) -> tuple[Output, ...]:
    """Make the outputs of an encoder from what the spec asks for.

    Args:
        spec: of the encoder.
        columns: the vector columns, what is "auto" decided.
        width: gives the width of a column's vectors.
    """
    return tuple(
        Output(column.name, Dense(width(column)), column.dtype)
        if (each := spec.each(column)) == "row"
        else Output(column.name, Lists(width(column)), column.dtype, COMPANIONS[each])
        for column in columns
    )


def dims_of(outputs: Iterable[Output]) -> dict[str, int]:
    """Give the width of each output's vectors, by name."""
    return {output.name: output.kind.dim for output in outputs}


def not_loaded(model: str) -> ModelError:
    """Say that `launch` came before `load`."""
    return ModelError(f"{model}: launch was called before load; call load(device, dtype) first")


def no_vectors(encoder: Encoder) -> Launched:
    """Give what `launch` gives for a batch without inputs."""
    empty = {name: np.zeros((0, dim), np.float32) for name, dim in dims_of(encoder.outputs()).items()}
    return lambda: empty


def finished(vector: npt.NDArray[Any], output: OutputSpec) -> npt.NDArray[Any]:
    """Shorten and normalise a reference's vector as an output asks: (D,) to (dim,) float64."""
    short = vector[: output.dim]
    return normalized(short) if output.normalize else short
