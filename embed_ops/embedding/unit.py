"""A unit on its way through the steps: what is known of it after each, and how it ends.

    PreparedUnit    read and prepared                        -> Replica.embed
    EmbeddedUnit    with the vectors of its distinct inputs  -> write_unit
    Outcome         what the driver hears: `Written`, `Unchanged`, `Skipped` or `Failure`

Numbers and names are fields, rows are Arrow tables. `message.py` takes them through Ray.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa

from embed_ops.errors import EmbedOpsError
from embed_ops.runs.record import Record
from embed_ops.schema import Reason
from embed_ops.sources.units import Range, UnitEnd


@dataclass(frozen=True)
class UnitHead:
    """What is known of a unit once it is prepared, beside its rows.

    Attributes:
        name: of the unit, and of its data file.
        ranges: records of each source file in it.
        end: where the next unit of the span begins.
        filtered: records that `where` left out.
        truncated: rows whose input was cut to the model's length.
        unknown: words that a table of word vectors does not have, of embedded rows.
        replaces: on retry, the reject file whose rows were read again; None otherwise.
        read_seconds: of reading and parsing.
        prepare_seconds: of tokenizing or decoding.
        ready: when it was prepared, in seconds since 1970.
        reader_memory: most bytes that the reading process has held.
    """

    name: str
    ranges: tuple[Range, ...]
    end: UnitEnd
    filtered: int
    truncated: int
    unknown: int
    replaces: str | None
    read_seconds: float
    prepare_seconds: float
    ready: float
    reader_memory: int


@dataclass(frozen=True)
class PreparedUnit:
    """A unit that a replica can embed.

    Attributes:
        head: what is known of it.
        documents: distinct inputs of rows; in windows, distinct texts.
        rows: a row for each that gets a vector: `_source`, `_row`, kept columns, and `_input`, the
            place of its vector.
        inputs: the encoder's, a row for each distinct input, or window.
        rejects: `_source`, `_row`, kept columns, `reason`, `message`.
    """

    head: UnitHead
    documents: int
    rows: pa.Table
    inputs: pa.Table
    rejects: pa.Table


@dataclass(frozen=True)
class ForwardPass:
    """What a replica did for a unit; all zero where the vectors came from elsewhere.

    Attributes:
        replica: name of its process.
        gemm: best matrix-product rate of its share of the machine, in FLOP/s.
        tokens: positions of distinct inputs; `positions` has the padding too.
        flops: useful floating-point operations.
        seconds: of the forward passes.
        busy: seconds of them in which the device computed; the rest is its host's.
        device: name of what computed.
        device_memory: most bytes of its memory that the replica has held; 0 on a CPU.
        idle_input: seconds that the replica had waited for this unit before it.
        idle_output: seconds that it had waited since it was done with the one before, though this
            one was ready.
        halved: whether some batch did not fit into memory and was halved.
    """

    replica: str = ""
    gemm: float = 0
    tokens: int = 0
    positions: int = 0
    flops: float = 0
    seconds: float = 0
    busy: float = 0
    device: str = ""
    device_memory: int = 0
    idle_input: float = 0
    idle_output: float = 0
    halved: bool = False


@dataclass(frozen=True)
class EmbeddedUnit:
    """A unit whose vectors are known.

    Attributes:
        head: what is known of it.
        rows: as of `PreparedUnit`.
        vectors: a column for each output, a row for each distinct input of rows.
        rejects: as of `PreparedUnit`.
        number_of_inputs: rows of the encoder's inputs.
        started: when its embedding began, in seconds since 1970.
        memory: most bytes that the embedding process has held.
        refused: {distinct input: why} of inputs that have no vector.
        forward: what a replica did for it.
    """

    head: UnitHead
    rows: pa.Table
    vectors: pa.Table
    rejects: pa.Table
    number_of_inputs: int
    started: float
    memory: int
    refused: Mapping[int, Reason] = field(default_factory=dict)
    forward: ForwardPass = ForwardPass()


@dataclass(frozen=True)
class Written:
    """A unit that is done.

    Attributes:
        record: the row of the manifest, with its seconds.
        statistics: of its vectors, as `runs.statistics.dump` gives them.
        memory: most bytes that a process of each kind has held.
        forward: what that replica did for it.
    """

    record: Record
    statistics: str
    memory: Mapping[str, int]
    forward: ForwardPass = ForwardPass()

    @property
    def unit(self) -> str:
        """Name the unit."""
        return self.record.unit


@dataclass(frozen=True)
class Unchanged:
    """A unit whose retry gave no row a vector: its files stay."""

    unit: str


@dataclass(frozen=True)
class Skipped:
    """A unit that was prepared when the job was to stop, and is left for the next command."""

    unit: str


@dataclass(frozen=True)
class Failure:
    """An error that a step met, sent along as a value.

    Raised, it would be dropped by the engine, and the unit with it.

    Attributes:
        unit: the unit's name, None where it was not known yet.
        kind: name of the error's class.
        error: what it says.
        traceback: where it came from.
    """

    unit: str | None
    kind: str
    error: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException, unit: str | None) -> Self:
        """Describe an error."""
        said = str(error) if isinstance(error, EmbedOpsError) else f"{type(error).__name__}: {error}"
        return cls(unit, type(error).__name__, said, "".join(traceback.format_exception(error)))


Outcome = Written | Unchanged | Skipped | Failure
