"""Where a run was made, and by which command: what its report keeps of both."""

from __future__ import annotations

import platform
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from embed_ops.redaction import redacted


def machine() -> dict[str, Any]:
    """Say which machine the command ran on: host, processor, cores, memory in bytes."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                processor = value.strip()
                break
    return {
        "host": platform.node(),
        "processor": processor,
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
    }


def command() -> str | None:
    """Give the command line of this process, without secrets; None where a program called."""
    program, *words = sys.argv
    place = Path(program)
    if place.name == "embed-ops" or place.parts[-2:] == ("embed_ops", "__main__.py"):
        begin = ["embed-ops"]
    elif place.parent.name == "jobs":
        begin = ["python", "-m", f"jobs.{place.stem}"]
    else:
        return None
    return shlex.join([*begin, *map(redacted, words)])
