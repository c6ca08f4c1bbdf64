"""The first rows, embedded on trial: by which setting they go fastest and stay close enough."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.embedding.forward import Embedded, embed_inputs
from embed_ops.embedding.parity import Parity, compare, original_of, reference_of, within
from embed_ops.embedding.settings import Resolved
from embed_ops.encoders.base import Encoder, InWindows, Prepared, gather
from embed_ops.encoders.optional import modalities
from embed_ops.encoders.registry import make_encoder
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.encoders.text.prompts import PROMPTED, TEXT
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import EncoderSpec
from embed_ops.spec.spec import ParitySpec

LEAST_GAIN = 1.5
"""Times the float32 rate that a matrix product in a shorter type must reach to be worth its
rounding."""
BUDGETS = {"cpu": (1_024, 2_048, 4_096, 8_192), "cuda": (16_384, 65_536, 262_144)}
"""Token budgets that are tried, in positions."""
_BUDGET_GAIN = 1.03
"""Times as fast as the default that another budget must be: less is noise."""
_ALLOWANCE = 0.02
"""Share of the planned work that trying budgets may cost."""
_GPU_MEMORY = 0.7
"""Share of a GPU's memory that a budget may take: shapes differ, and so does what fragments."""
_COMPILE_SECONDS = 30.0
"""What compiling costs, roughly: 20 s for a six-layer model on one core, and a replica's loading of
the result."""
_EXPECTED_GAIN = 0.05
"""Share of the time that compiling is expected to save, when deciding whether to try."""
_COMPILE_GAIN = 1.03
_COMPARED = 4096
"""Characters, or words, of a text in windows that are compared: some windows' worth, and not a
book, one window at a time."""


@dataclass(frozen=True)
class Volume:
    """How much there is to do.

    Attributes:
        rows: still to embed, None where only reading tells.
        bytes: of the files they stand in.
        replicas: that share the work.
    """

    rows: int | None
    bytes: int
    replicas: int


def column_of_contents(contents: Sequence[Any], encoder: Encoder) -> pa.Array:
    """Make a column of rows: texts, lists, images, tensors; of none as the encoder takes it."""
    if not contents:
        return pa.array([], pa.binary() if "image" in modalities(encoder) else pa.string())
    if isinstance(contents[0], list | np.ndarray) and "tensor" in modalities(encoder):
        return pa.array(contents)
    kinds: dict[type, pa.DataType] = {bytes: pa.binary(), list: pa.list_(pa.string()), dict: PROMPTED}
    return pa.array(contents, kinds.get(type(contents[0]), pa.string()))


def _bytes_of(content: Any) -> int:
    """Count the bytes of a text, an image or a tensor, and the words of a list."""
    if isinstance(content, dict):
        content = content[TEXT]
    if isinstance(content, np.ndarray):
        return content.nbytes
    return len(content.encode() if isinstance(content, str) else content)


