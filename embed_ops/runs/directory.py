"""The run directory: what one run wrote, read back and compared with what is asked for now."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType

from embed_ops.errors import RunError
from embed_ops.redaction import redacted_tree
from embed_ops.runs.digests import PLAN
from embed_ops.runs.header import RUN_JSON, RunHeader
from embed_ops.runs.heartbeat import attempt_is_dead
from embed_ops.runs.manifest import Manifest
from embed_ops.runs.names import require_inside
from embed_ops.runs.parquet import encode, read_footer, reading
from embed_ops.runs.plan_table import plan_table, read_plan
from embed_ops.runs.record import (
    DATA,
    MANIFEST,
    REJECT_FILE,
    REJECTS,
    REMOVED,
    SUFFIX,
    TMP,
    UNIT_FILE,
    Record,
    footer_of,
    messages_redacted,
    norms_of,
    reject_name,
    reject_unit,
)
from embed_ops.runs.recovery import recover
from embed_ops.runs.statistics import merged
from embed_ops.sources.plan import Plan
from embed_ops.storage.faults import patiently
from embed_ops.storage.files import Location, file_info, locate, publish, read_bytes, remove, walk

_RECOVERY_THREADS = 8
_AGAIN = "restore it, or run the command of this run again: it writes it anew"
FOLDERS = (DATA, REJECTS, MANIFEST, "model", "clusters", "work")
"""Folders of a run, of a stage's too, that hold what was computed."""


