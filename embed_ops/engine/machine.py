"""What this machine has: cores, memory, GPUs; without torch or Ray."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_GPUS = Path("/proc/driver/nvidia/gpus")
_MEMORY_SHARE = 0.7
"""Of the free memory: the rest is the page cache's, and this process's."""


def cores() -> int:
    """Count the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def free_memory() -> int:
    """Give the bytes that workers may hold."""
    free, most = psutil.virtual_memory().available, _limit("memory.max")
    if most.isdigit():
        held = _limit("memory.current")
        free = min(free, int(most) - (int(held) if held.isdigit() else 0))
    return max(0, int(_MEMORY_SHARE * free))


def gpus() -> list[str]:
    """List the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(_GPUS.iterdir())))] if _GPUS.is_dir() else []


def _limit(name: str) -> str:
    """Read what a container is limited to, "" where it is not."""
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""
