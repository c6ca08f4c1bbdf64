"""One embedding command on a run directory: what it finds there, and how it keeps what comes in."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from embed_ops.embedding.checks import check
from embed_ops.embedding.job import Job
from embed_ops.embedding.report import Measured
from embed_ops.embedding.resources import gpus_for, require_room, threads_for
from embed_ops.embedding.settings import Resolved, resolve, resume
from embed_ops.embedding.storing import anchored
from embed_ops.embedding.unit import Written
from embed_ops.encoders.registry import make_encoder, usable
from embed_ops.engine.base import Capacity
from embed_ops.engine.progress import Reporter
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of
from embed_ops.runs.header import RUN_JSON, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.ledger import Ledger, take_stock
from embed_ops.runs.parquet import reading
from embed_ops.runs.record import COUNTED, RETRIED, Record
from embed_ops.runs.writer import RunWriter
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Plan, unit_limits
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import full_address


@dataclass
class Attempt(RunWriter):
    """One embedding command on a run directory."""

    spec: Spec
    corpus: Corpus
    plan: Plan
    fingerprint: dict[str, Any]
    resolved: Resolved
    records: dict[str, Record]
    reporter: Reporter
    deadline: float | None
    stale: frozenset[str]
    measured: Measured = field(default_factory=Measured)

    @property
    def job(self) -> Job:
        """What workers are told."""
        digest = digest_of(self.fingerprint)
        roots = tuple(self.corpus.roots)
        return Job(
            self.spec,
            self.run.root,
            roots,
            self.plan.columns,
            self.resolved,
            digest,
            self.name,
            self.deadline,
        )

    def share_machine(self, capacity: Capacity, units: int) -> None:
        """Decide on a new run what a replica gets of the machines that are there.

        Raises:
            SpecError: no replica fits.
        """
        spec = self.spec
        if self.fresh:
            gpus = gpus_for(capacity, spec.resources, able=spec.encoder.GPUS == "always")
            weights = make_encoder(spec.encoder).weight_bytes()
            threads = threads_for(capacity, spec.resources, units, weights, gpus)
            self.resolved = replace(resolve(spec, gpus), threads_per_replica=threads)
        require_room(capacity, self.resolved.gpus_per_replica)

    def stock(self) -> Ledger:
        """Compare the plan with what is done."""
        return take_stock(self.plan, self.records, unit_limits(self.spec))

    def take(self, written: Written) -> Record:
        """Keep the record of a unit that is done."""
        record = written.record
        earlier = self.records.get(record.unit)
        new = record
        if RETRIED in record.flags and earlier is not None:
            # The record counts the whole unit; this attempt embedded what came back.
            new = replace(
                record,
                **{name: getattr(record, name) - getattr(earlier, name) for name in ("rows", *COUNTED)},
            )
        if self.measured.startup is None:
            self.measured.startup = record.seconds["started"] - self.began
        self.measured.add(replace(written, record=new))
        self.records[record.unit] = record
        self.journal.add(record, written.statistics)
        return record


def _records_of_units(
    run: RunDir, fingerprint_digest: str, attempt: str, stale: Collection[str], reporter: Reporter
) -> dict[str, Record]:
    """Load the records of the units that stay done: whole, and of no stale file."""
    records, broken = run.load_records(fingerprint_digest, attempt)
    if broken:
        reporter.say(
            f"{len(broken)} units are not as they were written and are embedded again: "
            f"{', '.join(broken[:3])}"
        )
    return {
        unit: record
        for unit, record in records.items()
        if not any(part["source"] in stale for part in record.ranges)
    }


def open_attempt(spec: Spec, reporter: Reporter, stop_after_s: float | None) -> Attempt:
    """Compare the spec with the run directory and the corpus.

    Only recovered records are written.
    """
    began, name = time.time(), new_attempt()
    checked = check(spec, reporter)
    header, encoder, fingerprint_now = checked.header, make_encoder(spec.encoder), checked.fingerprint
    with usable(spec.encoder):
        described = encoder.describe()
    records: dict[str, Record] = {}
    if header is None:
        resolved = resolve(spec)
    else:
        records = _records_of_units(checked.run, digest_of(fingerprint_now), name, checked.stale, reporter)
        with reading(f"{checked.run.root.path}/{RUN_JSON}", "restore it, or choose another folder"):
            resolved = Resolved(**header.resolved)
    deadline = None if stop_after_s is None else began + stop_after_s
    spec = _anchored(spec, described)
    tree = spec.model_dump(mode="json")
    header = (
        RunHeader.new(tree, fingerprint_now, asdict(resolved), began)
        if header is None
        else replace(header, spec=tree)
    )
    attempt = Attempt(
        checked.run,
        name,
        began,
        header,
        spec,
        checked.corpus,
        checked.plan,
        fingerprint_now,
        resolved,
        records,
        reporter,
        deadline,
        frozenset(checked.stale),
    )
    if not attempt.fresh and attempt.stock().works:
        attempt.resolved = resume(spec.sink.path, header.resolved, spec)
    return attempt


def _anchored(spec: Spec, described: Mapping[str, Any]) -> Spec:
    """Make the spec mean the same in every process and later.

    Full paths, and a hub branch as its commit, which `described` has of the model.
    """
    commit, adapter = described.get("commit"), described.get("adapter")
    model = {"revision": commit} if commit else {"model": full_address(spec.encoder.model)}
    if adapter is not None:
        # The folder of an adapter may stand in the place of its base model.
        base, of_adapter = described["model"], described["adapter_commit"]
        model["model"] = base if commit else full_address(base)
        model["adapter"] = f"{adapter}@{of_adapter}" if of_adapter else full_address(adapter)
    source: dict[str, Any] = {"path": tuple(full_address(path) for path in spec.source.paths)}
    if isinstance(spec.source, GraphSourceSpec):
        source["edges"] = tuple(full_address(path) for path in spec.source.edge_paths)
    return spec.model_copy(
        update={
            "source": spec.source.model_copy(update=source),
            "encoder": anchored(spec.encoder).model_copy(update=model),
            "sink": spec.sink.model_copy(update={"path": full_address(spec.sink.path)}),
        }
    )
