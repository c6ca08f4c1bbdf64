"""Who claims which share of the machine: readers, replicas, writers."""

from __future__ import annotations

from embed_ops.engine.base import Capacity, Claim
from embed_ops.errors import SpecError
from embed_ops.spec.encoder import AUTO
from embed_ops.spec.spec import ResourcesSpec

UNITS_IN_A_REPLICA = 2
"""Units that a replica on a GPU has in hand: one computes, the other is read or packed."""
SPANS_PER_WAVE = 4_000
"""Spans of one Dataset: the engine keeps a little of every block for as long as the Dataset lives
(ray issue 66016)."""
READER_CPUS = 0.25
WRITER_CPUS = 0.25
CPUS_PER_READER = 2
"""One reader tokenises for far more than two CPU replicas; more of them would only take their
cores."""
IMAGE_READERS_PER_CORE = 2
"""Decoding photographs can take as long as a small model takes, and one reader begins its next
span while another decodes."""
READ_CORES = READER_CPUS / CPUS_PER_READER
"""What all readers claim together, of each core."""
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
"""Times that the engine runs a reading or writing task again whose process or node died. Left to
itself it would do so for ever."""
NO_PROGRESS_S = 6 * 3600
"""Patience of the engine's own guard, which counts only whole units as progress; ours looks into
them (`engine/watch.py`)."""
TRIAL_PATIENCE = 8
"""Times `hang_seconds` that the comparison of the first rows may take: it embeds them several
times, one by one too."""


def gpus_for(capacity: Capacity, resources: ResourcesSpec, *, able: bool) -> float:
    """Decide the GPUs of a replica: what the spec says, else one where there is any.

    `able`: whether the family computes on GPUs.
    """
    if resources.gpus_per_replica != AUTO:
        return resources.gpus_per_replica
    return 1.0 if able and capacity.devices >= 1 else 0.0


def threads_for(
    capacity: Capacity, resources: ResourcesSpec, units: int, weight_bytes: int, gpus: float
) -> int:
    """Decide the CPU threads of a replica.

    One, unless units or memory allow fewer replicas than there are cores.

    Replicas of one thread do more together than fewer of many: a product split over threads waits
    for its slowest part (`bench/scaling.py` measures it).
    """
    if resources.threads_per_replica != AUTO:
        return resources.threads_per_replica
    if gpus > 0 or resources.replicas != AUTO:
        return 1
    in_memory = capacity.memory // (REPLICA_BYTES + WEIGHT_COPIES * weight_bytes)
    replicas = max(1, min(units, capacity.cores, in_memory))
    return max(1, min(capacity.cores // replicas, capacity.cores_of_a_node, MOST_THREADS))


def replica_count(
    capacity: Capacity, resources: ResourcesSpec, units: int, threads: int, gpus: float
) -> tuple[int, int]:
    """Decide least and most replicas.

    "auto": what the cluster has room for beside its readers, and no more than units.
    """
    if isinstance(resources.replicas, int):
        return resources.replicas, resources.replicas
    if isinstance(resources.replicas, tuple):
        return resources.replicas
    if gpus > 0:
        places = int(capacity.devices / gpus)
    else:
        places = capacity.cores // threads
    places = max(1, min(places, units))
    return places, places


def readers_of(cores: int, modality: str, gpus: float) -> tuple[int, float]:
    """Decide how many readers run at once, and the CPUs that each claims.

    Beside a GPU there are as many as cores: it takes ten million tokens a second where a core
    makes half a million, and its host needs one core.
    """
    if modality == "image":
        readers = IMAGE_READERS_PER_CORE * cores
    else:
        readers = cores if gpus > 0 else max(1, cores // CPUS_PER_READER)
    return readers, min(READER_CPUS, READ_CORES * cores / readers)


def replica_claim(capacity: Capacity, threads: int, gpus: float, replicas: int = 1) -> Claim:
    """Say what each of so many replicas claims.

    Where they are more than the cores, less, so that readers find room.
    """
    if gpus > 0:
        return Claim(cores=READER_CPUS, devices=gpus)
    room = max(0.5, capacity.cores - READER_CPUS - WRITER_CPUS)
    share = min(REPLICA_CPU_SHARE, room / (replicas * threads))
    return Claim(cores=round(threads * share, 3))


def require_room(capacity: Capacity, gpus: float) -> None:
    """Refuse a replica that can never be placed, where no node will join.

    Claims of cores always fit (`replica_claim`).

    Raises:
        SpecError: names what is asked for and what is there.
    """
    if gpus > capacity.devices and not capacity.elastic:
        raise SpecError(
            f"resources.gpus_per_replica: a replica needs {gpus:g} GPU, and this machine has "
            f"{capacity.devices:g}; set it to 0 to compute on CPUs in a new run"
        )
