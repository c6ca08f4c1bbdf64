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

import faulthandler
import gc
import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
import ray.data.exceptions
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from embed_ops import pulse
from embed_ops.errors import EmbedOpsError, EngineError, SpecError
from embed_ops.feed import Feed
from embed_ops.filesystem import Location
from embed_ops.forward import Batch
from embed_ops.isolation import isolate
from embed_ops.job import Job, Resolved, Work
from embed_ops.message import failure, message, read_meta
from embed_ops.spec import AUTO, EncoderSpec, ResourcesSpec
from embed_ops.steps import Replica, read_and_prepare, write_unit
from embed_ops.stopping import StopRequest
from embed_ops.watch import Watch

Result = TypeVar("Result")

SPANS_PER_WAVE = 4_000
"""Spans of one Dataset: the engine keeps a little of every block for as long as the Dataset lives (ray issue 66016)."""
READER_CPUS = 0.25
WRITER_CPUS = 0.25
CPUS_PER_READER = 2
"""One reader tokenises for far more than two CPU replicas; more of them would only take their cores."""
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
LOOK_UP_S = 0.5
WATCH_EVERY_S = 5.0


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
    of_a_node = min((int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]), default=1)
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


@dataclass
class Control:
    """How the driver steers a job: may ask it to stop, and sees whether it lives."""

    stop: StopRequest
    watch: Watch


@contextmanager
def _guard(seconds: float) -> Iterator[Callable[[], None]]:
    """End this worker process where it does not come to an end in time; gives what renews the time.

    The timer runs in native code: it ends a process that holds the interpreter's lock, too. What the process was doing
    goes to the worker's log.
    """

    def renew() -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    renew()
    try:
        yield renew
    finally:
        faulthandler.cancel_dump_traceback_later()


