"""Before the first unit: the first rows are compared, and what is "auto" is settled."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from embed_ops.embedding.attempt import Attempt
from embed_ops.embedding.parity import require
from embed_ops.embedding.prompting import with_prompts
from embed_ops.embedding.resources import TRIAL_PATIENCE, replica_claim, replica_count
from embed_ops.embedding.settings import choices
from embed_ops.embedding.trial import Volume
from embed_ops.embedding.tuning import TIMED, Settled, settle
from embed_ops.encoders.hub.contents import not_run
from embed_ops.encoders.registry import make_encoder
from embed_ops.engine.base import Engine
from embed_ops.engine.errors import WorkerDied

_SAMPLES = 3
"""Samples of first rows to compare: a worker that dies on one is given the next."""


def settle_attempt(attempt: Attempt, engine: Engine, units: int) -> None:
    """Compare the first rows with the reference, and on a new run choose what is "auto".

    Raises:
        ParityError: the vectors are too far from the reference.
    """
    spec = attempt.spec
    attempt.header = replace(attempt.header, resolved=asdict(attempt.resolved))
    if spec.parity.rows == 0:
        attempt.header = replace(attempt.header, model=make_encoder(spec.encoder).describe())
        if getattr(spec.encoder, "reference", None) is not None:
            attempt.reporter.say("encoder.reference is compared with nothing: parity.rows is 0")
        _say_what_is_not_run(attempt)
        return
    open_choices = choices(spec) if attempt.fresh else frozenset()
    settled = _settled_on_a_replica(attempt, engine, open_choices, units)
    require(settled.parity, spec.parity)
    attempt.resolved = settled.resolved
    attempt.measured.parity = [item.told() for item in settled.parity]
    attempt.header = replace(attempt.header, model=settled.model, resolved=asdict(settled.resolved))
    _say_what_is_not_run(attempt)
    if open_choices:
        attempt.header = replace(attempt.header, measured=settled.measured)
        on = [name for name in ("compile", "draft") if getattr(settled.resolved, name)]
        attempt.reporter.say(
            f"computing on {'GPUs' if settled.resolved.device != 'cpu' else 'CPUs'} in "
            f"{', '.join([settled.resolved.dtype, *on])}, "
            f"{settled.resolved.token_budget} tokens at a time"
        )
        if missing := settled.measured.get("compile", {}).get("not tried"):
            attempt.reporter.say(f"not compiled: {missing}")


def _say_what_is_not_run(attempt: Attempt) -> None:
    if warning := not_run(attempt.spec.encoder.model, attempt.header.model):
        attempt.reporter.say(f"warning: {warning}")


def _settled_on_a_replica(
    attempt: Attempt, engine: Engine, open_choices: frozenset[str], units: int
) -> Settled:
    """Let a worker embed a sample of the first rows, where a replica would run.

    Raises:
        WorkerDied: it did, on each sample.
    """
    spec, resolved = attempt.spec, attempt.resolved
    capacity, threads, gpus = engine.capacity(), resolved.threads_per_replica, resolved.gpus_per_replica
    replicas = replica_count(capacity, spec.resources, units, threads, gpus)[1]
    volume = Volume(attempt.stock().rows_left, attempt.plan.bytes, replicas)
    first = partial(attempt.corpus.head, attempt.plan, completed=partial(with_prompts, spec=spec.encoder))
    samples = _samples(first(_SAMPLES * spec.parity.rows), spec.parity.rows)
    timed: list[Any] = []
    if resolved.device != "cpu" and open_choices:
        timed = first(TIMED[spec.source.modality])
    while True:
        sample = samples.pop(0)
        attempt.reporter.doing(f"loading the model, comparing {len(sample)} rows with the reference")
        try:
            return engine.once(
                settle,
                spec.encoder,
                resolved,
                open_choices,
                spec.parity,
                sample,
                volume,
                timed,
                claim=replica_claim(capacity, threads, gpus),
                patience=TRIAL_PATIENCE * spec.resources.hang_seconds,
            )
        except WorkerDied as error:
            # A row that kills its process may be among the first ones too: isolation will find it,
            # if other rows are fine.
            if not samples:
                raise WorkerDied(f"comparing the first rows: {error}") from error
            attempt.reporter.say(f"{error}; comparing other rows")


def _samples(contents: list[Any], rows: int) -> list[list[Any]]:
    """Choose rows to compare, and others to take if a worker dies on the ones before.

    A small corpus is halved.
    """
    if len(contents) > rows:
        return [contents[first : first + rows] for first in range(0, len(contents), rows)]
    middle = len(contents) // 2
    return [contents, *(half for half in (contents[:middle], contents[middle:]) if half and middle)]
