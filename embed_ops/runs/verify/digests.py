"""What `verify` asks of the files that no record has: plan, manifest, report, model."""

from __future__ import annotations

from collections.abc import Iterator

from embed_ops.runs.digests import CLUSTERS, DIGESTS_JSON, MODEL, digest_of, listed, parse_digests
from embed_ops.runs.header import FINISHED, RUN_JSON, RunHeader, as_written
from embed_ops.runs.record import MANIFEST
from embed_ops.runs.verify.verification import Difference
from embed_ops.storage.files import Location, read_bytes

_FOLDERS = (MANIFEST, MODEL, CLUSTERS)


def against_digests(root: Location, header: RunHeader) -> Iterator[Difference]:
    """Compare `run.json` with its checksum, and files of a finished run with `digests.json`.

    A run that is not finished has no such file, and neither has one of before there were any.
    """
    if not as_written(read_bytes(root.child(RUN_JSON)) or b"{}"):
        yield Difference(RUN_JSON, "changed since it was written: it holds another checksum of itself")
    if header.status != FINISHED or header.digests is None:
        return
    content = read_bytes(root.child(DIGESTS_JSON))
    if content is None:
        yield Difference(DIGESTS_JSON, f"missing: the file is not there, and {RUN_JSON} has its checksum")
        return
    if digest_of(content) != header.digests:
        yield Difference(DIGESTS_JSON, f"changed since it was written: {RUN_JSON} has another checksum of it")
        return
    told = parse_digests(content)
    for name, digest in told.items():
        file = read_bytes(root.child(name))
        if file is None:
            yield Difference(name, "missing: the file is not there")
        elif digest_of(file) != digest:
            yield Difference(name, f"changed since it was written: {DIGESTS_JSON} has another sha256")
    for name in listed(root, _FOLDERS):
        if name not in told:
            yield Difference(name, "was not there when the run was finished")
