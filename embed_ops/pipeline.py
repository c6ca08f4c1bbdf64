"""The job on one page: spans in, records out. The only caller of `map_batches`.

    Work            a span and its units that are done                       (driver)
    read_and_prepare  CPU tasks: its missing units, one at a time, tokenised
    Replica           the actor pool: token batches, forward passes, pooling
    write_unit        CPU tasks: the reject file, then the data file
    record          what is known of the unit                                (driver)

A unit is one row of the dataset, and `target_max_block_size = 1` makes every row a block: units leave a reader while it
still reads, are never merged or split, and take the same way to CPU and GPU replicas.

The driver takes records from a feed, so that it can look up: was it asked to stop, does the pool live? Workers that hang
end themselves; units whose workers died are missing at the end, and `isolate_units` finds out why.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import ray
import ray.data
import ray.data.exceptions
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from embed_ops import pulse
from embed_ops.encoder_spec import AUTO, EncoderSpec
from embed_ops.engine import engine_error
from embed_ops.errors import EngineError, SpecError
from embed_ops.feed import Feed
from embed_ops.filesystem import Location
from embed_ops.job import Job, Resolved, Work
from embed_ops.lookout import LOOK_UP_S, Control, Lookout
from embed_ops.message import failure
from embed_ops.spec import ResourcesSpec
from embed_ops.steps import write_unit
from embed_ops.workers import WatchedReplica, call_guarded, isolate_watched, read

Result = TypeVar("Result")

SPANS_PER_WAVE = 4_000
"""Spans of one Dataset: the engine keeps a little of every block for as long as the Dataset lives (ray issue 66016)."""
READER_CPUS = 0.25
WRITER_CPUS = 0.25
CPUS_PER_READER = 2
"""One reader tokenises for far more than two CPU replicas; more of them would only take their cores."""
READERS_PER_CORE = 2
"""Of images: decoding photographs can take as long as a small model takes, and one reader begins its next span while another decodes."""
IMAGE_READER_CPUS = READER_CPUS / CPUS_PER_READER / READERS_PER_CORE
"""All readers of images together claim what readers of texts do."""
REPLICA_CPU_SHARE = 0.75
"""CPU claimed per thread of a CPU replica: the rest of each core is the readers' and writers'."""
MOST_THREADS = 16
"""More threads gain nothing on batches of a few thousand tokens."""
REPLICA_BYTES = 2**30
"""Memory of a replica beside its weights: Python, torch, transformers, a batch's hidden states."""
WEIGHT_COPIES = 2
"""Times the weight files that a replica holds while it loads or compiles them."""
MODEL_LOAD_TRIES = 3
TASK_RETRIES = 2
"""Times that the engine runs a reading or writing task again whose process or node died. Left to itself it would do so for ever."""
NO_PROGRESS_S = 6 * 3600
"""Patience of the engine's own guard, which counts only whole units as progress; ours looks into them (`watch.py`)."""
TRIAL_PATIENCE = 8
"""Times `hang_seconds` that the comparison of the first rows may take: it embeds them several times, one by one too."""