class Trial:
    """The first rows, what they are compared with, and the encoder as it was loaded last."""

    def __init__(
        self,
        spec: EncoderSpec,
        limits: ParitySpec,
        contents: list[Any],
        device: str,
        timed: Sequence[Any] = (),
    ) -> None:
        self.spec = spec
        self._runtime = runtime_of(spec)
        self.limits = limits
        self.encoder: Encoder = make_encoder(spec)
        windows = isinstance(self.encoder, InWindows)
        compared = [content[:_COMPARED] for content in contents] if windows else contents
        self.column = column_of_contents(compared, self.encoder)
        self.reference = reference_of(self.encoder, spec.model, self.column, device, self._runtime)
        self.original = original_of(self.encoder, self.column, device)
        if device != "cpu":
            # Its model is not to count as memory of the job's.
            self._runtime.release_memory()
        self.prepared: Prepared = self.encoder.prepare(self.column)
        self.timed = self.prepared.inputs
        if timed:
            self.timed = self.encoder.prepare(column_of_contents(timed, self.encoder)).inputs
        self.parity: list[Parity] = []
        self.first_rows = 0.0
        """Seconds of the rows that are timed."""
        self.measured: dict[str, Any] = {}

    def run(self, resolved: Resolved) -> bool:
        """Load the encoder so and embed the rows.

        Tells whether they are close enough, and keeps how close.
        """
        self.encoder = make_encoder(self.spec)
        self.encoder.load(resolved.device, resolved.dtype, compiled=resolved.compile)
        return self.check(resolved)

    def check(self, resolved: Resolved) -> bool:
        """Compare what the loaded encoder gives with the reference."""
        embedded = self._embedded(self.prepared.inputs, resolved)
        # On a GPU the first batches load their kernels.
        runs = 1 if resolved.device == "cpu" else 2
        self.first_rows = min(self._seconds(self.timed, resolved) for _ in range(runs))
        vectors = gather(self.encoder, self.prepared.inputs, embedded.vectors, self.prepared.documents)
        self.parity = compare(vectors, self.prepared.index, self.reference, self.original)
        return within(self.parity, self.limits)

    def _seconds(self, inputs: pa.Table, resolved: Resolved) -> float:
        started = time.perf_counter()
        self._embedded(inputs, resolved)
        return time.perf_counter() - started

    def _embedded(self, inputs: pa.Table, resolved: Resolved) -> Embedded:
        return embed_inputs(
            self.encoder, inputs, resolved.token_budget, rule=resolved.rule, runtime=self._runtime
        )

    def choose_dtype(self, resolved: Resolved) -> Resolved:
        """Take bfloat16 where the device really speeds it up.

        Emulated, it is slower than float32.
        """
        plain = replace(resolved, dtype="float32")
        if not self._runtime.computes_bfloat16(resolved.device):
            self.measured["dtype"] = {"not tried": "this device has no arithmetic for bfloat16"}
            self.run(plain)
            return plain
        rate = self._runtime.gemm_flops_per_second
        rates = {dtype: rate(resolved.device, dtype) for dtype in ("float32", "bfloat16")}
        self.measured["dtype"] = {"rates": rates, "refused": []}
        short = replace(resolved, dtype="bfloat16")
        if len(self.column) and rates["bfloat16"] >= LEAST_GAIN * rates["float32"]:
            if self.run(short):
                return short
            self.measured["dtype"]["refused"] = [item.told() for item in self.parity]
        self.run(plain)
        return plain

    def choose_draft(self, resolved: Resolved) -> Resolved:
        """Let the JPEG decoder shrink photographs.

        Where the first rows show that it does, and that their vectors stay close enough.
        """
        kept = self.spec, self.prepared, self.parity
        self.spec = self.spec.drafting(True)
        self.prepared = make_encoder(self.spec).prepare(self.column)
        if not np.array_equal(self.prepared.index, kept[1].index) or self.prepared.inputs.equals(
            kept[1].inputs
        ):
            self.spec, self.prepared, self.parity = kept
            return resolved
        close = self.check(resolved)
        self.measured["draft"] = {"parity": [item.told() for item in self.parity]}
        if close:
            return replace(resolved, draft=True)
        self.spec, self.prepared, self.parity = kept
        return resolved

    def planned_seconds(self, volume: Volume, contents: Sequence[Any]) -> float:
        """Guess how long each replica will compute, from the rows that were timed."""
        size = sum(map(_bytes_of, contents))
        rows = volume.rows if volume.rows is not None else volume.bytes * len(contents) / max(1, size)
        seconds = rows / len(contents) * self.first_rows / volume.replicas
        self.measured["planned seconds"] = round(seconds, 1)
        return seconds

    def _typical(self, positions: int) -> pa.Table:
        """Repeat the inputs that are timed until they fill so many positions."""
        tokens = int(self.encoder.lengths(self.timed).sum())
        return pa.concat_tables([self.timed] * max(1, -(-positions // tokens)))

    def choose_budget(self, resolved: Resolved, seconds: float) -> Resolved:
        """Take the budget under which typical batches go fastest.

        If trying costs little beside the work.
        """
        budgets = BUDGETS[resolved.device]
        inputs = self._typical(2 * budgets[-1])
        cost = 2 * len(budgets) * self.first_rows * len(inputs) / len(self.timed)
        if cost > _ALLOWANCE * seconds:
            return resolved
        speeds: dict[int, float] = {}
        for budget in budgets:
            tried = replace(resolved, token_budget=budget)
            self._runtime.memory_share(resolved.device)
            if (
                self._embedded(inputs, tried).halved
                or self._runtime.memory_share(resolved.device, resolved.gpus_per_replica) > _GPU_MEMORY
            ):
                break
            tokens = int(self.encoder.lengths(inputs).sum())
            speeds[budget] = tokens / min(self._seconds(inputs, tried) for _ in range(2))
        self.measured["token_budget"] = {"tokens_per_second": speeds}
        best = max(speeds, key=lambda budget: speeds[budget], default=budgets[0])
        if speeds.get(best, 0.0) <= _BUDGET_GAIN * speeds.get(resolved.token_budget, -1.0):
            return resolved
        chosen = replace(resolved, token_budget=best)
        self.check(chosen)
        return chosen

    def choose_compile(self, resolved: Resolved, seconds: float) -> Resolved:
        """Compile where that should repay itself, and keep it if it is faster and close enough."""
        from embed_ops.encoders.text.compiled import compiler_missing

        if _EXPECTED_GAIN * seconds < _COMPILE_SECONDS:
            return resolved
        if missing := compiler_missing(resolved.device):
            self.measured["compile"] = {"not tried": missing}
            return resolved
        inputs = self._typical(2 * resolved.token_budget)
        eager = min(self._seconds(inputs, resolved) for _ in range(2))
        kept, twin = (self.encoder, self.parity), replace(resolved, compile=True)
        try:
            close = self.run(twin)
        except ModelError as error:
            self.measured["compile"] = {"not tried": str(error)}
            self.encoder, self.parity = kept
            return resolved
        compiled = min(self._seconds(inputs, resolved) for _ in range(2))
        self.measured["compile"] = {
            "times as fast": eager / compiled,
            "parity": [item.told() for item in self.parity],
        }
        if close and eager >= _COMPILE_GAIN * compiled:
            return twin
        self.encoder, self.parity = kept
        return resolved
