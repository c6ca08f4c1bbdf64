"""A stage's run directory: what is done there, and how it is begun and ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileType

from embed_ops.errors import RunError, StageError
from embed_ops.numerics.kinds import kind_of_type
from embed_ops.postprocessing.asked import Asked
from embed_ops.postprocessing.identity import (
    as_fitted,
    fingerprint_of,
    foreign_model,
    require_space,
    same_state,
)
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.postprocessing.whole_run import whole_run
from embed_ops.runs.columns import Label, VectorColumn
from embed_ops.runs.digests import CLUSTERS, DIGESTS_JSON, REPORT
from embed_ops.runs.directory import FOLDERS, RunDir
from embed_ops.runs.fingerprint import digest_of, require_same, versions_of
from embed_ops.runs.header import FINISHED, RUN_JSON, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.made_of import INPUT, stale_units
from embed_ops.runs.models import read_model
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows, told_parent
from embed_ops.runs.space import space_of
from embed_ops.runs.writer import RunWriter, known_header
from embed_ops.sources.base import hive_columns
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span
from embed_ops.stages.base import Model
from embed_ops.storage.files import file_info, locate, remove, remove_folder

_NO_COLUMNS = pa.schema([])


@dataclass
class StageRun(RunWriter):
    """One command on a stage's run directory."""

    asked: Asked
    rows: RunRows
    job: StageJob
    records: dict[str, Record]
    model: Any
    stale: tuple[str, ...] = ()
    """Units that an earlier command made of another state of the input; they are written again."""
    skipped: int = 0

    def __post_init__(self) -> None:
        """Make what every writer has, and count the units that are skipped."""
        super().__post_init__()
        self.skipped = len(self.done)

    @property
    def done(self) -> set[str]:
        """Units that are written."""
        return {record.unit for record in self.rows.records if record.unit in self.records}

    @property
    def older_model(self) -> bool:
        """Whether the model was fitted on an earlier state of the input."""
        applied = self.asked.model is not None or whole_run(self.asked.spec) is not None
        return not applied and self.header.fingerprint.get(INPUT) != self.rows.content

    @property
    def finished(self) -> bool:
        """Whether an earlier command came to its end and nothing has been lost since."""
        return (
            self.header.status == FINISHED
            and self.model is not None
            and not self.stale
            and len(self.done) == len(self.rows.records)
        )

    def publish_start(self) -> None:
        """Publish what the run is, before anything is computed."""
        self.begin(plan_of(self.rows.records), self._drop_stale)

    def _drop_stale(self) -> None:
        """Delete what an earlier state of the input has left."""
        if self.model is not None and len(self.done) < len(self.rows.records):
            # A copy by cluster holds the vectors of units that are about to be written anew.
            self.clear_work()
            remove_folder(self.run.root, CLUSTERS)
        for unit in sorted(self.records.keys() - self.done):
            self.run.remove_unit(self.records.pop(unit), self.name)

    @property
    def label(self) -> Label | None:
        """Column to compare clusters with."""
        name = getattr(self.asked.spec, "label", None)
        return None if name is None else self.rows.label(name)

    def take(self, written: Mapping[str, Any]) -> Record:
        """Keep the record of a unit that is written, as `write_columns` gives it."""
        record = Record.parse(written["record"])
        self.records[record.unit] = record
        self.journal.add(record, written["statistics"])
        return record

    def clear_work(self) -> None:
        """Delete what the fit has kept: the model and the data say it all."""
        remove_folder(self.run.root, WORK)


def plan_of(records: tuple[Record, ...]) -> Plan:
    """Plan a stage's run: a span for each unit of its input, so that `verify` can follow them."""
    spans, files = [], {}
    for number, record in enumerate(records):
        begin = record.unit.rpartition(".")
        pieces = [
            Piece(part["source"], part["begin"], part["end"], part["records"], 0) for part in record.ranges
        ]
        spans.append(Span(number, tuple(pieces or [Piece(begin[0], int(begin[2]), None, None, 0)])))
        for piece in spans[-1].pieces:
            files[piece.source] = SourceFile(piece.source, 0, 0, 0)
    return Plan(tuple(files.values()), tuple(spans), _NO_COLUMNS)