def threads_for(resources: ResourcesSpec, units: int, weight_bytes: int) -> int:
    """Decide the CPU threads of a replica: one, unless units or memory allow fewer replicas than there are cores.

    Replicas of one thread do more together than fewer of many: a product split over threads waits for its slowest
    part (`bench/scaling.py` measures it).
    """
    if resources.threads_per_replica != AUTO:
        return resources.threads_per_replica
    if resources.gpus_per_replica > 0 or resources.replicas != AUTO:
        return 1
    cluster = ray.cluster_resources()
    cores = int(cluster.get("CPU", 1))
    in_memory = int(cluster.get("memory", 0) / (REPLICA_BYTES + WEIGHT_COPIES * weight_bytes))
    replicas = max(1, min(units, cores, in_memory))
    of_a_node = min(
        (int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")), default=1
    )
    return max(1, min(cores // replicas, of_a_node, MOST_THREADS))


def replica_count(resources: ResourcesSpec, units: int, threads: int) -> tuple[int, int]:
    """Decide least and most replicas; "auto": what the cluster has room for beside its readers, and no more than units."""
    if isinstance(resources.replicas, int):
        return resources.replicas, resources.replicas
    if isinstance(resources.replicas, tuple):
        return resources.replicas
    cluster = ray.cluster_resources()
    if resources.gpus_per_replica > 0:
        fitting = int(cluster.get("GPU", 0) / resources.gpus_per_replica)
    else:
        fitting = int(cluster.get("CPU", 1) / threads)
    fitting = max(1, min(fitting, units))
    return fitting, fitting


def replica_resources(resources: ResourcesSpec, threads: int, replicas: int = 1) -> dict[str, float]:
    """Say what each of so many replicas claims; where they are more than the cores, less, so that readers find room."""
    if resources.gpus_per_replica > 0:
        return {"num_gpus": resources.gpus_per_replica, "num_cpus": READER_CPUS}
    room = max(0.5, ray.cluster_resources().get("CPU", 1) - READER_CPUS - WRITER_CPUS)
    share = min(REPLICA_CPU_SHARE, room / (replicas * threads))
    return {"num_cpus": round(threads * share, 3)}


def require_room(resources: ResourcesSpec) -> None:
    """Refuse what this machine alone can never place; on a cluster more nodes may come.

    Raises:
        SpecError: names what is asked for and what is there.
    """
    threads = resources.threads_per_replica
    needed, there = replica_resources(resources, 1 if threads == AUTO else threads), ray.cluster_resources()
    for name, key, field in (("num_gpus", "GPU", "gpus_per_replica"), ("num_cpus", "CPU", "threads_per_replica")):
        if needed.get(name, 0) > there.get(key, 0):
            raise SpecError(f"resources.{field}: a replica needs {needed[name]:g} {key}, this machine has {there.get(key, 0):g}")


def run_units(job: Job, works: Sequence[Work], units: int, control: Control) -> Generator[dict[str, Any], None, None]:
    """Run every unit that the works lack, and yield its record, or the error that it met, as soon as it is known.

    Args:
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
    # By default a pool grows only where two units wait for each replica, and readers seldom get that far ahead.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The restart options have no other spelling in Ray 2.60.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    for first in range(0, len(works), SPANS_PER_WAVE):
        if job.late() or control.stop.asked:
            return
        try:
            yield from _wave(job, works[first : first + SPANS_PER_WAVE], units, control)
        finally:
            # The pool's actors go when nothing refers to them, and the engine's objects refer to each other in circles: until
            # they are collected, actors that are done would keep the cores that the next wave waits for.
            gc.collect()


def _wave(job: Job, works: Sequence[Work], units: int, control: Control) -> Generator[dict[str, Any], None, None]:
    try:
        with Feed(_dataset(job, works, units).iter_rows) as feed:
            yield from Lookout(job.attempt, control).units(feed)
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError, ray.data.exceptions.UserCodeException) as error:
        raise engine_error(error) from error


def _dataset(job: Job, works: Sequence[Work], units: int) -> ray.data.Dataset:
    """Describe the pipeline: nothing runs yet."""
    threads = job.resolved.threads_per_replica
    least, most = replica_count(job.spec.resources, units, threads)
    one_unit = {"batch_size": 1, "batch_format": "pyarrow"}
    # Nodes that join later bring replicas and want readers.
    cores = max(int(ray.cluster_resources().get("CPU", 1)), most * threads if least < most else 0)
    helpers = max(1, cores // CPUS_PER_READER)
    readers, reader_cpus = (READERS_PER_CORE * cores, IMAGE_READER_CPUS) if job.spec.source.modality == "image" else (helpers, READER_CPUS)
    wave = [{"work": work.dump()} for work in works]
    return (
        ray.data.from_items(wave, override_num_blocks=len(wave))
        .map_batches(
            read, fn_args=(job,), compute=TaskPoolStrategy(size=readers), num_cpus=reader_cpus, max_retries=TASK_RETRIES, **one_unit
        )
        .map_batches(
            WatchedReplica,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(min_size=least, max_size=most),
            max_task_retries=1,
            max_restarts=-1,
            **replica_resources(job.spec.resources, threads, least),
            **one_unit,
        )
        .map_batches(
            write_unit, fn_args=(job,), compute=TaskPoolStrategy(size=helpers), num_cpus=WRITER_CPUS, max_retries=TASK_RETRIES, **one_unit
        )
    )


def isolate_units(job: Job, works: Sequence[Work], control: Control) -> Generator[dict[str, Any], None, None]:
    """Embed the units that the works lack in processes of their own, a task for each work; yields as `run_units` does."""
    claim = replica_resources(job.spec.resources, job.resolved.threads_per_replica)
    task = ray.remote(**claim, max_retries=1)(isolate_watched)
    waiting = {task.remote(job, work.dump()): work for work in works}
    lookout = Lookout(job.attempt, control)
    try:
        while waiting and not control.stop.expired:
            done, _ = ray.wait(list(waiting), timeout=LOOK_UP_S)
            for ref in done:
                work = waiting.pop(ref)
                try:
                    yield from ray.get(ref)
                except ray.exceptions.RayError as error:
                    yield failure(engine_error(error), work.span.first_unit)
            lookout.look_up()
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
        pulse.forget(job.attempt)


class WorkerDied(EngineError):
    """The process of a task died, or ended itself since it hung."""


def on_a_replica(
    resources: ResourcesSpec, function: Callable[[EncoderSpec, Resolved, Any, Any, Any, Any], Result], *arguments: Any
) -> Result:
    """Call `settle` once where a replica would run.

    Raises:
        WorkerDied: its process died twice.
    """
    resolved: Resolved = arguments[1]
    patience = TRIAL_PATIENCE * resources.hang_seconds
    task = ray.remote(**replica_resources(resources, resolved.threads_per_replica), max_retries=1)(call_guarded)
    try:
        result: Result = ray.get(task.remote(patience, function, *arguments))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerDied(f"the worker process that compares the first rows died: {' '.join(str(error).split())[:300]}") from error
    except ray.exceptions.RayError as error:
        raise engine_error(error) from error
    return result


def read_dataset(folder: Location) -> ray.data.Dataset:
    """Read the Parquet files of a folder as a Ray Dataset."""
    return ray.data.read_parquet(folder.path, filesystem=folder.fs)
