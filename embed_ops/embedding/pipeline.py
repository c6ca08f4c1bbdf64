"""The job on one page: spans in, records out. The only caller of `map_batches`.

    Work            a span and its units that are done                       (driver)
    read            CPU tasks: its missing units, one at a time, tokenised
    WatchedReplica  the actor pool: token batches, forward passes, pooling
    write           CPU tasks: the reject file, then the data file
    Outcome         the unit's record, or why there is none                  (driver)

A unit is one row of the dataset, and `target_max_block_size = 1` makes every row a block: units
leave a reader while it still reads, are never merged or split, and take the same way to CPU and GPU
replicas.

The driver takes records from a feed, so that it can look up: was it asked to stop, does the pool
live? Workers that hang end themselves; units whose workers died are missing at the end, and
`isolate_units` finds out why.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing, suppress

import ray.data
import ray.data.exceptions
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from embed_ops.embedding.job import Job
from embed_ops.embedding.message import load_outcome
from embed_ops.embedding.resources import (
    CPUS_PER_READER,
    MODEL_LOAD_TRIES,
    NO_PROGRESS_S,
    SPANS_PER_WAVE,
    TASK_RETRIES,
    UNITS_IN_A_REPLICA,
    WRITER_CPUS,
    readers_of,
    replica_claim,
    replica_count,
)
from embed_ops.embedding.unit import Failure, Outcome
from embed_ops.embedding.workers import WatchedReplica, isolate_watched, read, write
from embed_ops.engine import pulse
from embed_ops.engine.base import Engine
from embed_ops.engine.control import Control
from embed_ops.engine.errors import engine_error
from embed_ops.engine.feed import Feed
from embed_ops.engine.lookout import Lookout
from embed_ops.engine.ray_tasks import ray_options
from embed_ops.errors import Stopped
from embed_ops.runs.work import Work


def run_units(
    engine: Engine, job: Job, works: Sequence[Work], units: int, control: Control
) -> Generator[Outcome, None, None]:
    """Run every unit that the works lack, and yield its outcome as soon as it is known.

    Args:
        engine: where to run.
        job: what to do.
        works: spans to read.
        units: about how many units that makes; "auto" loads no more replicas.
        control: the request to stop, and the watch.
    """
    context = DataContext.get_current()
    context.target_max_block_size = 1
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = MODEL_LOAD_TRIES
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    # By default a pool grows only where two units wait for each replica, and readers seldom get
    # that far ahead.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The restart options have no other spelling in Ray 2.60.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    # Fewer works than readers is no fault, and nothing that a user could mend.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks.*")
    for first in range(0, len(works), SPANS_PER_WAVE):
        if job.late() or control.stop.asked:
            return
        try:
            yield from _wave(engine, job, works[first : first + SPANS_PER_WAVE], units, control)
        finally:
            # The pool's actors go when nothing refers to them, and the engine's objects refer to
            # each other in circles: until they are collected, actors that are done would keep the
            # cores that the next wave waits for.
            gc.collect()


def _wave(
    engine: Engine, job: Job, works: Sequence[Work], units: int, control: Control
) -> Generator[Outcome, None, None]:
    try:
        with Feed(_dataset(engine, job, works, units).iter_rows) as feed:
            yield from map(load_outcome, Lookout(job.attempt, control).units(feed))
    except (
        ray.exceptions.RayError,
        ray.data.exceptions.ExecutionTimeoutError,
        ray.data.exceptions.UserCodeException,
    ) as error:
        raise engine_error(error) from error


def _dataset(engine: Engine, job: Job, works: Sequence[Work], units: int) -> ray.data.Dataset:
    """Describe the pipeline: nothing runs yet."""
    capacity, threads, gpus = (
        engine.capacity(),
        job.resolved.threads_per_replica,
        job.resolved.gpus_per_replica,
    )
    least, most = replica_count(capacity, job.spec.resources, units, threads, gpus)
    one_unit = {"batch_size": 1, "batch_format": "pyarrow"}
    # Nodes that join later bring replicas and want readers.
    cores = max(capacity.cores, most * threads if least < most else 0)
    readers, reader_cpus = readers_of(cores, job.spec.source.modality, gpus)
    wave = [{"work": work.dump()} for work in works]
    return (
        ray.data.from_items(wave, override_num_blocks=len(wave))
        .map_batches(
            read,
            fn_args=(job,),
            compute=TaskPoolStrategy(size=readers),
            num_cpus=reader_cpus,
            max_retries=TASK_RETRIES,
            **one_unit,
        )
        .map_batches(
            WatchedReplica,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                # A GPU's next unit is read while the last one is packed: `Replica.turn` keeps them
                # apart on the device.
                max_concurrent_calls_per_actor=UNITS_IN_A_REPLICA if gpus > 0 else None,
                enable_true_multi_threading=gpus > 0,
            ),
            max_task_retries=1,
            max_restarts=-1,
            **ray_options(replica_claim(capacity, threads, gpus, least)),
            **one_unit,
        )
        .map_batches(
            write,
            fn_args=(job,),
            compute=TaskPoolStrategy(size=max(1, cores // CPUS_PER_READER)),
            num_cpus=WRITER_CPUS,
            max_retries=TASK_RETRIES,
            **one_unit,
        )
    )


def isolate_units(
    engine: Engine, job: Job, works: Sequence[Work], control: Control
) -> Generator[Outcome, None, None]:
    """Embed the units that the works lack in processes of their own, a task for each work.

    Yields as `run_units` does.
    """
    each = engine.each(
        isolate_watched,
        [(job, work) for work in works],
        claim=replica_claim(
            engine.capacity(), job.resolved.threads_per_replica, job.resolved.gpus_per_replica
        ),
        look_up=Lookout(job.attempt, control).look_up,
        failed=lambda number, error: [Failure.of(error, works[number].span.first_unit)],
    )
    try:
        # What is missing because of a stop is told by the units that are missing.
        with closing(each), suppress(Stopped):
            for _, outcomes in each:
                yield from outcomes
    finally:
        pulse.forget(job.attempt)
