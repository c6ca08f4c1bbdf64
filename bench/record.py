"""Records of measurements: what ran, on what, how often, and what came of it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("embed-ops", "ray", "torch", "transformers", "sentence-transformers", "pyarrow")


def processor() -> str:
    """Name the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Give median, least and greatest of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def gpu() -> str | None:
    """Name the GPU, None where torch has none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def write_record(
    name: str, settings: dict[str, Any], figures: dict[str, Any], folder: Path = RESULTS
) -> Path:
    """Write one record to `bench/results/`, or another folder."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    record = {
        "bench": name,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "gpu": gpu()},
        "python": platform.python_version(),
        "versions": versions,
        "settings": settings,
        "figures": figures,
    }
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}_{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
