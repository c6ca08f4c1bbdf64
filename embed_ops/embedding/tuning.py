"""What "auto" becomes: measured on a replica before the first unit.

A choice is accepted only if the vectors stay close to the reference. It costs time on an idle
cluster, so it is made only where the planned work repays it; a small job starts at once with what
is known to be right. What was chosen is kept with the run and never chosen again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from embed_ops.embedding import loaded
from embed_ops.embedding.parity import Parity
from embed_ops.embedding.settings import Resolved
from embed_ops.embedding.trial import Trial, Volume
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.engine.worker_process import goes_on
from embed_ops.spec.encoder import EncoderSpec
from embed_ops.spec.spec import ParitySpec

TIMED = {"text": 4_096, "words": 4_096, "image": 256, "tensor": 256}
"""First rows that a GPU is timed with, by modality: the few that are compared would be done in the
time of their launches, and have other lengths than a unit."""


@dataclass(frozen=True)
class Settled:
    """What a replica found before the first unit.

    Attributes:
        resolved: the settings, with every choice made.
        parity: how close these settings came to the reference, by output.
        model: what the model became (`Encoder.describe`).
        measured: why each choice was made, all JSON values.
    """

    resolved: Resolved
    parity: list[Parity]
    model: dict[str, Any]
    measured: dict[str, Any] = field(default_factory=dict)


def settle(
    spec: EncoderSpec,
    resolved: Resolved,
    choices: frozenset[str],
    limits: ParitySpec,
    contents: list[Any],
    volume: Volume,
    timed: Sequence[Any] = (),
) -> Settled:
    """Embed the first rows as the job would and through the reference, and make the open choices.

    A process that goes on to embed keeps the model.

    Arguments as of `settled_with`.
    """
    settled, encoder = settled_with(spec, resolved, choices, limits, contents, volume, timed)
    if goes_on():
        loaded.keep(spec.drafting(settled.resolved.draft), settled.resolved, encoder)
    return settled


def settled_with(
    spec: EncoderSpec,
    resolved: Resolved,
    choices: frozenset[str],
    limits: ParitySpec,
    contents: list[Any],
    volume: Volume,
    timed: Sequence[Any] = (),
) -> tuple[Settled, Encoder]:
    """Do what `settle` does, and give the encoder as well, loaded as resolved.

    Args:
        spec: of the encoder.
        resolved: the settings so far.
        choices: those of `dtype`, `draft`, `token_budget` and `compile` that are "auto".
        limits: how close is close enough.
        contents: the first rows' texts or images.
        volume: the work that a choice must repay.
        timed: rows to time with, by default those that are compared.
    """
    device = runtime_of(spec)
    device.require_device(resolved.device)
    device.use_threads(resolved.threads_per_replica)
    device.choose_kernels(resolved.device)
    device.use_memory_share(resolved.device, resolved.gpus_per_replica)
    trial = Trial(spec, limits, contents, resolved.device, timed)
    if "dtype" in choices:
        resolved = trial.choose_dtype(resolved)
    else:
        trial.run(resolved)
    if "draft" in choices and resolved.dtype != "float32":
        resolved = trial.choose_draft(resolved)
    if trial.prepared.inputs.num_rows:
        seconds = trial.planned_seconds(volume, timed or contents)
        if "token_budget" in choices:
            resolved = trial.choose_budget(resolved, seconds)
        if "compile" in choices:
            resolved = trial.choose_compile(resolved, seconds)
    settled = Settled(resolved, trial.parity, trial.encoder.describe(), trial.measured)
    return settled, trial.encoder
