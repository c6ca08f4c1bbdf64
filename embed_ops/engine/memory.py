"""How much memory this process has held."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path


def private_memory() -> int:
    """Measure the most bytes this process has held.

    Without those that it shares with the object store now.
    """
    shared = 0
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        shared = next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem:")), 0)
    return max(0, peak_memory() - shared)


def peak_memory() -> int:
    """Measure the most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