def open_stage(asked: Asked, *, refit: bool = False) -> StageRun:
    """Compare a stage with its run directory and its input.

    Nothing is written but records that were lost. Where the input has changed and all of it matters
    to each row, what an earlier command made is deleted.

    Raises:
        RunError: the input is not finished, or the run directory is another stage's, or of another
            input.
        StageError: the stage can't be fitted on this input.
    """
    began = time.time()
    asked = as_fitted(asked)
    rows = RunRows(locate(asked.input))
    run = RunDir(locate(asked.path))
    vectors = rows.vector(asked.spec.column)
    space = space_of(vectors, rows.header_of(vectors.run))
    attempt = new_attempt()
    applied = None if asked.model is None else foreign_model(asked)
    fingerprint = fingerprint_of(asked, rows, vectors)
    if refit:
        _empty(run)
    header = known_header(run)
    if header is not None and not same_state(asked.path, header, fingerprint):
        if _goes_on(run, asked, applied):
            fingerprint = header.fingerprint
        else:
            _empty(run)
            header = None
    if header is None:
        require_space(asked, space, vectors)
        header = RunHeader.new({}, fingerprint, {"versions": _versions()}, began)
    tree, parent = asked.spec.model_dump(mode="json"), told_parent(run.root, rows.root)
    header = replace(header, spec=tree, parent=parent, space=space)
    output = getattr(asked.spec, "output", None) or vectors.column
    digest = digest_of(fingerprint)
    job = StageJob(
        asked.spec,
        run.root,
        rows.root,
        vectors,
        rows.rows,
        asked.seed,
        output,
        digest,
        attempt,
        tuple(_copied(rows, name, output) for name in asked.spec.copied),
    )
    records, _ = run.load_records(digest, attempt) if header.attempts else ({}, [])
    theirs = {record.unit: record for record in rows.records}
    stale = stale_units(header, records, theirs)
    kept = {unit: record for unit, record in records.items() if unit not in stale or unit not in theirs}
    model = applied or read_model(run.root.child("model"))
    if model is not None:
        _require_width(model, asked, vectors)
    here = StageRun(run, attempt, began, header, asked, rows, job, kept, model, tuple(stale))
    _require_columns(here)
    if not here.finished and not here.fresh:
        require_same(asked.path, header.resolved["versions"], _versions())
    return here


def _copied(rows: RunRows, name: str, output: str) -> VectorColumn:
    """Find a column that is to be copied into the files of a stage.

    Raises:
        StageError: there is none, it holds vectors, or it has the name of the stage's own.
    """
    if any(name in hive_columns(record.unit) for record in rows.records):
        raise StageError(
            f"keep: {name!r} is a key=value folder of the source, which readers take from the path of each "
            "file: leave it out"
        )
    holder = rows.holder(name)
    if kind_of_type(holder.kind) is not None:
        raise StageError(
            f"keep: column {name!r} of {holder.run.path} holds vectors: read them there, where a row stands "
            "at the same place"
        )
    if name == output:
        raise StageError(
            f"keep: {name!r} is the vector column that the stage writes; name another, or another output"
        )
    return holder


def _goes_on(run: RunDir, asked: Asked, applied: Model | None) -> bool:
    """Tell whether a stage whose input has changed keeps what its unchanged units have.

    It does where a row's columns hang on that row and on a model that is there.
    """
    whole = whole_run(asked.spec)
    fitted = applied is not None or read_model(run.root.child("model")) is not None
    return fitted and (whole is None or whole.row_by_row)


def _require_width(model: Model, asked: Asked, vectors: VectorColumn) -> None:
    """Compare the width of the vectors that a model takes with those there are."""
    if model.dim not in (None, vectors.dim):
        raise StageError(
            f"{asked.model or asked.path}: its model takes vectors of width {model.dim}, "
            f"{vectors.run.path} has {vectors.dim}"
        )


def _require_columns(here: StageRun) -> None:
    """Look for the columns that a stage reads beside the vectors, before anything is fitted."""
    _ = here.label
    whole = whole_run(here.asked.spec)
    if whole is None:
        return
    if here.asked.model is not None:
        raise StageError(f"{here.asked.spec.kind}: {whole.no_model}")
    whole.require(here.rows, here.job.vectors)


def _versions() -> dict[str, str]:
    return versions_of("numpy", "pyarrow")


def _empty(run: RunDir) -> None:
    """Delete an earlier fit and what it gave; only in the run of a stage."""
    run.require_folder()
    run.require_own_folders()
    header = run.read_header()
    if header is None:
        return
    if header.parent is None:
        raise RunError(
            f"{run.root.path}: is not the run of a stage: nothing is deleted there; choose another "
            "output folder"
        )
    for folder in FOLDERS:
        remove_folder(run.root, folder)
    for name in (DIGESTS_JSON, REPORT, RUN_JSON):
        remove(run.root.child(name))


def is_run(address: str) -> bool:
    """Tell whether an address is a run directory."""
    return bool(file_info(locate(address).child(RUN_JSON)).type == FileType.File)