def _read(received: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Read and prepare, watched."""
    life = pulse.Pulse(job.attempt, f"{socket.gethostname()}:{os.getpid()}")
    units = read_and_prepare(received, job, lambda: pulse.asked_to_stop(job.attempt))
    while True:
        life.beat("reading")
        with _guard(job.spec.resources.hang_seconds):
            unit = next(units, None)
        if unit is None:
            return
        yield unit


class _WatchedReplica(Replica):
    """A replica that gives signs of life, ends itself where a batch hangs, and begins no unit once the job is to stop."""

    def __init__(self, job: Job) -> None:
        self._life = pulse.Pulse(job.attempt, f"{socket.gethostname()}:{os.getpid()}")
        loaded = threading.Event()
        threading.Thread(target=self._while_loading, args=(loaded,), daemon=True).start()
        try:
            super().__init__(job)
        finally:
            loaded.set()

    def _while_loading(self, loaded: threading.Event) -> None:
        while not loaded.wait(LOOK_UP_S):
            self._life.beat("loading the model")

    def __call__(self, received: pa.Table) -> pa.Table:
        """Embed a prepared unit, unless it comes too late."""
        meta = read_meta(received)
        if self.job.late() or pulse.asked_to_stop(self.job.attempt):
            return received if "error" in meta else message({"unit": meta["unit"], "skipped": True})
        self._life.beat("embedding")
        with _guard(self.job.spec.resources.hang_seconds) as self._renew:
            return super().__call__(received)

    def before_batch(self, batch: Batch) -> None:
        """Give a sign of life, and this batch its time."""
        self._life.beat("embedding")
        self._renew()


def run_units(job: Job, works: Sequence[Work], units: int, control: Control) -> Iterator[dict[str, Any]]:
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
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The restart options have no other spelling in Ray 2.60.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    for first in range(0, len(works), SPANS_PER_WAVE):
        if job.late() or control.stop.asked:
            return
        records = _dataset(job, works[first : first + SPANS_PER_WAVE], units)
        try:
            with Feed(records.iter_rows) as feed:
                yield from _watched(job.attempt, feed, control)
        except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError, ray.data.exceptions.UserCodeException) as error:
            raise _engine_error(error) from error
        finally:
            # The pool's actors go when nothing refers to them, and the engine's objects refer to each other in circles: until
            # they are collected, actors that are done would keep the cores that the next wave waits for.
            del records
            gc.collect()


def _dataset(job: Job, works: Sequence[Work], units: int) -> ray.data.Dataset:
    """Describe the pipeline: nothing runs yet."""
    threads = job.resolved.threads_per_replica
    least, most = replica_count(job.spec.resources, units, threads)
    one_unit = {"batch_size": 1, "batch_format": "pyarrow"}
    helpers = TaskPoolStrategy(size=max(1, int(ray.cluster_resources().get("CPU", 1)) // CPUS_PER_READER))
    wave = [{"work": work.dump()} for work in works]
    return (
        ray.data.from_items(wave, override_num_blocks=len(wave))
        .map_batches(_read, fn_args=(job,), compute=helpers, num_cpus=READER_CPUS, max_retries=TASK_RETRIES, **one_unit)
        .map_batches(
            _WatchedReplica,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(min_size=least, max_size=most),
            max_task_retries=1,
            max_restarts=-1,
            **replica_resources(job.spec.resources, threads, most),
            **one_unit,
        )
        .map_batches(write_unit, fn_args=(job,), compute=helpers, num_cpus=WRITER_CPUS, max_retries=TASK_RETRIES, **one_unit)
    )


def _watched(attempt: str, feed: Feed[dict[str, Any]], control: Control) -> Iterator[dict[str, Any]]:
    """Yield what the feed gives, and look up between: at requests to stop, and at the pool."""
    earlier = set(pulse.actors_of_this_job())
    looked, told = time.monotonic(), False
    with _first_cause() as cause:
        try:
            while True:
                row = feed.take(LOOK_UP_S)
                now = time.monotonic()
                if row is not None:
                    control.watch.came_through(now)
                    yield json.loads(row["record"])
                if control.stop.asked and not told:
                    pulse.ask_to_stop(attempt)
                    told = True
                if control.stop.expired:
                    return
                if now - looked > WATCH_EVERY_S:
                    looked = now
                    if why := control.watch.judge(pulse.pulses(attempt), pulse.pool_of(earlier, cause.text), now):
                        raise EngineError(f"{why}. Run the same command again to go on")
        except StopIteration:
            control.watch.judge({}, pulse.pool_of(earlier, cause.text), time.monotonic())
        finally:
            pulse.forget(attempt)


@contextmanager
def _first_cause() -> Iterator[pulse.FirstCause]:
    """Take the engine's error log to a place where it can be quoted, and off the terminal."""
    log, cause = logging.getLogger("ray.data"), pulse.FirstCause()
    log.setLevel(logging.ERROR)
    shown = [handler for handler in log.handlers if type(handler) is logging.StreamHandler or "Console" in type(handler).__name__]
    for handler in shown:
        log.removeHandler(handler)
    log.addHandler(cause)
    try:
        yield cause
    finally:
        log.removeHandler(cause)
        for handler in shown:
            log.addHandler(handler)


def isolate_units(job: Job, works: Sequence[Work], control: Control) -> Iterator[dict[str, Any]]:
    """Embed the units that the works lack in processes of their own, a task for each work; yields as `run_units` does."""
    claim = replica_resources(job.spec.resources, job.resolved.threads_per_replica)
    task = ray.remote(**claim, max_retries=1)(isolate)
    waiting = {task.remote(job, work.dump()): work for work in works}
    try:
        while waiting and not control.stop.expired:
            done, _ = ray.wait(list(waiting), timeout=LOOK_UP_S)
            for ref in done:
                work = waiting.pop(ref)
                try:
                    yield from ray.get(ref)
                except ray.exceptions.RayError as error:
                    yield failure(_engine_error(error), work.span.first_unit)
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)


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
    task = ray.remote(**replica_resources(resources, resolved.threads_per_replica), max_retries=1)(_guarded)
    try:
        result: Result = ray.get(task.remote(patience, function, *arguments))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerDied(f"the worker process that compares the first rows died: {' '.join(str(error).split())[:300]}") from error
    except ray.exceptions.RayError as error:
        raise _engine_error(error) from error
    return result


def _guarded(patience: float, function: Callable[..., Result], *arguments: Any) -> Result:
    with _guard(patience):
        return function(*arguments)


def _engine_error(error: Exception) -> EmbedOpsError:
    """Give the error of ours that a worker raised, or say that Ray gave up."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, EmbedOpsError):
        return type(cause)(*cause.args)
    return EngineError(f"Ray gave up: {type(error).__name__}: {str(error).strip()[-2000:]}\nRun the same command again to go on")


def read_dataset(folder: Location) -> ray.data.Dataset:
    """Read the Parquet files of a folder as a Ray Dataset."""
    return ray.data.read_parquet(folder.path, filesystem=folder.fs)
