"""Checksums of the files of a run that no record has: `digests.json`.

It is written when a run is finished, and `run.json` holds its own sha256. A command that works on
the run again takes it away, so that it never tells of files that are being changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from embed_ops.runs.record import MANIFEST
from embed_ops.storage.files import Location, publish, read_bytes, walk

DIGESTS_JSON = "digests.json"
PLAN, REPORT = "plan.parquet", "report.json"
MODEL, CLUSTERS = "model", "clusters"
_FOLDERS = (MANIFEST, MODEL)

Digests = Mapping[str, str]
"""sha256 of files, 64 hexadecimal digits, by their path in the run."""


def digest_of(content: bytes) -> str:
    """Give the sha256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def listed(root: Location, folders: Iterable[str]) -> list[str]:
    """List the files below some folders of a run, by their paths in the run."""
    return [f"{folder}/{name}" for folder in folders for name, _ in walk(root, folder)]


def digests_of(root: Location, names: Iterable[str]) -> dict[str, str]:
    """Read files of a run and hash them; those that are not there are left out."""
    contents = ((name, read_bytes(root.child(name))) for name in names)
    return {name: digest_of(content) for name, content in contents if content is not None}


def write_digests(root: Location, attempt: str, known: Digests) -> str:
    """Write the checksums of a run that has everything but its last `run.json`.

    Args:
        root: the run directory.
        attempt: the command at work.
        known: of files that were hashed when they were written.

    Returns:
        the sha256 of the file itself.
    """
    read = digests_of(root, [PLAN, REPORT, *listed(root, _FOLDERS)])
    return publish_digests(root, attempt, {**read, **known})


def publish_digests(root: Location, attempt: str, digests: Digests) -> str:
    """Write `digests.json`; gives its own sha256."""
    content = json.dumps(dict(sorted(digests.items())), indent=1).encode()
    publish(root, DIGESTS_JSON, content, attempt)
    return digest_of(content)


def unchanged(root: Location, name: str, digest: str | None) -> bool:
    """Tell whether a file of a finished run is as it was when the run was finished.

    Args:
        root: the run directory.
        name: of the file.
        digest: sha256 of `digests.json`; None for runs of before there was one, which are believed.
    """
    content = read_bytes(root.child(DIGESTS_JSON))
    if digest is None:
        return True
    if content is None or digest_of(content) != digest:
        return False
    return digests_of(root, [name]).get(name) == parse_digests(content).get(name)


def parse_digests(content: bytes) -> dict[str, str]:
    """Read what `publish_digests` wrote.

    Raises:
        ValueError: it is none.
    """
    told = json.loads(content)
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError("not a table of checksums")
    return told