class RunDir:
    """The files of one run."""

    def __init__(self, root: Location) -> None:
        """Take the place; nothing is read or written yet."""
        self.root = root
        self.manifest = Manifest(root)

    @classmethod
    def at(cls, address: str) -> Self:
        """Take the place by its address."""
        return cls(locate(address))

    def require_folder(self) -> None:
        """Refuse a place that is a file.

        Raises:
            RunError: it is.
        """
        if file_info(self.root).type == FileType.File:
            raise RunError(f"{self.root.path}: is a file; sink.path must be a folder, or nothing yet")

    def require_own_folders(self) -> None:
        """Refuse to write into a run one of whose folders is a link that leads out of it.

        Raises:
            RunError: names the folder.
        """
        for folder in (*FOLDERS, TMP):
            self.root.child(f"{folder}/any").require_inside()

    def read_header(self) -> RunHeader | None:
        """Read `run.json`, None where there is no run.

        Raises:
            RunError: it is not a run's, or a newer version has written it.
        """
        place = self.root.child(RUN_JSON)
        content = read_bytes(place)
        return None if content is None else RunHeader.load(content, place.path)

    def write_header(self, header: RunHeader, attempt: str) -> None:
        """Replace `run.json`."""
        publish(self.root, RUN_JSON, header.dump(), attempt)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file, None where there is none.

        Raises:
            RunError: it is damaged.
        """
        place = self.root.child(name)
        content = read_bytes(place)
        try:
            tree = None if content is None else json.loads(content)
        except ValueError as error:
            raise RunError(f"{place.path}: can't be read: {error}; {_AGAIN}") from error
        if tree is not None and not isinstance(tree, dict):
            raise RunError(f"{place.path}: can't be read: holds no JSON object; {_AGAIN}")
        return tree

    def write_json(self, name: str, content: Mapping[str, Any], attempt: str) -> None:
        """Replace a JSON file; addresses in it are written without secrets."""
        text = json.dumps(redacted_tree(dict(content)), indent=2, default=str)
        publish(self.root, name, text.encode(), attempt)

    def write_plan(self, plan: Plan, attempt: str) -> None:
        """Replace the plan."""
        sink = pa.BufferOutputStream()
        pq.write_table(plan_table(plan), sink, compression="zstd")
        publish(self.root, PLAN, sink.getvalue(), attempt)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return bool(file_info(self.root.child(name)).type == FileType.File)

    def read_plan(self) -> Plan:
        """Read the plan.

        Raises:
            RunError: there is none, or it can't be read.
        """
        content = read_bytes(self.root.child(PLAN))
        if content is None:
            raise RunError(f"{self.root.path}: has no plan.parquet: not a run, or its first start failed")
        place = f"{self.root.path}/plan.parquet"
        repair = "restore it, or choose another sink.path"
        with reading(place, repair):
            plan = read_plan(pa.BufferReader(content))
        require_inside(pa.array([file.name for file in plan.files], pa.string()), place, "file", repair)
        return plan

    def load_records(self, fingerprint: str, attempt: str) -> tuple[dict[str, Record], list[str]]:
        """Find the units that are done.

        Listed files that the manifest knows, or whose footer is read back.

        Returns:
            records by unit, and the units whose file is not what the manifest says (they are
            computed again).
        """
        known = self.manifest.read(timed=False)
        sizes = {
            name.removesuffix(SUFFIX): size for name, size in walk(self.root, DATA) if name.endswith(SUFFIX)
        }
        rejects = dict(walk(self.root, REJECTS))
        records: dict[str, Record] = {}
        lost: list[str] = []
        for unit, size in sizes.items():
            record = known.get(unit)
            if record is None:
                lost.append(unit)
            elif size != record.bytes or (
                record.reject_file is not None and rejects.get(record.reject_file) != record.reject_bytes
            ):
                # Newer than its record, where a retry was killed, or damaged: the footer tells.
                lost.append(unit)
            else:
                records[unit] = record
        with ThreadPoolExecutor(_RECOVERY_THREADS) as pool:
            recovered = list(pool.map(lambda unit: recover(self.root, unit, fingerprint, attempt), lost))
        whole = [unit for unit in recovered if unit is not None]
        self.manifest.append(
            [unit.record for unit in whole], attempt, merged(unit.statistics for unit in whole)
        )
        broken = [unit for unit, again in zip(lost, recovered, strict=True) if again is None]
        return records | {unit.record.unit: unit.record for unit in whole}, broken

    def write_unit(
        self, record: Record, rows: pa.Table, rejects: pa.Table, fingerprint: str, version: str
    ) -> Record:
        """Write a unit, its rejects first.

        The data file, which says that the unit is done, appears last and whole.

        Args:
            record: of the unit; sizes, hashes, norms and the name of the reject file are not known.
            rows: the vectors and what stands beside them.
            rejects: with the kept columns, `reason` and `message`.
            fingerprint: digest of the run's.
            version: of embed-ops.

        Returns:
            the record with names, sizes, hashes and norms filled in.
        """
        if len(rejects):
            rejects = messages_redacted(rejects)
            content = encode(rejects, {"unit": record.unit, "fingerprint": fingerprint, "version": version})
            digest = hashlib.sha256(content).hexdigest()
            name = reject_name(record.unit, digest)
            publish(self.root, f"{REJECTS}/{name}", content, record.attempt)
            record = replace(record, reject_file=name, reject_bytes=content.size, reject_sha256=digest)
        content = encode(rows, footer_of(record, rows.schema, fingerprint, version))
        publish(self.root, f"{DATA}/{record.unit}{SUFFIX}", content, record.attempt)
        low, high = norms_of(rows)
        return replace(
            record,
            bytes=content.size,
            sha256=hashlib.sha256(content).hexdigest(),
            min_norm=low,
            max_norm=high,
        )

    def remove_unit(self, record: Record, attempt: str) -> None:
        """Delete a stale unit and strike its record.

        The data file first, so that it never stands without its rejects.
        """
        remove(self.root.child(f"{DATA}/{record.unit}{SUFFIX}"))
        if record.reject_file is not None:
            remove(self.root.child(f"{REJECTS}/{record.reject_file}"))
        self.manifest.append([replace(record, flags=(REMOVED,))], attempt)

    def require_empty(self) -> None:
        """Refuse a folder that holds units of a run, but not what says which run it is.

        Raises:
            RunError: names what is there.
        """
        lacking = PLAN if self.has(RUN_JSON) else RUN_JSON
        for folder in (DATA, REJECTS, MANIFEST):
            for name, _ in walk(self.root, folder):
                raise RunError(
                    f"{self.root.path}: has no {lacking}, but {folder}/{name}: neither empty nor a whole "
                    "run; restore it, or choose another sink.path"
                )

    def remove_stale(self, sources: Set[str], kept: Mapping[str, Record], attempt: str) -> None:
        """Delete the units that begin in these source files, and strike their records.

        Those in `kept` stay.
        """
        known = self.manifest.read(timed=False)
        for name in [name for name, _ in walk(self.root, DATA)]:
            unit = name.removesuffix(SUFFIX)
            if unit.rpartition(".")[0] in sources and unit not in kept and UNIT_FILE.fullmatch(name):
                if unit in known:
                    self.remove_unit(known[unit], attempt)
                else:
                    remove(self.root.child(f"{DATA}/{name}"))

    def remove_unnamed_rejects(self, done: Iterable[Record]) -> None:
        """Delete the reject files that dead attempts left: no data file names them.

        Only when no unit is missing.

        While units are missing another command may be about to write the data file that names one.
        What the records say is asked of the data file again, since another command may have written
        it later.
        """
        named = {record.reject_file for record in done}
        listed = [name for name, _ in walk(self.root, REJECTS) if REJECT_FILE.fullmatch(name)]
        for name in [name for name in listed if name not in named]:
            unit = reject_unit(name)
            content = read_bytes(self.root.child(f"{DATA}/{unit}{SUFFIX}"))
            if (
                content is None
                or read_footer(pq.read_metadata(pa.BufferReader(content)))["reject_file"] != name
            ):
                remove(self.root.child(f"{REJECTS}/{name}"))

    def clean(self, attempt: str) -> None:
        """Delete the temporary files of dead attempts."""
        if self.root.object_store:
            # Nothing is written there before it is whole.
            return
        selector = FileSelector(self.root.child(TMP).path, allow_not_found=True)
        for folder in patiently("listed", selector.base_dir, lambda: self.root.fs.get_file_info(selector)):
            if (
                folder.type == FileType.Directory
                and folder.base_name != attempt
                and attempt_is_dead(folder.base_name)
            ):
                self.remove_temporary(folder.base_name)

    def remove_temporary(self, attempt: str) -> None:
        """Delete the temporary files of an attempt."""
        if self.root.object_store:
            return
        place = self.root.child(f"{TMP}/{attempt}")
        place.require_inside()
        folder = place.path
        with contextlib.suppress(FileNotFoundError):
            patiently("deleted", folder, lambda: self.root.fs.delete_dir(folder))
