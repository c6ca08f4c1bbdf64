"""All runs below a folder, a line each, to compare experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from embed_ops.analysis.tables import counted
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import EmbedOpsError, RunError
from embed_ops.redaction import redacted
from embed_ops.runs.catalog import Found, find_runs
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RUNNING, RunHeader
from embed_ops.runs.heartbeat import holder_of
from embed_ops.runs.rows import parent_of
from embed_ops.storage.listing import resolved
from embed_ops.storage.location import locate

DAMAGED, BROKEN_OFF = "damaged", "broken off"
"""What `status` says beside the words of a header: it can't be read; nobody is at work on it."""
_THREADS = 16
# Files that somebody has edited have other keys, and values of other types.
_UNREADABLE = (EmbedOpsError, OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError)
_TOLD = ("k", "dim", "method", "to", "metric", "threshold", "probe")
"""Fields of a stage that tell it from another of its kind."""


@dataclass(frozen=True)
class RunLine:
    """What is known of one run. What is None was not measured, or does not apply.

    Attributes:
        path: below the folder that was looked through.
        status: running, stopped or finished; "broken off" where it says running and nobody is at
            work on it; "damaged".
        wrong: a sentence for a damaged run, else "".
        kind: family of the encoder, or kind of the stage.
        model: what embeds, or the settings of the stage.
        parent: path of the run that a stage was made from, where that is below the folder too.
        rows, rejects: rows with a vector and without.
        dtype: in which vectors were computed.
        parity: least cosine to the reference, of the rows that were compared; `compared`: how many.
        rows_per_second, utilization: of the latest command.
        seconds: of all commands that came to their end; `cost`: of these, None without a price.
        started, finished: seconds since 1970.
        page: whether it has a `report.html`.
    """

    path: str
    status: str
    wrong: str = ""
    kind: str = ""
    model: str = ""
    parent: str | None = None
    rows: int | None = None
    rejects: int | None = None
    dtype: str | None = None
    parity: float | None = None
    compared: int | None = None
    rows_per_second: float | None = None
    utilization: float | None = None
    seconds: float | None = None
    cost: float | None = None
    started: float | None = None
    finished: float | None = None
    page: bool = False


def list_runs(folder: str, *, price: float | None = None, reporter: Reporter | None = None) -> list[RunLine]:
    """List the runs below a folder, stages below the runs that they were made from.

    Reads two small files of each run, and the manifest of one that is not finished. Runs that can't
    be read are lines too.

    Args:
        folder: address of a folder, on a disk or a store; a run itself, or above runs.
        price: of an hour on the machines that ran them.
        reporter: told what is done.

    Raises:
        RunError: there is no such folder.
        StorageError: it can't be listed.
    """
    reporter = reporter or Silent()
    reporter.say(f"looking for runs below {folder}")
    found = find_runs(locate(folder))
    reporter.say(f"reading {counted(len(found), 'run')}")
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(partial(_line, price), found))
    places = {resolved(run.root): run.name for run in found}
    lines = [replace(line, parent=None if above is None else places.get(above)) for line, above in read]
    return list(_in_order(lines))


def _in_order(lines: Sequence[RunLine]) -> Iterator[RunLine]:
    """Put stages below their runs; of one that is its own ancestor, where its name stands."""
    below: dict[str | None, list[RunLine]] = {}
    for line in lines:
        below.setdefault(line.parent, []).append(line)
    given: set[str] = set()

    def branch(line: RunLine) -> Iterator[RunLine]:
        if line.path not in given:
            given.add(line.path)
            yield line
            for stage in below.get(line.path, ()):
                yield from branch(stage)

    for line in [*below.get(None, ()), *lines]:
        yield from branch(line)


def depth_of(line: RunLine, lines: Mapping[str, RunLine]) -> int:
    """Count the runs that a stage was made from, one of the other, as far as they are listed."""
    depth, seen = 0, {line.path}
    while line.parent is not None and line.parent in lines and line.parent not in seen:
        line, depth = lines[line.parent], depth + 1
        seen.add(line.path)
    return depth


def _line(price: float | None, found: Found) -> tuple[RunLine, str | None]:
    """Read one run: its line, and where its parent is."""
    if found.wrong:
        return RunLine(found.name, DAMAGED, redacted(found.wrong)), None
    place = RunDir(found.root)
    try:
        header = place.read_header()
        if header is None:
            raise RunError(f"{found.root.path}: run.json has gone: the run was deleted")
        report = place.read_json("report.json") if "report.json" in found.files else None
        line = _figures(_described(found, header, price), header, report or {}, place)
    except (
        EmbedOpsError,
        OSError,
        pa.ArrowException,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        told = str(error) if isinstance(error, EmbedOpsError) else f"can't be read: {error!r}"
        return RunLine(found.name, DAMAGED, redacted(told)), None
    above = None if header.parent is None else resolved(parent_of(found.root, header.parent))
    return line, above


def _described(found: Found, header: RunHeader, price: float | None) -> RunLine:
    """Say what a run is, from its header."""
    status = str(header.status)
    if status == RUNNING:
        holder = holder_of(found.root)
        status = BROKEN_OFF if holder is None or holder.dead else RUNNING
    ended = [entry.finished - entry.started for entry in header.attempts if entry.finished is not None]
    seconds = float(sum(ended)) if ended else None
    stage = header.parent is not None
    encoder = {} if stage else header.spec["encoder"]
    return RunLine(
        found.name,
        status,
        kind=str(header.spec["kind"] if stage else encoder["family"]),
        model=_settings(header.spec) if stage else _model(header, encoder),
        dtype=header.resolved.get("dtype"),
        seconds=seconds,
        cost=None if price is None or seconds is None else price * seconds / 3600,
        started=float(header.started),
        finished=None if header.finished is None else float(header.finished),
        page="report.html" in found.files,
    )


def _model(header: RunHeader, encoder: Mapping[str, Any]) -> str:
    """Name a model: of a folder its last two names."""
    name = redacted(str((header.model or {}).get("model") or encoder["model"]))
    return "/".join(name.rstrip("/").split("/")[-2:]) if name.startswith(("/", ".")) else name


def _settings(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {spec[name]}" for name in _TOLD if spec.get(name) is not None)


def _figures(line: RunLine, header: RunHeader, report: Mapping[str, Any], place: RunDir) -> RunLine:
    """Add what was counted and measured; of a run that is not finished, what its records say."""
    if header.status != FINISHED or not report:
        records = list(place.manifest.read(timed=False).values())
        counts = sum(record.rows for record in records), sum(record.rejects for record in records)
    else:
        counts = int(report["rows"]), int(report.get("rejected", 0))
    parity = report.get("parity") or []
    return replace(
        line,
        rows=counts[0],
        rejects=None if header.parent is not None else counts[1],
        parity=min((float(item["min"]) for item in parity), default=None),
        compared=max((int(item["rows"]) for item in parity), default=None),
        rows_per_second=report.get("rows_per_second"),
        utilization=report.get("utilization"),
    )
